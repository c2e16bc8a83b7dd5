"""The layer x position heat map of the primary metric on the choose split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.rows import (
    NO_VALUE,
    Series,
    Sweep,
    SweepRow,
    layers_of,
    place,
    positions_of,
    series_of,
)
from probekit.reports.words import (
    CHANCE,
    count,
    kind_name,
    metric_name,
    number,
    penalty,
    plot_text,
    upper_first,
    with_interval,
)

Cells = list[list[SweepRow | None]]
"""Positions x layers; None where a cell was not fitted."""

CELL, SMALL_CELL = 30, 23
"""Height of a cell in pixels; the small one where there are many rows, to fit a printed page."""
SPAN = 0.2
"""The colour scale covers at least this much above chance, so that noise does not look like a map."""


def heatmap_figure(sweep: Sweep) -> go.Figure:
    """Draw one panel a series: layers across, positions down, the chosen cell framed."""
    rows, metric = sweep.rows, sweep.primary
    all_series, positions, layers = series_of(rows), positions_of(rows), layers_of(rows)
    many = len(all_series) > 1
    gap = 46 if many else 0
    cell = CELL if len(all_series) * len(positions) <= 16 else SMALL_CELL
    plot_height = len(all_series) * cell * len(positions) + gap * (len(all_series) - 1)
    figure = make_subplots(
        rows=len(all_series),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=gap / plot_height if many else 0,
    )
    for index, series in enumerate(all_series, start=1):
        cells = grid(rows, series, layers, positions)
        if any(row and math.isnan(_value(row, metric)) for line in cells for row in line):
            figure.add_trace(_missing(cells, metric, layers), row=index, col=1)
        figure.add_trace(_panel(cells, metric, layers), row=index, col=1)
        _mark_chosen(figure, sweep, series, positions, index)
        if many:
            _name_panel(figure, series, index)
    figure.update_xaxes(
        **theme.layer_ticks(layers, 26), range=[_edges(layers)[0], _edges(layers)[-1]],
        showgrid=False, showline=False, ticks="",
    )  # fmt: skip
    figure.update_xaxes(title_text="Layer", row=len(all_series), col=1)
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(positions))),
        ticktext=[plot_text(position, 18) for position in positions],
        range=[len(positions) - 0.5, -0.5], showgrid=False, showline=False, ticks="",
        ticklabelstandoff=5,
    )  # fmt: skip
    if not many:
        figure.update_yaxes(title_text="Position" if len(positions) > 1 else None)
    figure.update_layout(coloraxis=_coloraxis(rows, metric))
    theme.finish(
        figure,
        title=f"{upper_first(metric_name(metric))} by layer and position",
        subtitle=f"choose split, n = {count(sweep.n['choose'])} {sweep.unit}, "
        f"{count(len(rows))} cells; the black frame is the cell that was chosen",
        plot_height=plot_height,
        head=72 if many else 52,
    )
    # The scale hangs from the title, in pixels, wherever the panels begin.
    below = 1 - 54 / figure.layout.height
    return figure.update_layout(coloraxis_colorbar_y=below)


def grid(
    rows: Sequence[SweepRow], series: Series, layers: list[int], positions: list[str]
) -> Cells:
    """Return the rows of a series as positions x layers, None where a cell was not fitted."""
    found = {
        (row.position, place(row, list(rows)).layer): row
        for row in rows
        if place(row, list(rows)).series == series
    }
    return [[found.get((position, layer)) for layer in layers] for position in positions]


def _missing(cells: Cells, metric: str, layers: list[int]) -> go.Heatmap:
    """Return grey squares where a cell was fitted but its metric has no value."""
    return go.Heatmap(
        z=[
            [1.0 if row and math.isnan(_value(row, metric)) else None for row in line]
            for line in cells
        ],
        x=layers,
        y=list(range(len(cells))),
        colorscale=[[0, theme.FAINT], [1, theme.FAINT]],
        showscale=False,
        hovertemplate="no value<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )


def _panel(cells: Cells, metric: str, layers: list[int]) -> go.Heatmap:
    values = [[_value(row, metric) for row in line] for line in cells]
    compact = len(layers) > 16
    fits = len(layers) <= 32
    text = [[_cell_text(value, compact=compact) for value in line] for line in values]
    hover = [[_hover(row, metric) for row in line] for line in cells]
    return go.Heatmap(
        z=[theme.known(line) for line in values],
        x=layers,
        y=list(range(len(cells))),
        coloraxis="coloraxis",
        text=text if fits else None,
        texttemplate="%{text}" if fits else None,
        textfont=dict(size=9 if len(layers) > 24 else 10 if compact else 11),
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )


def _value(row: SweepRow | None, metric: str) -> float:
    return row.choose.get(metric, NO_VALUE).value if row else math.nan


def _cell_text(value: float, *, compact: bool) -> str:
    if math.isnan(value):
        return ""
    text = number(round(value, 2))
    return text.replace("0.", ".", 1) if compact else text


def _hover(row: SweepRow | None, metric: str) -> str:
    if row is None:
        return ""
    where = "embedding" if row.site == "resid_pre" else f"layer {row.layer}"
    value = with_interval(row.choose.get(metric, NO_VALUE), 3)
    return f"{where}, {plot_text(row.position)}<br>{metric_name(metric)} {value}<br>l2 {penalty(row.l2)}"


def _coloraxis(rows: list[SweepRow], metric: str) -> dict[str, object]:
    values = [value for row in rows if (value := _value(row, metric)) == value]
    chance = CHANCE.get(metric)
    low = chance if chance is not None else min(values, default=0.0)
    high = max([low + SPAN, *values])
    return dict(
        cmin=low,
        cmax=high,
        colorscale=[list(stop) for stop in theme.SEQUENTIAL],
        colorbar=dict(
            orientation="h", x=0, xref="paper", xanchor="left", xpad=0, y=1, yref="container",
            yanchor="top", ypad=0, thickness=9, len=200, lenmode="pixels", outlinewidth=0,
            nticks=5, tickfont=dict(size=11),
        ),
    )  # fmt: skip


def _mark_chosen(
    figure: go.Figure, sweep: Sweep, series: Series, positions: list[str], panel: int
) -> None:
    where = place(sweep.chosen, sweep.rows)
    if where.series != series or sweep.chosen.position not in positions:
        return
    y = positions.index(sweep.chosen.position)
    layers = layers_of(sweep.rows)
    edges, x = _edges(layers), layers.index(where.layer)
    figure.add_shape(
        type="rect", x0=edges[x], x1=edges[x + 1], y0=y - 0.5, y1=y + 0.5,
        line=dict(color=theme.BLACK, width=2.2), row=panel, col=1,
    )  # fmt: skip


def _edges(layers: list[int]) -> list[float]:
    """Return where the cells of the layers begin and end: half way to the next layer there is."""
    middle = [(a + b) / 2 for a, b in zip(layers, layers[1:], strict=False)]
    first = middle[0] - layers[0] if middle else 0.5
    last = layers[-1] - middle[-1] if middle else 0.5
    return [layers[0] - first, *middle, layers[-1] + last]


def _name_panel(figure: go.Figure, series: Series, panel: int) -> None:
    figure.add_annotation(
        text=f"<b>{kind_name(series.kind, series.head)}</b>, {series.site}",
        x=0, xref="x domain" if panel == 1 else f"x{panel} domain", xanchor="left",
        y=1, yref="y domain" if panel == 1 else f"y{panel} domain", yanchor="bottom", yshift=2,
        showarrow=False, font=dict(size=12),
    )  # fmt: skip
