"""Layer curves: the primary metric over depth, a line a position, with controls as references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.rows import (
    NO_VALUE,
    Metric,
    Series,
    Sweep,
    layers_of,
    place,
    positions_of,
    series_of,
)
from probekit.reports.verdict import control_metric
from probekit.reports.words import (
    CHANCE,
    control_name,
    count,
    metric_name,
    number,
    plot_text,
    series_name,
    upper_first,
    with_interval,
)

TOGETHER = 3
"""Up to this many lines share one panel; beyond, every position gets its own."""


class Line(NamedTuple):
    """One curve: what it is called and its metric at each layer."""

    name: str
    series: Series
    position: str
    layers: list[int]
    metrics: list[Metric]


class Reference(NamedTuple):
    """A horizontal line with a name."""

    name: str
    value: float


class Look(NamedTuple):
    """Colour, dash and marker of a line."""

    color: str
    dash: str
    symbol: str


def lines(sweep: Sweep, metric: str) -> list[Line]:
    """Return one line per series and position, layers in order, the embedding as layer -1."""
    all_series = series_of(sweep.rows)
    found: dict[tuple[Series, str], dict[int, Metric]] = {}
    for row in sweep.rows:
        where = place(row, sweep.rows)
        cell = found.setdefault((where.series, row.position), {})
        cell[where.layer] = row.choose.get(metric, NO_VALUE)
    result = []
    for position in positions_of(sweep.rows):
        for series in all_series:
            cells = found.get((series, position))
            if cells:
                layers = sorted(cells)
                name = position
                if len(all_series) > 1:
                    name = f"{position}, {series_name(series, all_series=all_series)}"
                result.append(Line(name, series, position, layers, [cells[at] for at in layers]))
    return result


def control_lines(sweep: Sweep, metric: str, position: str) -> list[Line]:
    """Return, at the chosen series and a position, each per-cell control over the layers."""
    series = place(sweep.chosen, sweep.rows).series
    cells = {
        place(row, sweep.rows).layer: row.controls
        for row in sweep.rows
        if row.position == position and place(row, sweep.rows).series == series
    }
    layers = sorted(cells)
    names = dict.fromkeys(name for layer in layers for name in cells[layer])
    return [
        Line(
            control_name(name),
            series,
            position,
            layers,
            [control_metric(cells[layer].get(name, {}), metric) for layer in layers],
        )
        for name in names
    ]


def references(sweep: Sweep) -> list[Reference]:
    """Return the controls that do not depend on the layer, and chance, that have a value."""
    found = []
    for name in ("tfidf", "length"):
        value = control_metric(sweep.controls.get(name, {}), sweep.primary).value
        if not math.isnan(value):
            found.append(Reference(control_name(name), value))
    if sweep.primary in CHANCE:
        found.append(Reference("chance", CHANCE[sweep.primary]))
    return found


def curves_figure(sweep: Sweep) -> go.Figure:
    """Draw every line in one panel while few, else a panel a position with the others in grey."""
    drawn = lines(sweep, sweep.primary)
    if len(layers_of(sweep.rows)) == 1:
        return _points_figure(sweep, drawn)
    if len(drawn) <= TOGETHER:
        return _one_panel(sweep, drawn)
    return _panels(sweep, drawn)


def _one_panel(sweep: Sweep, drawn: list[Line]) -> go.Figure:
    figure = go.Figure()
    names = []
    for index, line in enumerate(drawn):
        _add_line(figure, line, _look(index), name=line.name)
        names.append(line.name)
    controls = control_lines(sweep, sweep.primary, sweep.chosen.position)
    for index, line in enumerate(controls):
        name = f"{line.name} (at {plot_text(line.position, 14)})"
        _add_control(figure, line, index, name=name)
        names.append(name)
    height = 330
    low, high = _y_range(sweep, drawn, controls)
    _add_references(figure, sweep, low, high, height, axes=[("x", "y")], labelled=[("x", "y")])
    _add_chosen(figure, sweep)
    _axes(figure, sweep, low, high, most=16)
    return _finish(figure, sweep, height, names)


def _panels(sweep: Sweep, drawn: list[Line]) -> go.Figure:
    positions = positions_of(sweep.rows)
    # At most three rows, so that the figure fits on a printed page.
    across = 2 if len(positions) in (2, 4) else min(len(positions), 3)
    across = max(across, math.ceil(len(positions) / 3))
    down = math.ceil(len(positions) / across)
    each, gap = (230 if across < 3 else 170), 72
    height = down * each + (down - 1) * gap
    figure = make_subplots(
        rows=down, cols=across, shared_yaxes=True, horizontal_spacing=0.025,
        vertical_spacing=gap / height if down > 1 else 0,
    )  # fmt: skip
    all_series = series_of(sweep.rows)
    below = [line for at in positions for line in control_lines(sweep, sweep.primary, at)]
    low, high = _y_range(sweep, drawn, below)
    for index, position in enumerate(positions):
        cell = dict(row=index // across + 1, col=index % across + 1)
        for line in drawn:
            if len(all_series) == 1 and line.position != position:
                _add_background(figure, line, cell)
        for line in drawn:
            if line.position == position:
                order = all_series.index(line.series)
                name = series_name(line.series, all_series=all_series)
                _add_line(figure, line, _look(order), name=name, legend=index == 0, cell=cell)
        for order, line in enumerate(item for item in below if item.position == position):
            _add_control(figure, line, order, name=line.name, legend=index == 0, cell=cell)
        _panel_title(figure, position, index, chosen=position == sweep.chosen.position)
    axes = [(_axis("x", index), _axis("y", index)) for index in range(len(positions))]
    ends = [axes[index] for index in range(len(positions))
            if index % across == across - 1 or index == len(positions) - 1]  # fmt: skip
    _add_references(figure, sweep, low, high, each, axes=axes, labelled=ends)
    _axes(figure, sweep, low, high, most=9 if across < 3 else 6, down=down, across=across)
    for index in range(len(positions), down * across):
        figure.update_xaxes(visible=False, row=index // across + 1, col=index % across + 1)
        figure.update_yaxes(visible=False, row=index // across + 1, col=index % across + 1)
    names = [series_name(series, all_series=all_series) for series in all_series]
    names += list(dict.fromkeys(line.name for line in below))
    return _finish(figure, sweep, height, names, panels=True)


def _points_figure(sweep: Sweep, drawn: list[Line]) -> go.Figure:
    """Draw a sweep of one layer: a point a position."""
    figure = go.Figure()
    all_series, positions = series_of(sweep.rows), positions_of(sweep.rows)
    names = []
    for order, series in enumerate(all_series):
        mine = [line for line in drawn if line.series == series]
        shift = (order - (len(all_series) - 1) / 2) * 0.16
        look, name = _look(order), series_name(series, all_series=all_series)
        names.append(name)
        metrics = [line.metrics[0] for line in mine]
        figure.add_trace(
            go.Scatter(
                x=[positions.index(line.position) + shift for line in mine],
                y=theme.known([metric.value for metric in metrics]),
                mode="markers", name=name,
                marker=dict(color=look.color, symbol=look.symbol, size=9),
                error_y=theme.error_bar(metrics, look.color),
                customdata=[[line.name, with_interval(line.metrics[0], 3)] for line in mine],
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
    height = 300
    low, high = _y_range(sweep, drawn, [])
    _add_references(figure, sweep, low, high, height, axes=[("x", "y")], labelled=[("x", "y")])
    figure.update_yaxes(title_text=upper_first(metric_name(sweep.primary)), range=[low, high])
    figure.update_xaxes(
        title_text="Position", tickmode="array", tickvals=list(range(len(positions))),
        ticktext=[plot_text(position, 14) for position in positions],
        range=[-0.6, len(positions) - 0.4], showgrid=False,
    )  # fmt: skip
    return _finish(figure, sweep, height, names if len(names) > 1 else [], over="position")


def _finish(
    figure: go.Figure, sweep: Sweep, height: int, names: Sequence[str], *, over: str = "layer",
    panels: bool = False,
) -> go.Figure:  # fmt: skip
    return theme.finish(
        figure,
        title=f"{upper_first(metric_name(sweep.primary))} over {over}s",
        subtitle=f"choose split, n = {count(sweep.n['choose'])} {sweep.unit}; "
        "controls on the report split where they are straight lines",
        plot_height=height,
        legend=names,
        right=122,
        head=30 if panels else 10,
    )


def _look(index: int) -> Look:
    index %= len(theme.SERIES)
    return Look(theme.SERIES[index], theme.DASHES[index], theme.SYMBOLS[index])


def _axis(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"


def _add_line(
    figure: go.Figure, line: Line, look: Look, *, name: str, legend: bool = True,
    cell: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """Add a band and a line; the band is left out of the legend and of hovering."""
    cell = cell or {}
    for start, end in _runs(line.metrics):
        layers, metrics = line.layers[start:end], line.metrics[start:end]
        figure.add_trace(
            go.Scatter(
                x=[*layers, *reversed(layers)],
                y=[*(item.high for item in metrics), *(item.low for item in reversed(metrics))],
                fill="toself", fillcolor=theme.faint(look.color, 0.14), line=dict(width=0),
                mode="lines", hoverinfo="skip", showlegend=False, name=f"{name}: interval",
            ),
            **cell,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=line.layers, y=theme.known([item.value for item in line.metrics]),
            mode="lines+markers", name=plot_text(name, 60), legendgroup=name, showlegend=legend,
            line=dict(color=look.color, dash=look.dash, width=2),
            marker=dict(symbol=look.symbol, size=5, color=look.color),
            customdata=[["emb" if at < 0 else at, with_interval(item, 3)]
                        for at, item in zip(line.layers, line.metrics, strict=True)],
            hovertemplate=f"{plot_text(line.name, 60)}, layer %{{customdata[0]}}: "
            "%{customdata[1]}<extra></extra>",
        ),
        **cell,
    )  # fmt: skip


def _runs(metrics: Sequence[Metric]) -> list[tuple[int, int]]:
    """Return start and end of every stretch of metrics that have intervals."""
    runs: list[tuple[int, int]] = []
    for index, metric in enumerate(metrics):
        if not metric.has_interval:
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def _add_control(
    figure: go.Figure, line: Line, index: int, *, name: str, legend: bool = True,
    cell: dict[str, int] | None = None,
) -> None:  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=line.layers, y=theme.known([item.value for item in line.metrics]),
            mode="lines", name=name, legendgroup=name, showlegend=legend,
            line=dict(color=theme.GREY, dash=("dot", "dashdot", "dash")[index % 3], width=1.2),
            hovertemplate=f"{name}, layer %{{x}}: %{{y:.3f}}<extra></extra>",
        ),
        **(cell or {}),
    )  # fmt: skip


def _add_background(figure: go.Figure, line: Line, cell: dict[str, int]) -> None:
    figure.add_trace(
        go.Scatter(
            x=line.layers, y=theme.known([item.value for item in line.metrics]), mode="lines",
            line=dict(color=theme.FAINT, width=1), hoverinfo="skip", showlegend=False,
            name="other positions",
        ),
        **cell,
    )  # fmt: skip


def _add_references(
    figure: go.Figure, sweep: Sweep, low: float, high: float, height: int, *,
    axes: list[tuple[str, str]], labelled: list[tuple[str, str]],
) -> None:  # fmt: skip
    """Draw every reference across its panels and name it in the right margin, names spread."""
    drawn = references(sweep)
    pixels = [(item.value - low) / (high - low) * height for item in drawn]
    for item, pixel, moved in zip(drawn, pixels, theme.spread(pixels, 15), strict=True):
        dash = {"chance": "dash", control_name("length"): "dot"}.get(item.name, "longdashdot")
        for x, y in axes:
            figure.add_shape(
                type="line", x0=0, x1=1, xref=f"{x} domain", y0=item.value, y1=item.value, yref=y,
                line=dict(color=theme.BLACK, width=1, dash=dash), layer="between", name=item.name,
            )  # fmt: skip
        for x, y in labelled:
            figure.add_annotation(
                x=1, xref=f"{x} domain", xanchor="left", xshift=6, y=item.value, yref=y,
                yshift=moved - pixel, text=f"{item.name} {number(item.value)}", showarrow=False,
                font=dict(size=11, color=theme.GREY),
            )  # fmt: skip


def _add_chosen(figure: go.Figure, sweep: Sweep) -> None:
    """Ring the chosen cell."""
    metric = sweep.choose.get(sweep.primary, NO_VALUE)
    if metric.known:
        figure.add_trace(
            go.Scatter(
                x=[place(sweep.chosen, sweep.rows).layer], y=[metric.value], mode="markers",
                marker=dict(symbol="circle-open", size=15, color=theme.BLACK, line=dict(width=2)),
                hoverinfo="skip", showlegend=False, name="chosen cell",
            )
        )  # fmt: skip


def _panel_title(figure: go.Figure, position: str, index: int, *, chosen: bool) -> None:
    figure.add_annotation(
        text=f"<b>{plot_text(position, 16)}</b>" + (" (chosen)" if chosen else ""),
        x=0, xref=f"{_axis('x', index)} domain", xanchor="left",
        y=1, yref=f"{_axis('y', index)} domain", yanchor="bottom", yshift=3,
        showarrow=False, font=dict(size=12),
    )  # fmt: skip


def _axes(
    figure: go.Figure, sweep: Sweep, low: float, high: float, *, most: int, down: int = 1,
    across: int = 1,
) -> None:  # fmt: skip
    layers = layers_of(sweep.rows)
    pad = 0.02 * (layers[-1] - layers[0]) + 0.2
    figure.update_xaxes(
        **theme.layer_ticks(layers, most), range=[layers[0] - pad, layers[-1] + pad], showgrid=False
    )
    figure.update_yaxes(range=[low, high])
    title = upper_first(metric_name(sweep.primary))
    if down == across == 1:
        figure.update_xaxes(title_text="Layer")
        figure.update_yaxes(title_text=title)
        return
    figure.update_xaxes(title=dict(text="Layer", standoff=6))
    for row in range(1, down + 1):
        figure.update_yaxes(title_text=title, row=row, col=1)


def _y_range(sweep: Sweep, drawn: list[Line], controls: list[Line]) -> tuple[float, float]:
    ends = [end for line in drawn for metric in line.metrics for end in metric if end == end]
    ends += [metric.value for line in controls for metric in line.metrics if metric.known]
    ends += [item.value for item in references(sweep)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = 0.05 * (high - low) or 0.05
    return low - pad, high + pad
