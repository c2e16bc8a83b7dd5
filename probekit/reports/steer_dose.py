"""Dose-response figures: what a measure is at each dose, a panel a measure, all on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.curves import Grid
from probekit.reports.steer_axis import (
    DoseAxis,
    dose_axis,
    dose_ticks,
    measure_axis,
    unusable_bands,
)
from probekit.reports.steer_rows import Measure, Reference, Steer
from probekit.reports.steer_traces import SHADE, legend_names, panel_traces, unusable_key
from probekit.reports.steer_words import COEFF, is_share, report_n, unit_title, wrapped
from probekit.reports.words import number, plot_text, upper_first

MOST = 9
"""Panels of one figure at most: three rows fit on a printed page."""
LABELS = 150
"""Room in pixels right of a panel for the names of reference lines."""

_LEFT, _RIGHT, _GAP = 64, 14, 78


def dose_figures(steer: Steer, measures: Sequence[Measure], *, title: str) -> list[go.Figure]:
    """Draw the measures in as many figures as they need, at most `MOST` panels in each."""
    parts = [measures[start : start + MOST] for start in range(0, len(measures), MOST)]
    names = [title if not index else f"{title}, continued" for index in range(len(parts))]
    return [dose_figure(steer, part, title=name) for part, name in zip(parts, names, strict=True)]


def dose_figure(steer: Steer, measures: Sequence[Measure], *, title: str) -> go.Figure:
    """Draw one panel a measure.

    Parameters
    ----------
    steer
        The run.
    measures
        What to draw, a panel each, left to right and down. The score alone gets the reference
        lines of the probe's own data.
    title
        The figure's title.
    """
    grid = _grid(len(measures))
    references = steer.reference if [item.name for item in measures] == ["score"] else []
    right = LABELS if references else _RIGHT
    inside = theme.WIDTH - _LEFT - right
    figure = make_subplots(
        rows=grid.down,
        cols=grid.across,
        horizontal_spacing=_GAP / inside if grid.across > 1 else 0,
        vertical_spacing=grid.gap / grid.height if grid.down > 1 else 0,
    )
    pixels = (inside - _GAP * (grid.across - 1)) / grid.across
    axis = dose_axis(steer, pixels)
    bands = unusable_bands(steer, axis)
    names = [_panel_title(item, pixels) for item in measures] if len(measures) > 1 else []
    for index, measure in enumerate(measures):
        cell = grid.cell(index)
        figure.add_traces(
            panel_traces(steer, measure, axis, legend=index == 0),
            rows=cell["row"],
            cols=cell["col"],
        )
        _shade(figure, bands, axis, index)
        _axes(figure, steer, measure, grid, index, dose_ticks(steer, axis, pixels), references)
        if names:
            _title(figure, names[index], index)
    if bands:
        figure.add_trace(unusable_key(), row=1, col=1)
    for index, item in enumerate(references):
        _reference(figure, item, axis, index)
    _spread_labels(figure, steer, measures[0], references, grid)
    title_x = "Model" if steer.ablate_only else COEFF
    _layout_axes(figure, grid, len(measures), axis, title_x)
    return theme.finish(
        figure,
        title=title,
        subtitle=report_n(steer),
        plot_height=grid.height,
        legend=legend_names(steer, unusable=bool(bands)),
        left=_LEFT,
        right=right,
        bottom=56,
        head=(44 if any("<br>" in name for name in names) else 30) if names else 12,
    )


def _grid(panels: int) -> Grid:
    if panels == 1:
        return Grid(1, 1, 320, 0)
    across = 2 if panels in (2, 4) else 3
    return Grid(across, math.ceil(panels / across), 220 if across == 2 else 170, 92)


def _panel_title(measure: Measure, pixels: float) -> str:
    return wrapped(upper_first(measure.label), int((pixels + 30) / (12 * 0.56)))


def _title(figure: go.Figure, text: str, index: int) -> None:
    figure.add_annotation(
        text="<br>".join(f"<b>{row}</b>" for row in text.split("<br>")),
        x=0, xref=f"{_axis('x', index)} domain", xanchor="left", xshift=-30,
        y=1, yref=f"{_axis('y', index)} domain", yanchor="bottom", yshift=4,
        showarrow=False, align="left", font=dict(size=12),
    )  # fmt: skip


def _shade(
    figure: go.Figure, bands: Sequence[tuple[float, float]], axis: DoseAxis, index: int
) -> None:
    """Shade doses that are not usable; set the ablated model apart with a thin line."""
    where = dict(xref=_axis("x", index), yref=f"{_axis('y', index)} domain", layer="below")
    for left, right in bands:
        figure.add_shape(
            type="rect", x0=left, x1=right, y0=0, y1=1, fillcolor=SHADE, line_width=0, **where
        )
    if not math.isnan(axis.slot):
        figure.add_shape(
            type="line", x0=axis.edge, x1=axis.edge, y0=0, y1=1,
            line=dict(color=theme.FAINT, width=1), **where,
        )  # fmt: skip


def _axes(
    figure: go.Figure,
    steer: Steer,
    measure: Measure,
    grid: Grid,
    index: int,
    ticks: dict[str, object],
    references: Sequence[Reference],
) -> None:
    cell, share = grid.cell(index), is_share(measure)
    figure.update_xaxes(**ticks, **cell)
    vertical = measure_axis(steer, measure, [item.mean for item in references])
    figure.update_yaxes(
        **vertical.layout(),
        title=dict(
            text=wrapped(upper_first(unit_title(measure)), int(grid.each / 6.6)),
            font=dict(size=11.5),
        ),
        **(dict(tickformat=".0%") if share else {}),
        **cell,
    )


def _layout_axes(figure: go.Figure, grid: Grid, panels: int, axis: DoseAxis, name: str) -> None:
    figure.update_xaxes(range=[axis.low, axis.high], showgrid=False)
    for index in range(grid.down * grid.across):
        if index >= panels:
            figure.update_xaxes(visible=False, **grid.cell(index))
            figure.update_yaxes(visible=False, **grid.cell(index))
        elif index + grid.across >= panels:
            title = dict(text=name, font=dict(size=11.5))
            figure.update_xaxes(title=title, **grid.cell(index))


def _reference(figure: go.Figure, item: Reference, axis: DoseAxis, index: int) -> None:
    dash = ("longdash", "dashdot", "dash", "dot")[index % 4]
    line = theme.reference([axis.low, axis.high], [item.mean, item.mean], dash, item.name)
    figure.add_trace(line.update(line=dict(color=theme.GREEN, width=1.2)), row=1, col=1)


def _spread_labels(
    figure: go.Figure,
    steer: Steer,
    measure: Measure,
    references: Sequence[Reference],
    grid: Grid,
) -> None:
    """Name every reference right of its panel, names that would touch moved apart."""
    if not references:
        return
    ends = measure_axis(steer, measure, [item.mean for item in references])
    scale = grid.each / (ends.high - ends.low)
    places = [(item.mean - ends.low) * scale for item in references]
    for item, place, moved in zip(references, places, theme.spread(places, 30), strict=True):
        sd = "" if math.isnan(item.sd) else f" ± {number(item.sd)}"
        figure.add_annotation(
            x=1, xref="x domain", xanchor="left", xshift=6, y=item.mean, yref="y",
            yshift=moved - place, showarrow=False, align="left",
            text=f"{plot_text(item.name, 20)}<br>{number(item.mean)}{sd}",
            font=dict(size=11, color=theme.GREEN),
        )  # fmt: skip


def _axis(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"
