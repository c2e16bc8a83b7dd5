"""What is drawn in one dose-response panel: random directions, then the probe's on top."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from probekit.reports import theme
from probekit.reports.curves import runs
from probekit.reports.rows import Metric
from probekit.reports.steer_axis import DoseAxis
from probekit.reports.steer_rows import PROBE, Condition, Measure, Steer, span
from probekit.reports.steer_words import coeff_text, direction_name, value_text

STEERED = "probe direction, 95 % interval"
EACH = "each random direction"
RANGE = "their range"
ABLATED = "probe direction ablated"
RANDOM_ABLATED = "random direction ablated"
UNUSABLE = "dose not usable"
LIGHT = "#b5b5b5"


def panel_traces(
    steer: Steer, measure: Measure, axis: DoseAxis, *, legend: bool
) -> list[go.Scatter]:
    """Return a panel's traces from back to front."""
    doses = len(steer.coeffs) > 1
    traces = [_unsteered(steer, measure, axis)]
    if doses:
        traces += [*_range(steer, measure, legend=legend), *_each(steer, measure, legend=legend)]
        traces += _bands(steer, measure)
    traces += _random_ablated(steer, measure, axis, legend=legend)
    traces.append(_steered(steer, measure, legend=legend and doses))
    ablated = steer.ablated(PROBE)
    if ablated is not None:
        traces.append(_ablated(ablated, measure, axis, legend=legend))
    return traces


def legend_names(steer: Steer, *, unusable: bool) -> list[str]:
    """Return the entries of the legend in the order of the traces that carry them."""
    doses, names = len(steer.coeffs) > 1, []
    if doses:
        names += [STEERED]
        names += [EACH] if steer.controls else []
        names += [RANGE] if len(steer.controls) > 1 else []
    if steer.ablated(PROBE):
        names.append(ABLATED)
        names += [RANDOM_ABLATED] if any(steer.ablated(name) for name in steer.controls) else []
    return [*names, UNUSABLE] if unusable else names


def unusable_key() -> go.Scatter:
    """Return a trace that draws nothing and names the shading in the legend."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=UNUSABLE,
        legendrank=4000,
        hoverinfo="skip",
        marker=dict(symbol="square", size=12, color=SHADE, line=dict(color=theme.ORANGE, width=1)),
    )


SHADE = theme.faint(theme.ORANGE, 0.13)


def _unsteered(steer: Steer, measure: Measure, axis: DoseAxis) -> go.Scatter:
    """Return a dotted line at the unsteered value, so that the ablated model can be held to it."""
    value = steer.baseline.value(measure.name).value
    ends = [] if math.isnan(value) else [value, value]
    line = theme.reference([axis.low, axis.high][: len(ends)], ends, "dot", "unsteered")
    return line.update(line=dict(color=theme.GREY, width=1, dash="dot"))


def _range(steer: Steer, measure: Measure, *, legend: bool) -> list[go.Scatter]:
    """Return the range of the random directions at each dose, where there are two or more."""
    if len(steer.controls) < 2:
        return []
    curves = [steer.curve(name) for name in steer.controls]
    coeffs = sorted({item.coeff for curve in curves for item in curve})
    ends: list[Metric] = []
    for coeff in coeffs:
        values = [
            item.value(measure.name).value
            for curve in curves
            for item in curve
            if item.coeff == coeff
        ]
        known = span(values)
        ends.append(Metric(known[0], *known) if known else Metric(math.nan))
    bands = band(coeffs, ends, theme.faint(theme.GREY, 0.15), RANGE)
    for index, trace in enumerate(bands):
        trace.update(showlegend=legend and index == 0, legendrank=3000)
    return bands


def band(x: Sequence[float], metrics: Sequence[Metric], color: str, name: str) -> list[go.Scatter]:
    """Return filled bands between the ends of intervals, broken where there is none."""
    bands = []
    for start, end in runs(metrics):
        xs, items = x[start:end], metrics[start:end]
        bands.append(
            go.Scatter(
                x=[*xs, *reversed(xs)],
                y=[*(item.high for item in items), *(item.low for item in reversed(items))],
                fill="toself",
                fillcolor=color,
                line=dict(width=0),
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                name=name,
            )
        )
    return bands


def _each(steer: Steer, measure: Measure, *, legend: bool) -> list[go.Scatter]:
    traces = []
    for index, name in enumerate(steer.controls):
        curve = steer.curve(name)
        traces.append(
            go.Scatter(
                x=[item.coeff for item in curve],
                y=theme.known([item.value(measure.name).value for item in curve]),
                mode="lines",
                name=EACH,
                legendgroup=EACH,
                legendrank=2000,
                showlegend=legend and index == 0,
                line=dict(color=LIGHT, width=1),
                meta=name,
                customdata=_hover(curve, measure),
                hovertemplate=f"{direction_name(name)}, %{{customdata[0]}}: %{{customdata[1]}}"
                "<extra></extra>",
            )
        )
    return traces


def _bands(steer: Steer, measure: Measure) -> list[go.Scatter]:
    curve = steer.curve(PROBE)
    metrics = [item.value(measure.name) for item in curve]
    color = theme.faint(theme.BLUE, 0.16)
    return band([item.coeff for item in curve], metrics, color, "interval")


def _steered(steer: Steer, measure: Measure, *, legend: bool) -> go.Scatter:
    curve = steer.curve(PROBE)
    usable = [item.coeff in steer.usable.coeffs or item is steer.baseline for item in curve]
    metrics = [item.value(measure.name) for item in curve]
    trace = go.Scatter(
        x=[item.coeff for item in curve],
        y=theme.known([metric.value for metric in metrics]),
        mode="lines+markers",
        name=STEERED,
        showlegend=legend,
        line=dict(color=theme.BLUE, width=2),
        marker=dict(
            size=7,
            symbol=["circle" if ok else "circle-open" for ok in usable],
            color=theme.BLUE,
            line=dict(width=1.6, color=theme.BLUE),
        ),
        customdata=_hover(curve, measure),
        hovertemplate="probe direction, %{customdata[0]}: %{customdata[1]}<extra></extra>",
    )
    if len(curve) == 1:
        trace.update(name="unsteered model", error_y=theme.error_bar(metrics, theme.BLUE))
    return trace


def _ablated(item: Condition, measure: Measure, axis: DoseAxis, *, legend: bool) -> go.Scatter:
    metric = item.value(measure.name)
    return go.Scatter(
        x=[axis.slot],
        y=theme.known([metric.value]),
        mode="markers",
        name=ABLATED,
        legendrank=3100,
        showlegend=legend,
        marker=dict(symbol="diamond", size=10, color=theme.VERMILLION),
        error_y=theme.error_bar([metric], theme.VERMILLION),
        customdata=_hover([item], measure),
        hovertemplate="probe direction %{customdata[0]}: %{customdata[1]}<extra></extra>",
    )


def _random_ablated(
    steer: Steer, measure: Measure, axis: DoseAxis, *, legend: bool
) -> list[go.Scatter]:
    found = [item for name in steer.controls if (item := steer.ablated(name)) is not None]
    if not found:
        return []
    width = (axis.high - axis.slot) * 0.5
    return [
        go.Scatter(
            # Beside the ablated probe direction, so that neither hides the other.
            x=[axis.slot + width] * len(found),
            y=theme.known([item.value(measure.name).value for item in found]),
            mode="markers",
            name=RANDOM_ABLATED,
            legendrank=3200,
            showlegend=legend,
            marker=dict(symbol="line-ew-open", size=9, color=theme.GREY, line=dict(width=1.4)),
            customdata=[
                [direction_name(item.direction), value_text(measure, item.value(measure.name))]
                for item in found
            ],
            hovertemplate="%{customdata[0]} ablated: %{customdata[1]}<extra></extra>",
        )
    ]


def _hover(curve: Sequence[Condition], measure: Measure) -> list[list[str]]:
    return [
        [coeff_text(item.coeff), value_text(measure, item.value(measure.name))] for item in curve
    ]
