"""Layer curves: the primary metric over depth, a line a position, with controls as references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.curve_lines import Line, Reference, control_lines, lines, references
from probekit.reports.rows import NO_VALUE, Metric, Sweep, layers_of, place, positions_of, series_of
from probekit.reports.words import (
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


class Panel(NamedTuple):
    """What is drawn in one panel; names are what the legend says."""

    title: str
    drawn: list[tuple[str, Line]]
    behind: list[Line]
    controls: list[tuple[str, Line]]


class Grid(NamedTuple):
    """How panels are laid out: how many, how high each is and the gap between rows, in pixels."""

    across: int
    down: int
    each: int
    gap: int

    @property
    def height(self) -> int:
        """Height of all panels with their gaps."""
        return self.down * self.each + (self.down - 1) * self.gap

    def cell(self, index: int) -> dict[str, int]:
        """Return row and column of a panel, as plotly counts them."""
        return dict(row=index // self.across + 1, col=index % self.across + 1)


def curves_figure(sweep: Sweep) -> go.Figure:
    """Draw every line in one panel while few, else a panel a position with the others in grey.

    A sweep of one layer is drawn as points over positions.
    """
    drawn = lines(sweep, sweep.primary)
    if len(layers_of(sweep.rows)) == 1:
        return _points_figure(sweep, drawn)
    panels = _panels(sweep, drawn) if len(drawn) > TOGETHER else [_together(sweep, drawn)]
    grid = _grid(len(panels))
    figure = make_subplots(
        rows=grid.down,
        cols=grid.across,
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=grid.gap / grid.height if grid.down > 1 else 0,
    )
    controls = [line for panel in panels for _, line in panel.controls]
    low, high = _y_range(sweep, drawn, controls)
    for index, panel in enumerate(panels):
        _draw_panel(figure, sweep, panel, grid, index)
        last = index % grid.across == grid.across - 1 or index == len(panels) - 1
        _label_references(figure, references(sweep), index, (low, high), grid.each, shown=last)
    _axes(figure, sweep, grid, len(panels), (low, high))
    names = [name for name, _ in (*panels[0].drawn, *panels[0].controls)]
    return _finish(
        figure, sweep, grid.height, names, over="layers", head=30 if panels[0].title else 10
    )


def _together(sweep: Sweep, drawn: list[Line]) -> Panel:
    controls = control_lines(sweep, sweep.primary, sweep.chosen.position)
    at = plot_text(sweep.chosen.position, 14)
    named = [(f"{line.name} (at {at})", line) for line in controls]
    return Panel("", [(plot_text(line.name, 60), line) for line in drawn], [], named)


def _panels(sweep: Sweep, drawn: list[Line]) -> list[Panel]:
    """Return a panel a position; grey repeats of the others only where no colour tells lines apart."""
    all_series, panels = series_of(sweep.rows), []
    for position in positions_of(sweep.rows):
        mine = [
            (series_name(line.series, all_series=all_series), line)
            for line in drawn
            if line.position == position
        ]
        others = [line for line in drawn if line.position != position]
        chosen = " (chosen)" if position == sweep.chosen.position else ""
        title = f"<b>{plot_text(position, 16)}</b>{chosen}"
        controls = [(line.name, line) for line in control_lines(sweep, sweep.primary, position)]
        panels.append(Panel(title, mine, others if len(all_series) == 1 else [], controls))
    return panels


def _grid(panels: int) -> Grid:
    if panels == 1:
        return Grid(1, 1, 330, 0)
    # At most three rows, so that the figure fits on a printed page.
    across = max(2 if panels in (2, 4) else min(panels, 3), math.ceil(panels / 3))
    return Grid(across, math.ceil(panels / across), 230 if across < 3 else 180, 76)


def _draw_panel(figure: go.Figure, sweep: Sweep, panel: Panel, grid: Grid, index: int) -> None:
    cell, all_series = grid.cell(index), series_of(sweep.rows)
    layers = layers_of(sweep.rows)
    for item in references(sweep):
        ends = [layers[0] - 5, layers[-1] + 5]
        line = theme.reference(ends, [item.value, item.value], _dash(item), item.name)
        figure.add_trace(line, **cell)
    for line in panel.behind:
        figure.add_trace(_behind(line), **cell)
    for order, (name, line) in enumerate(panel.controls):
        figure.add_trace(_control(line, order, name, legend=index == 0), **cell)
    for order, (name, line) in enumerate(panel.drawn):
        look = order if not panel.title else all_series.index(line.series)
        figure.add_traces(_bands(line, look), rows=cell["row"], cols=cell["col"])
        figure.add_trace(_curve(line, look, name, legend=index == 0), **cell)
        if (line.series, line.position) == (
            place(sweep.chosen, sweep.rows).series,
            sweep.chosen.position,
        ):
            figure.add_trace(_ring(sweep), **cell)
    if panel.title:
        figure.add_annotation(
            text=panel.title, x=0, xref=f"{_axis('x', index)} domain", xanchor="left",
            y=1, yref=f"{_axis('y', index)} domain", yanchor="bottom", yshift=3,
            showarrow=False, font=dict(size=12),
        )  # fmt: skip


def _points_figure(sweep: Sweep, drawn: list[Line]) -> go.Figure:
    """Draw a sweep of one layer: a point a position."""
    figure = go.Figure()
    all_series, positions = series_of(sweep.rows), positions_of(sweep.rows)
    edges, names = [-0.6, len(positions) - 0.4], []
    for item in references(sweep):
        figure.add_trace(theme.reference(edges, [item.value, item.value], _dash(item), item.name))
    for order, series in enumerate(all_series):
        mine = [line for line in drawn if line.series == series]
        shift = (order - (len(all_series) - 1) / 2) * 0.16
        at = [positions.index(line.position) + shift for line in mine]
        names.append(series_name(series, all_series=all_series))
        figure.add_trace(_points(mine, at, order, names[-1]))
    low, high = _y_range(sweep, drawn, [])
    _label_references(figure, references(sweep), 0, (low, high), 300, shown=True)
    figure.update_yaxes(title_text=upper_first(metric_name(sweep.primary)), range=[low, high])
    figure.update_xaxes(
        title_text="Position",
        tickmode="array",
        tickvals=list(range(len(positions))),
        ticktext=[plot_text(position, 14) for position in positions],
        range=edges,
        showgrid=False,
    )
    return _finish(figure, sweep, 300, names if len(names) > 1 else [], over="positions", head=10)


def _finish(
    figure: go.Figure, sweep: Sweep, height: int, names: Sequence[str], *, over: str, head: int
) -> go.Figure:
    return theme.finish(
        figure,
        title=f"{upper_first(metric_name(sweep.primary))} over {over}",
        subtitle=f"choose split, n = {count(sweep.n['choose'])} {sweep.unit}; straight lines: "
        f"report split, n = {count(sweep.n['report'])}",
        plot_height=height,
        legend=names,
        right=122,
        head=head,
    )


def _axis(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"


def _look(index: int) -> tuple[str, str, str]:
    index %= len(theme.SERIES)
    return theme.SERIES[index], theme.DASHES[index], theme.SYMBOLS[index]


def _dash(item: Reference) -> str:
    return {"chance": "dash", control_name("length"): "dot"}.get(item.name, "longdashdot")


def _curve(line: Line, look: int, name: str, *, legend: bool) -> go.Scatter:
    color, dash, symbol = _look(look)
    return go.Scatter(
        x=line.layers,
        y=theme.known([item.value for item in line.metrics]),
        mode="lines+markers" if len(line.layers) <= 40 else "lines",
        name=name,
        legendgroup=name,
        showlegend=legend,
        line=dict(color=color, dash=dash, width=2),
        marker=dict(symbol=symbol, size=5, color=color),
        customdata=[
            ["emb" if at < 0 else at, with_interval(item, 3)]
            for at, item in zip(line.layers, line.metrics, strict=True)
        ],
        hovertemplate=f"{plot_text(line.name, 60)}, layer %{{customdata[0]}}: "
        "%{customdata[1]}<extra></extra>",
    )


def _bands(line: Line, look: int) -> list[go.Scatter]:
    """Return the interval as filled bands, broken where a layer has none."""
    bands = []
    for start, end in runs(line.metrics):
        layers, metrics = line.layers[start:end], line.metrics[start:end]
        bands.append(
            go.Scatter(
                x=[*layers, *reversed(layers)],
                y=[*(item.high for item in metrics), *(item.low for item in reversed(metrics))],
                fill="toself",
                fillcolor=theme.faint(_look(look)[0], 0.14),
                line=dict(width=0),
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                name=f"{plot_text(line.name, 60)}: interval",
            )
        )
    return bands


def runs(metrics: Sequence[Metric]) -> list[tuple[int, int]]:
    """Return start and end of every stretch of metrics that have intervals."""
    found: list[tuple[int, int]] = []
    for index, metric in enumerate(metrics):
        if not metric.has_interval:
            continue
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def _control(line: Line, order: int, name: str, *, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=line.layers,
        y=theme.known([item.value for item in line.metrics]),
        mode="lines",
        name=name,
        legendgroup=name,
        legendrank=2000,  # after the probes' lines, though drawn below them
        showlegend=legend,
        line=dict(color=theme.GREY, dash=("dot", "dashdot", "dash")[order % 3], width=1.2),
        hovertemplate=f"{name}, layer %{{x}}: %{{y:.3f}}<extra></extra>",
    )


def _behind(line: Line) -> go.Scatter:
    return go.Scatter(
        x=line.layers,
        y=theme.known([item.value for item in line.metrics]),
        mode="lines",
        line=dict(color=theme.FAINT, width=1),
        hoverinfo="skip",
        showlegend=False,
        name=f"behind: {plot_text(line.name, 60)}",
    )


def _ring(sweep: Sweep) -> go.Scatter:
    metric = sweep.choose.get(sweep.primary, NO_VALUE)
    return go.Scatter(
        x=[place(sweep.chosen, sweep.rows).layer],
        y=theme.known([metric.value]),
        mode="markers",
        marker=dict(symbol="circle-open", size=14, color=theme.BLACK, line=dict(width=2)),
        hoverinfo="skip",
        showlegend=False,
        name="chosen cell",
    )


def _points(drawn: list[Line], at: list[float], look: int, name: str) -> go.Scatter:
    color, _, symbol = _look(look)
    metrics = [line.metrics[0] for line in drawn]
    return go.Scatter(
        x=at,
        y=theme.known([metric.value for metric in metrics]),
        mode="markers",
        name=name,
        marker=dict(color=color, symbol=symbol, size=9),
        error_y=theme.error_bar(metrics, color),
        customdata=[
            [plot_text(line.name, 60), with_interval(line.metrics[0], 3)] for line in drawn
        ],
        hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
    )


def _label_references(
    figure: go.Figure,
    drawn: list[Reference],
    index: int,
    ends: tuple[float, float],
    height: int,
    *,
    shown: bool,
) -> None:
    """Name every reference right of its panel, names that would touch moved apart."""
    pixels = [(item.value - ends[0]) / (ends[1] - ends[0]) * height for item in drawn]
    for item, pixel, moved in zip(drawn, pixels, theme.spread(pixels, 15), strict=True):
        if shown:
            figure.add_annotation(
                x=1, xref=f"{_axis('x', index)} domain", xanchor="left", xshift=6, y=item.value,
                yref=_axis("y", index), yshift=moved - pixel, showarrow=False,
                text=f"{item.name} {number(item.value)}", font=dict(size=11, color=theme.GREY),
            )  # fmt: skip


def _axes(
    figure: go.Figure, sweep: Sweep, grid: Grid, panels: int, ends: tuple[float, float]
) -> None:
    layers = layers_of(sweep.rows)
    pad = 0.02 * (layers[-1] - layers[0]) + 0.2
    most = {1: 16, 2: 9}.get(grid.across, 6)
    figure.update_xaxes(
        **theme.layer_ticks(layers, most),
        range=[layers[0] - pad, layers[-1] + pad],
        showgrid=False,
        title=dict(text="Layer", standoff=8),
    )
    figure.update_yaxes(range=list(ends))
    title = upper_first(metric_name(sweep.primary))
    for row in range(1, grid.down + 1):
        figure.update_yaxes(title_text=title, row=row, col=1)
    for index in range(panels, grid.down * grid.across):
        figure.update_xaxes(visible=False, **grid.cell(index))
        figure.update_yaxes(visible=False, **grid.cell(index))


def _y_range(sweep: Sweep, drawn: list[Line], controls: list[Line]) -> tuple[float, float]:
    ends = [end for line in drawn for metric in line.metrics for end in metric if end == end]
    ends += [metric.value for line in controls for metric in line.metrics if metric.known]
    ends += [item.value for item in references(sweep)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = 0.05 * (high - low) or 0.05
    return low - pad, high + pad
