"""One look for every figure: palette, font, spacing, and the helpers that place titles.

The palette is Okabe and Ito's, told apart by readers with any of the common colour blindnesses;
every colour is doubled by a dash or a marker so that a grey print can be read too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from probekit.reports.rows import Metric, Prediction, ReliabilityBin

BLACK = "#1a1a1a"
GREY = "#6b6b6b"
FAINT = "#c9c9c9"
GRID = "#ececec"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
DASHES = ("solid", "solid", "dash", "dash", "dot", "dot", "dashdot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")

FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
SEQUENTIAL = (
    (0.0, "#f4f8fc"), (0.25, "#c6dbef"), (0.5, "#7fb5da"), (0.75, "#2f7fbc"), (1.0, "#083d7a"),
)  # fmt: skip
DIVERGING = (
    (0.0, "#8f3b00"), (0.25, "#e29a5c"), (0.5, "#f7f7f7"), (0.75, "#6aaed6"), (1.0, "#084a91"),
)  # fmt: skip

WIDTH = 680
"""Narrowest width in pixels a figure is drawn at (A4 between its margins): labels fit there."""

_TITLE, _LEGEND_ROW = 46, 22


def template() -> go.layout.Template:
    """Return the template every figure uses."""
    axis = dict(
        showline=True, linecolor=BLACK, linewidth=1, ticks="outside", ticklen=4, tickcolor=BLACK,
        gridcolor=GRID, gridwidth=1, zeroline=False, automargin=True,
        title=dict(standoff=8, font=dict(size=12.5)), tickfont=dict(size=11.5),
    )  # fmt: skip
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=12, color=BLACK),
            paper_bgcolor="white",
            plot_bgcolor="white",
            colorway=list(SERIES),
            xaxis=axis,
            yaxis=axis,
            dragmode=False,
            hoverlabel=dict(bgcolor="white", bordercolor=FAINT, font=dict(family=FONT, size=12)),
            hovermode="closest",
        )
    )


def finish(
    figure: go.Figure,
    *,
    title: str,
    subtitle: str,
    plot_height: int,
    legend: Sequence[str] = (),
    left: int = 60,
    right: int = 16,
    bottom: int = 52,
    head: int = 10,
) -> go.Figure:
    """Put title, subtitle and legend above a plot area of `plot_height` pixels; return the figure.

    Everything is placed in pixels, so nothing moves over anything else at any width down to
    `WIDTH`. `legend` names the legend's entries: how many rows they take is worked out here.
    `head` is the room right above the plot area, for panel titles.
    """
    top = _TITLE + _LEGEND_ROW * legend_rows(legend) + head
    small = f"<span style='font-size:12px;color:{GREY}'>{subtitle}</span>"
    height = top + plot_height + bottom
    figure.update_layout(
        template=template(),
        height=height,
        margin=dict(l=left, r=right, t=top, b=bottom),
        title=dict(
            text=f"<b>{title}</b><br>{small}", font=dict(size=14.5), x=0, xref="container",
            xanchor="left", y=1, yref="container", yanchor="top", pad=dict(t=22, l=4),
        ),
        showlegend=bool(legend),
        legend=dict(
            orientation="h", x=0, xref="container", xanchor="left",
            y=1 - (_TITLE + 2) / height, yref="container", yanchor="top",
            font=dict(size=11.5), itemsizing="trace", traceorder="normal",
            itemclick=False, itemdoubleclick=False, bgcolor="rgba(255,255,255,0)",
        ),
    )  # fmt: skip
    return figure


def legend_rows(entries: Sequence[str]) -> int:
    """Return how many rows a horizontal legend of `entries` takes at `WIDTH`.

    Plotly gives every entry the width of the longest one when they do not fit in one row.
    """
    if not entries:
        return 0
    widths = [text_width(entry) + 44 for entry in entries]
    if sum(widths) <= WIDTH - 20:
        return 1
    return math.ceil(len(entries) / max(1, int((WIDTH - 20) // max(widths))))


def text_width(text: str, size: float = 11.5) -> float:
    """Return about how many pixels `text` takes, rather too many than too few."""
    return len(text) * size * 0.56


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return positions moved apart until neighbours are `gap` apart, order and centre kept.

    Labels of lines that lie close would be printed over each other without this.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    clusters: list[tuple[list[int], float]] = []
    for index in order:
        members, centre = [index], positions[index]
        while clusters and _touch(clusters[-1], (members, centre), gap):
            before, middle = clusters.pop()
            total = len(before) + len(members)
            centre = (middle * len(before) + centre * len(members)) / total
            members = before + members
        clusters.append((members, centre))
    moved = [0.0] * len(positions)
    for members, centre in clusters:
        for rank, index in enumerate(members):
            moved[index] = centre + (rank - (len(members) - 1) / 2) * gap
    return moved


def _touch(low: tuple[list[int], float], high: tuple[list[int], float], gap: float) -> bool:
    top = low[1] + (len(low[0]) - 1) / 2 * gap
    bottom = high[1] - (len(high[0]) - 1) / 2 * gap
    return bottom - top < gap


def error_bar(metrics: Sequence[Metric | ReliabilityBin], color: str) -> dict[str, object]:
    """Return plotly's asymmetric error bar from the intervals; no bar where there is none."""
    ends = [_ends(metric) for metric in metrics]
    return dict(
        type="data",
        symmetric=False,
        array=[max(0.0, high - value) if high == high else 0.0 for value, _, high in ends],
        arrayminus=[max(0.0, value - low) if low == low else 0.0 for value, low, _ in ends],
        color=color,
        thickness=1.6,
        width=0,
    )


def _ends(metric: Metric | ReliabilityBin) -> tuple[float, float, float]:
    if isinstance(metric, ReliabilityBin):
        return metric.observed, metric.observed_low, metric.observed_high
    return metric


def reference(x: Sequence[float], y: Sequence[float], dash: str, name: str) -> go.Scatter:
    """Return a thin black line that is not part of the legend and does not answer the pointer."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines",
        name=name,
        line=dict(color=BLACK, width=1, dash=dash),
        hoverinfo="skip",
        showlegend=False,
    )


def known(values: Sequence[float]) -> list[float | None]:
    """Return values for plotly, nan as None: a gap."""
    return [None if math.isnan(value) else value for value in values]


def faint(color: str, opacity: float) -> str:
    """Return a `#rrggbb` colour as rgba with an opacity."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def layer_ticks(layers: Sequence[int], most: int) -> dict[str, object]:
    """Return axis ticks at round layers, at most about `most`; the embedding reads `emb`."""
    blocks = [layer for layer in layers if layer >= 0]
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100) if len(blocks) <= step * most)
    ticks = [layer for layer in blocks if (layer - blocks[0]) % step == 0]
    if -1 in layers:
        ticks = [-1, *(tick for tick in ticks if step == 1 or tick > 0 or not ticks)]
    text = ["emb" if tick < 0 else str(tick) for tick in ticks]
    return dict(tickmode="array", tickvals=ticks, ticktext=text, tickangle=0)


def by_value(predictions: Sequence[Prediction], tag: str) -> dict[str, list[Prediction]]:
    """Return predictions by the value of a tag, in the order values first appear."""
    found: dict[str, list[Prediction]] = {}
    for row in predictions:
        value = row.tags.get(tag, "")
        if value:
            found.setdefault(value, []).append(row)
    return found
