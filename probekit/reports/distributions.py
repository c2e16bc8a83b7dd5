"""How held-out scores fall apart: by class (labels), by side with the margins (pairs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.forest import report_n
from probekit.reports.rows import Prediction, Sweep, pair_rows
from probekit.reports.words import count, plot_text

PANEL, GAP = 190, 76


class Part(NamedTuple):
    """One histogram of a panel."""

    name: str
    values: NDArray[np.float64]
    color: str


class Panel(NamedTuple):
    """Histograms that share an axis, and what is written above them."""

    title: str
    parts: list[Part]
    axis: str
    zero: str
    """What the line at zero means."""


def distribution_figure(sweep: Sweep, tag: str | None = None) -> go.Figure:
    """Draw the score distributions, one row a value of `tag` where one is given."""
    split = {"": sweep.predictions} if tag is None else theme.by_value(sweep.predictions, tag)
    build = _pair_panels if sweep.data_kind == "pair" else _class_panels
    rows = [build(sweep, value, rows) for value, rows in split.items()]
    across, down = len(rows[0]), len(rows)
    plot_height = down * PANEL + (down - 1) * GAP
    figure = make_subplots(
        rows=down,
        cols=across,
        horizontal_spacing=0.1,
        vertical_spacing=GAP / plot_height if down > 1 else 0,
    )
    for column in range(across):
        panels = [row[column] for row in rows]
        edges = bin_edges(np.concatenate([part.values for item in panels for part in item.parts]))
        for index, panel in enumerate(panels):
            _draw(figure, panel, edges, row=index + 1, column=column + 1, first=index == 0)
    sides = "side" if sweep.data_kind == "pair" else "class"
    over = f", by {plot_text(tag, 24)}" if tag else ""
    title = f"Score distributions by {sides}{' and margins' if sides == 'side' else ''}{over}"
    names = [part.name for panel in rows[0] for part in panel.parts if part.name]
    return theme.finish(
        figure,
        title=title,
        subtitle=report_n(sweep),
        plot_height=plot_height,
        legend=names,
        head=28,
    ).update_layout(barmode="overlay", bargap=0)


def bin_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges shared by every histogram of an axis; zero is one of them (Freedman-Diaconis)."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return np.array([-1.0, 0.0, 1.0])
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    span = high - low or 1.0
    quarter, three = np.percentile(values, [25, 75])
    width = 2 * float(three - quarter) / values.size ** (1 / 3) or span / 10
    width = span / min(40, max(10, math.ceil(span / width)))
    first, last = math.floor(low / width), max(math.ceil(high / width), math.floor(low / width) + 1)
    return np.arange(first, last + 1, dtype=np.float64) * width


def _class_panels(sweep: Sweep, value: str, rows: Sequence[Prediction]) -> list[Panel]:
    names = sweep.classes or ("class 0", "class 1")
    parts = []
    for target in (0, 1):
        scores = np.array([row.score for row in rows if row.target == target], dtype=np.float64)
        color = theme.BLUE if target else theme.ORANGE
        parts.append(Part(plot_text(names[target], 30), scores, color))
    sizes = ", ".join(f"{part.name}: n = {count(len(part.values))}" for part in parts)
    title = f"<b>{plot_text(value, 26)}</b>  {sizes}" if value else sizes
    return [Panel(title, parts, "Score (acts · coef + bias)", "P = 0.5")]


def _pair_panels(sweep: Sweep, value: str, rows: Sequence[Prediction]) -> list[Panel]:
    pairs = pair_rows(list(rows))
    chosen = np.array([pair.chosen.score for pair in pairs], dtype=np.float64)
    rejected = np.array([pair.rejected.score for pair in pairs], dtype=np.float64)
    margins = chosen - rejected
    right = int((margins > 0).sum())
    size = f"n = {count(len(pairs))} pairs"
    title = f"<b>{plot_text(value, 26)}</b>  {size}" if value else size
    return [
        Panel(
            title,
            [Part("rejected", rejected, theme.ORANGE), Part("chosen", chosen, theme.BLUE)],
            "Score (acts · coef + bias)",
            "",
        ),
        Panel(
            f"chosen above rejected in {count(right)} of {count(len(pairs))}",
            [Part("", margins, theme.GREEN)],
            "Margin: score(chosen) − score(rejected)",
            "0",
        ),
    ]


def _draw(
    figure: go.Figure,
    panel: Panel,
    edges: NDArray[np.float64],
    *,
    row: int,
    column: int,
    first: bool,
) -> None:
    middles, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    for part in panel.parts:
        counts = np.histogram(part.values, bins=edges)[0]
        figure.add_trace(
            go.Bar(
                x=middles.tolist(), y=counts.tolist(), width=width, name=part.name,
                legendgroup=part.name, showlegend=first and bool(part.name),
                marker=dict(color=theme.faint(part.color, 0.42), line=dict(width=0)),
                hovertemplate=f"{part.name} about %{{x:.2f}}: %{{y}} examples<extra></extra>",
            ),
            row=row, col=column,
        )  # fmt: skip
        figure.add_trace(outline(edges, counts, part.color), row=row, col=column)
    if panel.zero:
        figure.add_vline(
            x=0, line=dict(color=theme.BLACK, width=1, dash="dash"), row=row, col=column
        )
    figure.update_xaxes(
        title_text=panel.axis, showgrid=False, range=[edges[0], edges[-1]], row=row, col=column
    )
    highest = max(np.histogram(part.values, bins=edges)[0].max() for part in panel.parts)
    figure.update_yaxes(
        title_text="Pairs" if not panel.parts[0].name else "Examples", rangemode="tozero",
        dtick=1 if highest <= 5 else None, row=row, col=column,
    )  # fmt: skip
    axis = next(figure.select_xaxes(row=row, col=column)).plotly_name.removeprefix("xaxis")
    figure.add_annotation(
        text=panel.title, x=0, xref=f"x{axis} domain", xanchor="left", y=1, yref=f"y{axis} domain",
        yanchor="bottom", yshift=4, showarrow=False, font=dict(size=12),
    )  # fmt: skip


def outline(
    edges: NDArray[np.float64], counts: NDArray[np.int64] | NDArray[np.float64], color: str
) -> go.Scatter:
    """Return the histogram's outline, so that overlaid ones stay apart in grey print."""
    return go.Scatter(
        x=[edges[0], *edges.tolist(), edges[-1]],
        y=[0, counts.tolist()[0], *counts.tolist(), 0],
        mode="lines",
        line=dict(color=color, width=1.6, shape="vh"),
        hoverinfo="skip",
        showlegend=False,
    )
