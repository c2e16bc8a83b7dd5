"""Panels of lines with intervals over training steps or over √KL: small multiples of one look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.curves import Grid
from probekit.reports.rows import Metric
from probekit.reports.steer_traces import band
from probekit.reports.steer_words import wrapped
from probekit.reports.words import number, plot_text, with_interval

_LEFT, _RIGHT, _GAP = 64, 14, 78
_SHARED_GAP = 20
"""Gap where only the first panel of a row has numbers on its vertical axis."""
EACH_STEP = "training steps"


@dataclass(frozen=True)
class Line:
    """A measure along the axis."""

    name: str
    """In the legend; empty for a line that is not named there."""
    x: Sequence[float]
    metrics: Sequence[Metric]
    look: int = 0
    """Index into the palette, its dashes and its symbols."""
    color: str | None = None
    thin: bool = False
    """Drawn behind, without points: a reference, or the training steps."""
    dash: str | None = None
    hover: Sequence[str] = ()
    """What each point is, `after 10 steps`; its place on the axis where not given."""
    bars: bool = False
    """Intervals as bars: for an axis on which the line may turn back."""

    @property
    def ink(self) -> str:
        """The colour."""
        return self.color or theme.SERIES[self.look % len(theme.SERIES)]


@dataclass(frozen=True)
class Mark:
    """Vertical lines (or, for alarms, signs on the axis) at places of the horizontal axis."""

    name: str
    x: Sequence[float]
    color: str
    sign: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    axis: str
    lines: Sequence[Line]
    share: bool = False
    marks: Sequence[Mark] = ()
    steps: Sequence[tuple[float, int]] = field(default=())
    """Places on the axis and which evaluation stands there, written along the top."""


def panels_figure(
    panels: Sequence[Panel],
    *,
    title: str,
    subtitle: str,
    x_title: str,
    same: bool = False,
    across: int | None = None,
    table: bool = False,
) -> go.Figure:
    """Draw panels left to right and down, with one legend.

    Parameters
    ----------
    panels
        What to draw.
    title, subtitle
        Of the figure.
    x_title
        The horizontal axis, which all panels share.
    same
        Give all panels the same vertical axis.
    across
        Panels beside each other; as many as fit by default.
    table
        The panels are rows and columns of a table: one vertical axis, with numbers in the first
        column only. `across` says how many columns.
    """
    grid, gap = _grid(len(panels), across), _SHARED_GAP if table else _GAP
    if table:
        grid = Grid(across or len(panels), -(-len(panels) // (across or len(panels))), 170, 92)
    inside = theme.WIDTH - _LEFT - _RIGHT
    figure = make_subplots(
        rows=grid.down,
        cols=grid.across,
        horizontal_spacing=gap / inside if grid.across > 1 else 0,
        vertical_spacing=grid.gap / grid.height if grid.down > 1 else 0,
    )
    pixels = (inside - gap * (grid.across - 1)) / grid.across
    ends = _x_range(panels)
    spans = [_y_range(panel, grid.each) for panel in panels]
    if same or table:
        spans = [(min(low for low, _ in spans), max(high for _, high in spans))] * len(spans)
    names: dict[str, None] = {}
    # Beside another panel's numbers a title may begin over its own ones.
    shift = 0 if table else 30
    titles = [wrapped(panel.title, int((pixels + shift) / 6.8)) for panel in panels]
    for index, panel in enumerate(panels):
        cell = grid.cell(index)
        traces = _traces(panel, spans[index], names)
        figure.add_traces(traces, rows=cell["row"], cols=cell["col"])
        _marks(figure, panel, index)
        _step_names(figure, panel, index, pixels / (ends[1] - ends[0]))
        numbered = cell["col"] == 1 or not table
        axis = wrapped(panel.axis, int(grid.each / 6.2)) if numbered else None
        figure.update_yaxes(
            range=list(spans[index]), nticks=6, showticklabels=numbered, **cell,
            title=dict(text=axis, font=dict(size=11.5)),
            **(dict(tickformat=".0%") if panel.share else {}),
        )  # fmt: skip
        if len(panels) > 1:
            _title(figure, titles[index], index, shift)
    _x_axes(figure, grid, len(panels), ends, x_title, pixels)
    several = len(panels) > 1
    return theme.finish(
        figure,
        title=title,
        subtitle=subtitle,
        plot_height=grid.height,
        legend=list(names),
        left=_LEFT,
        right=_RIGHT,
        bottom=56,
        head=(46 if any("<br>" in item for item in titles) else 32) if several else 14,
    )


def _grid(panels: int, across: int | None) -> Grid:
    if panels == 1:
        return Grid(1, 1, 300, 0)
    across = min(across or (2 if panels in (2, 4) else 3), panels)
    return Grid(across, math.ceil(panels / across), 210 if across == 2 else 170, 92)


def _traces(panel: Panel, ends: tuple[float, float], names: dict[str, None]) -> list[go.Scatter]:
    """Return a panel's traces from back to front; a name enters the legend once in a figure."""
    found = []
    for line in sorted(panel.lines, key=lambda line: not line.thin):
        if not line.thin and not line.bars:
            found += band(
                line.x, line.metrics, theme.faint(line.ink, 0.14), f"{line.name} interval"
            )
    for line in sorted(panel.lines, key=lambda line: not line.thin):
        shown = bool(line.name) and line.name not in names
        if line.name:
            names[line.name] = None
        found.append(_curve(line, legend=shown))
    for mark in panel.marks:
        shown = bool(mark.x) and mark.name not in names
        if mark.x:
            names[mark.name] = None
        found.append(_mark(mark, ends, legend=shown))
    return found


def _curve(line: Line, *, legend: bool) -> go.Scatter:
    at = list(line.hover) or [f"{x:g}" for x in line.x]
    symbols = theme.SYMBOLS[line.look % len(theme.SYMBOLS)]
    trace = go.Scatter(
        x=list(line.x),
        y=theme.known([metric.value for metric in line.metrics]),
        mode="lines" if line.thin else "lines+markers",
        name=line.name,
        legendgroup=line.name,
        showlegend=legend,
        line=dict(
            color=line.ink,
            width=1 if line.thin else 2,
            dash=line.dash or theme.DASHES[line.look % len(theme.DASHES)],
        ),
        customdata=[
            [x, with_interval(metric, 3)] for x, metric in zip(at, line.metrics, strict=True)
        ],
        hovertemplate=f"{line.name}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
    )
    if not line.thin:
        trace.update(marker=dict(symbol=symbols, size=6.5, color=line.ink))
    if line.bars:
        trace.update(error_y=theme.error_bar(line.metrics, theme.faint(line.ink, 0.55)))
    return trace


def _mark(mark: Mark, ends: tuple[float, float], *, legend: bool) -> go.Scatter:
    """Return the signs on the axis, or for vertical lines only their entry in the legend."""
    look: dict[str, object] = (
        dict(symbol="triangle-up", size=8, color=mark.color)
        if mark.sign
        else dict(symbol="line-ns", size=12, color=mark.color,
                  line=dict(width=1.4, color=mark.color))
    )  # fmt: skip
    return go.Scatter(
        x=list(mark.x) if mark.sign else [None],
        y=[ends[0] + 0.03 * (ends[1] - ends[0])] * len(mark.x) if mark.sign else [None],
        mode="markers",
        name=mark.name,
        legendgroup=mark.name,
        legendrank=3000,
        showlegend=legend,
        marker=look,
        hovertemplate=f"{mark.name}: %{{x:g}}<extra></extra>",
    )


def _marks(figure: go.Figure, panel: Panel, index: int) -> None:
    for mark in panel.marks:
        for x in () if mark.sign else mark.x:
            figure.add_shape(
                type="line", x0=x, x1=x, y0=0, y1=1, xref=_axis("x", index),
                yref=f"{_axis('y', index)} domain", layer="below",
                line=dict(color=mark.color, width=1.2, dash="dot"),
            )  # fmt: skip


def _step_names(figure: go.Figure, panel: Panel, index: int, scale: float) -> None:
    """Write which evaluation stands where, over the plot; those without room are left out."""
    taken: list[float] = []
    # The last one is worth most: how far the run went.
    for rank, (x, step) in enumerate(sorted(panel.steps, key=lambda item: -item[1])):
        text = f"step {step}" if rank == 0 else str(step)
        room = (theme.text_width(text, 10.5) + theme.text_width("step 000", 10.5)) / 2 + 4
        if math.isnan(x) or any(abs(x - other) * scale < room for other in taken):
            continue
        taken.append(x)
        figure.add_annotation(
            x=x, xref=_axis("x", index), y=1, yref=f"{_axis('y', index)} domain", yanchor="top",
            text=text, showarrow=False, font=dict(size=10.5, color=theme.GREY),
            bgcolor="white", borderpad=0,
        )  # fmt: skip


def _title(figure: go.Figure, text: str, index: int, shift: int) -> None:
    figure.add_annotation(
        text="<br>".join(f"<b>{row}</b>" for row in text.split("<br>")),
        x=0, xref=f"{_axis('x', index)} domain", xanchor="left", xshift=-shift,
        y=1, yref=f"{_axis('y', index)} domain", yanchor="bottom", yshift=4,
        showarrow=False, align="left", font=dict(size=12),
    )  # fmt: skip


def _x_axes(
    figure: go.Figure, grid: Grid, panels: int, ends: tuple[float, float], title: str, pixels: float
) -> None:
    figure.update_xaxes(range=list(ends), showgrid=False, nticks=8 if pixels > 400 else 5)
    for index in range(grid.down * grid.across):
        if index >= panels:
            figure.update_xaxes(visible=False, **grid.cell(index))
            figure.update_yaxes(visible=False, **grid.cell(index))
        elif index + grid.across >= panels:
            text = wrapped(title, int(pixels / 6))
            figure.update_xaxes(title=dict(text=text, font=dict(size=11.5)), **grid.cell(index))


def _x_range(panels: Sequence[Panel]) -> tuple[float, float]:
    found = [x for panel in panels for line in panel.lines for x in line.x if math.isfinite(x)]
    found += [x for panel in panels for mark in panel.marks for x in mark.x]
    low, high = min(found, default=0.0), max(found, default=1.0)
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad


def _y_range(panel: Panel, pixels: float) -> tuple[float, float]:
    found = [
        end
        for line in panel.lines
        for metric in line.metrics
        for end in (metric[:1] if line.thin else metric)
        if math.isfinite(end)
    ]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if panel.share:
        low, high = min(low, 0.0), max(high, 0.2)
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 0.1
    low, high = low - pad, high + pad
    if panel.share:
        low, high = max(low, -0.04), min(high, 1.04)
    if panel.steps:
        # Room for the names of the evaluations along the top.
        high += (high - low) * 18 / (pixels - 18)
    return low, high


def level(name: str, value: float, x: Sequence[float], *, color: str = theme.GREEN) -> Line:
    """Return a thin line across the panel at a value."""
    ends = [min(x, default=0.0), max(x, default=1.0)]
    text = f"{plot_text(name, 40)} ({number(value, 2)})"
    return Line(text, ends, [Metric(value)] * 2, color=color, thin=True, dash="dash")


def _axis(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"
