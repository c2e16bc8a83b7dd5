"""Score distributions before and after training beside the chosen scores, by tag."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.distributions import outline
from probekit.reports.rl_rows import ALL, RLRun
from probekit.reports.rl_words import part_name
from probekit.reports.words import count, plot_text, upper_first

_PANEL, _GAP, _BINS = 150, 66, 16
TALL = 3
"""Panels below each other at most."""
TARGET = "target: chosen scores"

Array = NDArray[np.float64]


class Histogram(NamedTuple):
    """One distribution of a panel."""

    name: str
    values: Array
    color: str
    dash: str = "solid"
    """A broken line is not filled."""


def scores_figure(run: RLRun) -> go.Figure:
    """Draw the scores at the first and the last evaluation, a row a part."""
    rows = [(part, histograms(run, part)) for part in _parts(run)]
    edges = _edges(np.concatenate([item.values for _, row in rows for item in row]))
    # Beside each other where one below the other would be longer than a printed page.
    across = 1 if len(rows) <= TALL else 2
    down = math.ceil(len(rows) / across)
    height = down * _PANEL + (down - 1) * _GAP
    figure = make_subplots(
        rows=down, cols=across, horizontal_spacing=0.12 if across > 1 else 0,
        vertical_spacing=_GAP / height if down > 1 else 0,
    )  # fmt: skip
    names: dict[str, None] = {}
    for index, (part, row) in enumerate(rows):
        cell = dict(row=index // across + 1, col=index % across + 1)
        for item in row:
            trace = _trace(item, edges, legend=item.name not in names)
            figure.add_trace(trace, **cell)
            names[item.name] = None
        sizes = ", ".join(f"{item.name.split(':')[0]} {count(len(item.values))}" for item in row)
        axis = index + 1 if index else ""
        figure.add_annotation(
            text=f"<b>{upper_first(plot_text(part_name(part), 18))}</b>  n = {sizes}",
            x=0, xref=f"x{axis} domain", xanchor="left", y=1, yref=f"y{axis} domain",
            yanchor="bottom", yshift=4, showarrow=False, font=dict(size=12 if across == 1 else 11),
        )  # fmt: skip
        figure.update_yaxes(title_text="Share", tickformat=".0%", rangemode="tozero", **cell)
        last = index + across >= len(rows)
        title = "Score (score units)" if last else None
        figure.update_xaxes(title_text=title, range=[edges[0], edges[-1]], showgrid=False, **cell)
    for index in range(len(rows), down * across):
        cell = dict(row=index // across + 1, col=index % across + 1)
        figure.update_xaxes(visible=False, **cell)
        figure.update_yaxes(visible=False, **cell)
    return theme.finish(
        figure,
        title="Scores before training, after it, and what they aim at"
        if TARGET in names
        else "Scores before training and after it",
        subtitle="completions of held-out prompts; each distribution adds up to 100 %",
        plot_height=height,
        legend=list(names),
        head=28,
    )


def histograms(run: RLRun, part: str) -> list[Histogram]:
    """Return the distributions of a part: before, after, and the chosen scores where known."""
    first, last = run.first.step, run.last.step
    found = [Histogram(f"before: step {first}", _scores(run, first, part), theme.GREY)]
    if run.compared:
        found.append(Histogram(f"after: step {last}", _scores(run, last, part), theme.BLUE))
    chosen = np.array(run.target_scores(part), dtype=np.float64)
    if chosen.size:
        found.append(Histogram(TARGET, chosen, theme.GREEN, "dash"))
    return found


def _parts(run: RLRun) -> list[str]:
    return [part for part in run.parts if part == ALL or _scores(run, run.first.step, part).size][
        :6
    ]


def _scores(run: RLRun, step: int, part: str) -> Array:
    found = [row.value("score") for row in run.at_step.get(step, {}).values() if row.within(part)]
    return np.array([score for score in found if math.isfinite(score)], dtype=np.float64)


def _edges(values: Array) -> Array:
    values = values[np.isfinite(values)]
    if values.size == 0:
        return np.array([-1.0, 0.0, 1.0])
    return np.histogram_bin_edges(values, bins=_BINS).astype(np.float64)


def _trace(item: Histogram, edges: Array, *, legend: bool) -> go.Scatter:
    counts = np.histogram(item.values, bins=edges)[0]
    shares = counts / max(1, counts.sum())
    trace = outline(edges, shares, item.color)
    trace.update(
        name=item.name, legendgroup=item.name, showlegend=legend,
        line=dict(color=item.color, width=2, shape="vh", dash=item.dash),
    )  # fmt: skip
    if item.dash == "solid":
        trace.update(fill="tozeroy", fillcolor=theme.faint(item.color, 0.22))
    return trace
