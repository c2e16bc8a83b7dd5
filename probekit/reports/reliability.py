"""Reliability diagrams: does what the probe predicts happen as often as it says?"""

from __future__ import annotations

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.forest import report_n
from probekit.reports.rows import NO_VALUE, ReliabilityBin, Sweep
from probekit.reports.words import number, plot_text, with_interval

DIAGRAM, COUNTS, GAP = 340, 84, 18


def reliability_figure(sweep: Sweep) -> go.Figure:
    """Draw observed against predicted with intervals, above how many examples each bin holds."""
    bins = [item for item in sweep.reliability if item.n > 0]
    height = DIAGRAM + COUNTS + GAP
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=GAP / height,
        row_heights=[DIAGRAM, COUNTS],
    )  # fmt: skip
    span = _span(sweep, bins)
    figure.add_trace(
        go.Scatter(
            x=span, y=span, mode="lines", name="perfect calibration", hoverinfo="skip",
            line=dict(color=theme.BLACK, width=1, dash="dash"),
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(_observed(bins), row=1, col=1)
    figure.add_trace(_counts(bins, span), row=2, col=1)
    x_title, y_title = _axis_titles(sweep)
    unit = "Pairs" if sweep.data_kind == "pair" else "Examples"
    figure.update_xaxes(range=span, row=1, col=1)
    figure.update_xaxes(range=span, title_text=x_title, row=2, col=1)
    figure.update_yaxes(title_text=y_title, range=_y_span(sweep, bins, span), row=1, col=1)
    figure.update_yaxes(title_text=unit, rangemode="tozero", nticks=3, row=2, col=1)
    return theme.finish(
        figure,
        title="Reliability: " + _title(sweep),
        subtitle=report_n(sweep) + _error(sweep),
        plot_height=height,
        legend=["perfect calibration", "observed"],
    )


def _observed(bins: list[ReliabilityBin]) -> go.Scatter:
    return go.Scatter(
        x=[item.predicted for item in bins],
        y=theme.known([item.observed for item in bins]),
        mode="lines+markers",
        name="observed",
        line=dict(color=theme.BLUE, width=1.4),
        marker=dict(color=theme.BLUE, size=8),
        error_y=theme.error_bar(bins, theme.BLUE),
        customdata=[
            [item.n, number(item.observed_low, 3), number(item.observed_high, 3)] for item in bins
        ],
        hovertemplate="predicted %{x:.3f}<br>observed %{y:.3f} [%{customdata[1]}, %{customdata[2]}]"
        "<br>n = %{customdata[0]}<extra></extra>",
        cliponaxis=False,
    )


def _counts(bins: list[ReliabilityBin], span: list[float]) -> go.Bar:
    edges = [
        (item.low, item.high) if _ends(item) else (item.predicted, item.predicted) for item in bins
    ]
    # The outer bins may be open: they are drawn up to the edge of the axis.
    edges = [(max(low, span[0]), min(high, span[1])) for low, high in edges]
    return go.Bar(
        x=[(low + high) / 2 for low, high in edges],
        y=[item.n for item in bins],
        width=[max(high - low, (span[1] - span[0]) / 100) for low, high in edges],
        marker=dict(color=theme.faint(theme.BLUE, 0.35), line=dict(color="white", width=1)),
        text=[str(item.n) for item in bins],
        textposition="outside",
        textfont=dict(size=10, color=theme.GREY),
        cliponaxis=False,
        showlegend=False,
        hovertemplate="%{y} in this bin<extra></extra>",
    )


def _ends(item: ReliabilityBin) -> bool:
    return not (math.isnan(item.low) or math.isnan(item.high))


def _span(sweep: Sweep, bins: list[ReliabilityBin]) -> list[float]:
    if sweep.data_kind != "rating":
        return [0.0, 1.0]
    ends = [end for item in bins for end in (item.predicted, item.low, item.high)]
    ends = [end for end in ends if math.isfinite(end)]
    if not ends:
        return [0.0, 1.0]
    pad = 0.04 * (max(ends) - min(ends)) or 0.5
    return [min(ends) - pad, max(ends) + pad]


def _y_span(sweep: Sweep, bins: list[ReliabilityBin], span: list[float]) -> list[float]:
    if sweep.data_kind != "rating":
        return [-0.02, 1.02]
    ends = [end for item in bins for end in (item.observed, item.observed_low, item.observed_high)]
    ends = [*span, *(end for end in ends if math.isfinite(end))]
    return [min(ends), max(ends)]


def _axis_titles(sweep: Sweep) -> tuple[str, str]:
    if sweep.data_kind == "rating":
        return "Predicted rating (rating units)", "Mean true rating (rating units)"
    if sweep.data_kind == "pair":
        return "Predicted P(chosen) = sigmoid(margin)", "Observed fraction preferred"
    name = plot_text((sweep.classes or ("class 0", "class 1"))[1], 24)
    return f"Predicted P({name})", f"Observed fraction {name}"


def _title(sweep: Sweep) -> str:
    if sweep.data_kind == "rating":
        return "mean true rating in each tenth of the predictions"
    return "observed fraction against predicted probability"


def _error(sweep: Sweep) -> str:
    name, label = ("mae", "mean absolute error") if sweep.data_kind == "rating" else ("ece", "ECE")
    metric = sweep.report.get(name, NO_VALUE)
    return f"; {label} = {with_interval(metric, 3)}" if metric.known else ""
