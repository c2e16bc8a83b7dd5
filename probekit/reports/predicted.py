"""True rating against predicted rating, in the rating's own units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from probekit.reports import theme
from probekit.reports.forest import report_n
from probekit.reports.rows import Prediction, Sweep
from probekit.reports.words import number, plot_text

FEW_VALUES = 12
"""Ratings with at most this many distinct values are spread a little so that points do not stack."""


class Fit(NamedTuple):
    """The least-squares line `true = slope * predicted + intercept`, and what it rests on."""

    slope: float
    intercept: float
    r: float
    n: int


def fit_line(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> Fit:
    """Return the least-squares line of `true` (n,) on `predicted` (n,) and Pearson's r.

    All but `n` are nan when either has no spread.
    """
    if predicted.size < 3 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return Fit(math.nan, math.nan, math.nan, int(predicted.size))
    x, y = predicted - predicted.mean(), true - true.mean()
    slope = float(x @ y / (x @ x))
    r = float(x @ y / math.sqrt((x @ x) * (y @ y)))
    return Fit(slope, float(true.mean() - slope * predicted.mean()), r, int(predicted.size))


def predicted_figure(sweep: Sweep, tag: str | None = None) -> go.Figure:
    """Draw every held-out example, the identity and the least-squares line; colours by `tag`."""
    rows = [row for row in sweep.predictions if not math.isnan(row.prediction + row.target)]
    predicted = np.array([row.prediction for row in rows], dtype=np.float64)
    true = np.array([row.target for row in rows], dtype=np.float64)
    shift = dict(zip((id(row) for row in rows), _jitter(true), strict=True))
    figure, names = go.Figure(), []
    parts = {"": rows} if tag is None else theme.by_value(rows, tag)
    for index, (value, members) in enumerate(parts.items()):
        r = number(_r(members))
        name = (
            f"{plot_text(value, 26)} (n = {len(members)}, r = {r})" if value else "held-out example"
        )
        figure.add_trace(_points(members, index, name, shift, n=len(rows)))
        names.append(name)
    low, high = _span(predicted, true)
    names += _lines(figure, fit_line(predicted, true), low, high, predicted)
    axis = dict(range=[low, high], constrain="domain", dtick=tick_step(high - low))
    figure.update_xaxes(title_text="Predicted rating (rating units)", **axis)
    figure.update_yaxes(
        title_text="True rating (rating units)", scaleanchor="x", scaleratio=1, **axis
    )
    over = f", by {plot_text(tag, 24)}" if tag else ""
    return theme.finish(
        figure,
        title=f"True rating against predicted rating{over}",
        subtitle=f"{report_n(sweep)}; r = {number(fit_line(predicted, true).r)}",
        plot_height=460,
        legend=names,
    )


def tick_step(span: float) -> float:
    """Return a round step that gives both axes the same five to eleven ticks."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(step * power for step in (1, 2, 5, 10) if span / (step * power) <= 11)


def _r(rows: Sequence[Prediction]) -> float:
    return fit_line(
        np.array([row.prediction for row in rows]), np.array([row.target for row in rows])
    ).r


def _points(
    rows: Sequence[Prediction], index: int, name: str, shift: dict[int, float], *, n: int
) -> go.Scatter:
    return go.Scatter(
        x=[row.prediction for row in rows],
        y=[row.target + shift[id(row)] for row in rows],
        mode="markers",
        name=name,
        marker=dict(
            color=theme.SERIES[index],
            symbol=theme.SYMBOLS[index],
            size=5 if n > 600 else 6.5,
            opacity=0.35 if n > 600 else 0.55,
        ),
        customdata=[[plot_text(row.id, 30), number(row.target)] for row in rows],
        hovertemplate="%{customdata[0]}<br>predicted %{x:.2f}, true %{customdata[1]}<extra></extra>",
    )


def _lines(
    figure: go.Figure, fit: Fit, low: float, high: float, predicted: NDArray[np.float64]
) -> list[str]:
    figure.add_trace(
        go.Scatter(
            x=[low, high], y=[low, high], mode="lines", name="identity", hoverinfo="skip",
            line=dict(color=theme.BLACK, width=1, dash="dash"),
        )
    )  # fmt: skip
    if math.isnan(fit.slope):
        return ["identity"]
    name = f"least squares, slope {number(fit.slope)}"
    ends = [float(predicted.min()), float(predicted.max())]
    figure.add_trace(
        go.Scatter(
            x=ends, y=[fit.slope * end + fit.intercept for end in ends], mode="lines", name=name,
            line=dict(color=theme.VERMILLION, width=2.2), hoverinfo="skip",
        )
    )  # fmt: skip
    return ["identity", name]


def _span(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> tuple[float, float]:
    both = np.concatenate([predicted, true])
    if both.size == 0:
        return 0.0, 1.0
    low, high = float(both.min()), float(both.max())
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad


def _jitter(true: NDArray[np.float64]) -> list[float]:
    """Return shifts that unstack ratings of few distinct values; the same on every call.

    A low-discrepancy sequence (multiples of the golden ratio) rather than random numbers: it
    fills the band evenly and needs no seed.
    """
    values = np.unique(true)
    if not 1 < values.size <= FEW_VALUES:
        return [0.0] * true.size
    width = 0.5 * float(np.diff(values).min())
    steps = np.arange(true.size) * 0.6180339887498949 % 1.0
    return [float(shift) for shift in (steps - 0.5) * width]


def is_spread(sweep: Sweep) -> bool:
    """Return whether points are drawn beside their true rating, which the caption then says."""
    found = {row.target for row in sweep.predictions if not math.isnan(row.target)}
    return 1 < len(found) <= FEW_VALUES
