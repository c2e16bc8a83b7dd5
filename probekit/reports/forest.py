"""Forest plots: one metric with its interval a row, against a reference line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from probekit.reports import theme
from probekit.reports.rows import Metric, Prediction, Sweep
from probekit.reports.verdict import control_metric
from probekit.reports.words import (
    CHANCE,
    control_name,
    count,
    metric_name,
    ordered_controls,
    plot_text,
    upper_first,
    with_interval,
)

ROW = 30
"""Height of a row in pixels."""


class ForestRow(NamedTuple):
    """One row: a name, a metric, and whether it is the one the others are held against."""

    name: str
    metric: Metric
    main: bool = False


def controls_figure(sweep: Sweep) -> go.Figure:
    """Draw the report metric of the chosen probe above its controls."""
    rows = [ForestRow("chosen probe", sweep.best, main=True)]
    for name in ordered_controls(list(sweep.controls)):
        metric = control_metric(sweep.controls[name], sweep.primary)
        rows.append(ForestRow(control_name(name), metric))
    return forest(
        rows,
        metric=sweep.primary,
        title=f"The chosen probe against its controls: {metric_name(sweep.primary)}",
        subtitle=report_n(sweep),
    )


def tag_figure(sweep: Sweep, tag: str, *, most: int = 16) -> go.Figure:
    """Draw the report metric for every value of a tag, at most `most` of them."""
    counts = value_counts(sweep.predictions, tag)
    values = sweep.by_tag[tag]
    shown = sorted(values, key=lambda value: -counts.get(value, 0))[:most]
    rows = [ForestRow("all", sweep.best, main=True)]
    for value in shown:
        metric = control_metric(values[value], sweep.primary)
        rows.append(
            ForestRow(f"{plot_text(value, 26)}  (n = {count(counts.get(value, 0))})", metric)
        )
    left_out = f", {most} largest of {len(values)} values" if len(values) > most else ""
    return forest(
        rows,
        metric=sweep.primary,
        title=f"{upper_first(metric_name(sweep.primary))} by {plot_text(tag, 30)}",
        subtitle=report_n(sweep) + left_out,
    )


def value_counts(predictions: Sequence[Prediction], tag: str) -> dict[str, int]:
    """Return how many held-out examples (pairs, where rows have sides) have each value of a tag."""
    counts: dict[str, int] = {}
    for value, rows in theme.by_value(predictions, tag).items():
        counts[value] = sum(row.side != "rejected" for row in rows)
    return counts


def report_n(sweep: Sweep) -> str:
    """Return what the report split holds, as a subtitle."""
    groups = sweep.n.get("report_groups")
    within = f" in {count(groups)} groups" if groups else ""
    return f"report split, n = {count(sweep.n['report'])} {sweep.unit}{within}"


def forest(rows: Sequence[ForestRow], *, metric: str, title: str, subtitle: str) -> go.Figure:
    """Draw rows from top to bottom: point, interval, and the numbers in a column on the right."""
    figure = go.Figure()
    _reference(figure, rows, metric)
    heights = list(range(len(rows) - 1, -1, -1))
    for main in (True, False):
        group = [(row, y) for row, y in zip(rows, heights, strict=True) if row.main is main]
        color = theme.BLUE if main else theme.GREY
        metrics = [row.metric for row, _ in group]
        figure.add_trace(
            go.Scatter(
                x=theme.known([item.value for item in metrics]),
                y=[y for _, y in group],
                mode="markers",
                marker=dict(
                    color=color, size=11 if main else 8, symbol="diamond" if main else "circle"
                ),
                error_x=theme.error_bar(metrics, color),
                customdata=[[row.name, with_interval(row.metric, 3)] for row, _ in group],
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
                cliponaxis=False,
            )
        )
    for row, y in zip(rows, heights, strict=True):
        text = with_interval(row.metric) if row.metric.known else "no value"
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=12, y=y, yref="y", showarrow=False,
            text=f"<b>{text}</b>" if row.main else text, font=dict(size=12), align="left",
        )  # fmt: skip
    names = [f"<b>{row.name}</b>" if row.main else row.name for row in rows]
    figure.update_xaxes(title_text=axis_title(metric), range=_range(rows, metric))
    figure.update_yaxes(
        tickmode="array", tickvals=heights, ticktext=names, range=[-0.6, len(rows) - 0.4],
        showgrid=False, ticks="", showline=False, ticklabelstandoff=6,
    )  # fmt: skip
    return theme.finish(
        figure, title=title, subtitle=subtitle, plot_height=ROW * len(rows) + 14, right=150, head=24
    )


def axis_title(metric: str) -> str:
    """Return a metric's axis title with its unit."""
    units = {"mae": "rating units", "margin": "score units", "chosen": "score units",
             "rejected": "score units", "log_loss": "nats"}  # fmt: skip
    name = upper_first(metric_name(metric))
    if metric in ("accuracy", "balanced_accuracy", "pair_accuracy"):
        return f"{name} (fraction right)"
    return f"{name} ({units[metric]})" if metric in units else name


def _reference(figure: go.Figure, rows: Sequence[ForestRow], metric: str) -> None:
    """Draw chance as a trace, which lies over the grid and under the points, and the band."""
    main = next(row.metric for row in rows if row.main)
    if main.has_interval:
        figure.add_vrect(
            x0=main.low,
            x1=main.high,
            fillcolor=theme.BLUE,
            opacity=0.08,
            line_width=0,
            layer="below",
        )
    chance = CHANCE.get(metric)
    if chance is not None:
        figure.add_trace(
            theme.reference([chance, chance], [-0.6, len(rows) - 0.4], "dash", "chance")
        )
        figure.add_annotation(
            x=chance, y=1, yref="paper", yanchor="bottom", showarrow=False, text="chance",
            font=dict(size=11, color=theme.GREY),
        )  # fmt: skip


def _range(rows: Sequence[ForestRow], metric: str) -> list[float]:
    ends = [end for row in rows for end in row.metric if end == end]
    chance = CHANCE.get(metric)
    if chance is not None:
        ends.append(chance)
    if not ends:
        return [0.0, 1.0]
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 0.1
    return [low - pad, high + pad]
