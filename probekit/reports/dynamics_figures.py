"""Figures of head dynamics: loss over steps, and last loss over the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.dynamics_rows import NAMES, TITLES, Dynamics
from probekit.reports.rows import Metric
from probekit.reports.words import number

MEASURES = {"loss": "Loss, fit split (nats)", "choose_loss": "Loss, choose split (nats)"}
FLOOR, CEILING = 1e-3, 10.0
"""Of the axis: beyond lies what separable pairs and broken runs do, which is not the question."""
CHANCE = math.log(2)

_LEFT, _RIGHT, _GAP, _EACH, _BETWEEN = 66, 14, 66, 230, 84


class Look(NamedTuple):
    """How a parametrisation is drawn in every figure."""

    color: str
    dash: str
    width: float


LOOKS = {
    "direct": Look(theme.VERMILLION, "solid", 2.2),
    "projection": Look(theme.BLUE, "solid", 2.2),
    "rescaled": Look(theme.BLACK, "solid", 0),
    "small-start": Look(theme.ORANGE, "dash", 1.8),
    "standardised": Look(theme.GREEN, "dot", 2.0),
}
EXACT, TARGET, MOVED = "exact solution at the head's l2", "target", "direct, moved as predicted"


def steps_figure(found: Dynamics, *, same: bool) -> go.Figure:
    """Draw the loss over training steps.

    Parameters
    ----------
    found
        The analysis.
    same
        Draw all at the learning rate at which projection and direct vector differ most, not each
        at its best one.
    """
    figure, names = _grid(found), [*NAMES.values()]
    own = next((row for row in found.value["exact"] if row["name"] == "own l2"), None)
    x = [float(step) for step in found.steps]
    spans = []
    for row, measure in enumerate(MEASURES):
        shown: list[float] = []
        for column, optimizer in enumerate(found.optimizers):
            where = dict(row=row + 1, col=column + 1)
            legend = row == column == 0
            for name in NAMES:
                metrics = found.curve(optimizer, name, measure, same=same)
                shown += [metric.value for metric in metrics]
                figure.add_traces(_traces(name, x, metrics, "step", legend=legend), **_both(where))
            if own:
                level = own["fit_loss" if measure == "loss" else "choose_loss"]
                shown.append(level)
                line = _level(EXACT, [x[0], x[-1]], level, "dash", legend=legend)
                figure.add_trace(line, **where)
            figure.update_xaxes(range=[0, x[-1]], nticks=6, showgrid=False, **where)
        spans.append(_span(shown))
    if own:
        names.append(EXACT)
    heads = [TITLES[name] for name in found.optimizers]
    if same:
        rates = [found.rate(name, "direct", same=True) for name in found.optimizers]
        heads = [f"{head}, {rate:.2g}" for head, rate in zip(heads, rates, strict=True)]
    best = "" if same else "best on the choose split; "
    return _finish(
        figure, found, "Training step", names, spans, heads,
        title="Loss over training, all at one learning rate"
        if same
        else "Loss over training, each at its best learning rate",
        subtitle=f"{best}band: {_seeds(found)} starts, least to most; n = {_n(found)}",
    )  # fmt: skip


def rates_figure(found: Dynamics) -> go.Figure:
    """Draw the last loss over the learning rate, with the direct vector's moved as predicted."""
    figure, spans = _grid(found), []
    for row, measure in enumerate(MEASURES):
        shown: list[float] = []
        for column, optimizer in enumerate(found.optimizers):
            where, legend = dict(row=row + 1, col=column + 1), row == column == 0
            findings = found.findings(optimizer)
            rates: list[float] = []
            for name in NAMES:
                rates, metrics = found.last(optimizer, name, measure)
                shown += [metric.value for metric in metrics]
                traces = _traces(name, rates, metrics, "learning rate", legend=legend)
                figure.add_traces(traces, **_both(where))
            _, direct = found.last(optimizer, "direct", measure)
            moved = [rate / findings["step_factor"] for rate in rates]
            figure.add_trace(_moved(moved, direct, legend=legend), **where)
            target = findings["measures"][measure]["target"]
            figure.add_trace(
                _level(TARGET, [rates[0], rates[-1]], target, "dot", legend=legend), **where
            )
            ends = [math.log10(rates[0]), math.log10(rates[-1])]
            figure.update_xaxes(
                type="log", range=ends, dtick=1, exponentformat="power", showgrid=False,
                tickfont=dict(size=10), **where,
            )  # fmt: skip
        spans.append(_span(shown))
    return _finish(
        figure, found, "Learning rate", [*NAMES.values(), MOVED, TARGET], spans,
        [TITLES[name] for name in found.optimizers],
        title=f"Loss after {found.value['config']['steps']} steps over the learning rate",
        subtitle=f"band: {_seeds(found)} starts, least to most; n = {_n(found)}",
    )  # fmt: skip


def _both(where: dict[str, int]) -> dict[str, int]:
    return {"rows": where["row"], "cols": where["col"]}


def _grid(found: Dynamics) -> go.Figure:
    across, inside = len(found.optimizers), theme.WIDTH - _LEFT - _RIGHT
    return make_subplots(
        rows=2,
        cols=across,
        horizontal_spacing=_GAP / inside if across > 1 else 0,
        vertical_spacing=_BETWEEN / (2 * _EACH + _BETWEEN),
    )


def _traces(
    name: str, x: Sequence[float], metrics: Sequence[Metric], what: str, *, legend: bool
) -> list[go.Scatter]:
    """Return band and line; for the prediction open circles, which show the line they lie on."""
    look, label = LOOKS[name], NAMES[name]
    drawn = [metric.value for metric in metrics]
    common = dict(
        x=list(x), y=[_inside(value) for value in drawn], name=label, legendgroup=label,
        showlegend=legend, customdata=[[f"{at:.3g}", number(y, 3)] for at, y in zip(x, drawn, strict=True)],
        hovertemplate=f"{label}, {what} %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
    )  # fmt: skip
    if name == "rescaled":
        keep = max(1, len(x) // 20)
        for key in ("x", "y", "customdata"):
            common[key] = list(common[key])[::keep]  # type: ignore[call-overload]
        marker = dict(symbol="circle-open", size=7, color=look.color, line=dict(width=1.2))
        return [go.Scatter(**common, mode="markers", marker=marker)]
    band = go.Scatter(
        x=[*x, *reversed(list(x))],
        y=[*[_inside(m.high) for m in metrics], *[_inside(m.low) for m in reversed(metrics)]],
        fill="toself", fillcolor=theme.faint(look.color, 0.16), line=dict(width=0), mode="lines",
        name=f"{label} range", hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    line = dict(color=look.color, width=look.width, dash=look.dash)
    return [band, go.Scatter(**common, mode="lines", line=line)]


def _moved(x: Sequence[float], metrics: Sequence[Metric], *, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=list(x), y=[_inside(metric.value) for metric in metrics], mode="lines", name=MOVED,
        legendgroup=MOVED, showlegend=legend, hoverinfo="skip",
        line=dict(color=theme.VERMILLION, width=1.2, dash="dashdot"),
    )  # fmt: skip


def _level(name: str, x: Sequence[float], value: float, dash: str, *, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=list(x), y=[_inside(value)] * 2, mode="lines", name=name, legendgroup=name,
        showlegend=legend, line=dict(color=theme.BLACK, width=1, dash=dash),
        hovertemplate=f"{name}: {number(value, 3)}<extra></extra>",
    )  # fmt: skip


def _inside(value: float) -> float:
    """Return a loss the logarithmic axis can hold; what is beyond its ends runs out of the panel."""
    if math.isnan(value):
        return CEILING * 10
    return min(max(value, FLOOR / 10), CEILING * 10)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis of losses: what is shown, no further than the bounds."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.1), max(known, default=1.0)
    return min(max(0.8 * low, FLOOR), 0.5), max(min(1.2 * high, CEILING), 1.0)


def _finish(
    figure: go.Figure,
    found: Dynamics,
    x_title: str,
    names: Sequence[str],
    spans: Sequence[tuple[float, float]],
    heads: Sequence[str],
    *,
    title: str,
    subtitle: str,
) -> go.Figure:
    for row, (label, (low, high)) in enumerate(zip(MEASURES.values(), spans, strict=True)):
        ratio = high / low
        leads = (1, 2, 3, 5, 7) if ratio < 10 else (1, 2, 5) if ratio < 300 else (1,)
        ticks = [lead * 10.0**power for power in range(-3, 2) for lead in leads]
        for column in range(len(heads)):
            where = dict(row=row + 1, col=column + 1)
            figure.update_yaxes(
                type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks,
                ticktext=[f"{tick:g}" for tick in ticks],
                title=dict(text=label if column == 0 else "", font=dict(size=11.5)), **where,
            )  # fmt: skip
            text = x_title if row == 1 else ""
            figure.update_xaxes(title=dict(text=text, font=dict(size=11.5)), **where)
    for column, head in enumerate(heads):
        axis = "" if column == 0 else str(column + 1)
        figure.add_annotation(
            text=f"<b>{head}</b>", x=0, xref=f"x{axis} domain", xanchor="left", y=1,
            yref=f"y{axis} domain", yanchor="bottom", yshift=6, showarrow=False, font=dict(size=12),
        )  # fmt: skip
    return theme.finish(
        figure, title=title, subtitle=subtitle, plot_height=2 * _EACH + _BETWEEN, legend=list(names),
        left=_LEFT, right=_RIGHT, bottom=52, head=26,
    )  # fmt: skip


def _seeds(found: Dynamics) -> int:
    return int(found.value["config"]["n_seeds"])


def _n(found: Dynamics) -> str:
    n = found.value["n"]
    return f"{n['fit']:,} fit and {n['choose']:,} choose pairs"
