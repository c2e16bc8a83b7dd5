"""Layers ranked by what steering them does, above what their probes predict."""

from __future__ import annotations

import math
from collections.abc import Callable

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.reports import theme
from probekit.reports.forest import axis_title
from probekit.reports.rows import Metric
from probekit.reports.steer_axis import name_anchor
from probekit.reports.steer_rows import RankedLayer, Ranking, Steer, span
from probekit.reports.steer_tables import change_cell
from probekit.reports.steer_words import coeff_text, digits_for
from probekit.reports.tables import interval_cell, table
from probekit.reports.words import CHANCE, metric_name, upper_first, with_interval

EACH, GAP = 170, 34
"""Height of a panel and of the gap between them, in pixels."""
SHOWN = 12
"""Layers in the table; the others fold out."""


def rerank_figure(steer: Steer, ranking: Ranking) -> go.Figure:
    """Draw the probes' metric above the effect for its damage, on one axis of layers."""
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=GAP / (2 * EACH + GAP)
    )
    layers = [row.layer for row in ranking.rows]
    pad = 0.02 * (layers[-1] - layers[0]) + 0.3
    ends = [layers[0] - pad, layers[-1] + pad]
    chance = CHANCE.get(ranking.metric)
    _panel(figure, ranking, 1, lambda row: row.metric, chance, ends)
    _panel(figure, ranking, 2, lambda row: row.ratio, 0.0, ends)
    _steered(figure, [row.layer for row in ranking.rows if row.steered], ends)
    figure.update_xaxes(**theme.layer_ticks(layers, 16), range=ends, showgrid=False)
    figure.update_xaxes(title_text="Layer", row=2, col=1)
    # Long names and their units share two rows, so that they stay within the panel's height.
    name = axis_title(ranking.metric).replace(" (", "<br>(")
    figure.update_yaxes(title_text=name, row=1, col=1)
    figure.update_yaxes(title_text="Effect for damage<br>(change per √nat)", row=2, col=1)
    rho = f"; Spearman ρ {with_interval(ranking.spearman)}" if ranking.spearman.known else ""
    prompts = steer.n["prompts"] if ranking.prompts is None else ranking.prompts
    return theme.finish(
        figure,
        title="Layers that read well and layers that steer well",
        subtitle=f"coeff {coeff_text(ranking.coeff)}; n = {prompts} prompts{rho}",
        plot_height=2 * EACH + GAP,
        left=76,
        head=26,
    )


def best_layer(ranking: Ranking, of: Callable[[RankedLayer], Metric]) -> RankedLayer | None:
    """Return the layer with the largest value, None where no layer has one."""
    known = [row for row in ranking.rows if of(row).known]
    return max(known, key=lambda row: of(row).value) if known else None


def _panel(
    figure: go.Figure,
    ranking: Ranking,
    row: int,
    of: Callable[[RankedLayer], Metric],
    level: float | None,
    ends: list[float],
) -> None:
    metrics = [of(item) for item in ranking.rows]
    color, symbol = ((theme.GREEN, "square"), (theme.BLUE, "circle"))[row - 1]
    if level is not None:
        figure.add_trace(theme.reference(ends, [level, level], "dash", "level"), row=row, col=1)
    figure.add_trace(
        go.Scatter(
            x=[item.layer for item in ranking.rows],
            y=theme.known([metric.value for metric in metrics]),
            mode="lines+markers",
            name="effect" if row == 2 else "metric",
            line=dict(color=theme.faint(color, 0.35), width=1.2),
            marker=dict(color=color, symbol=symbol, size=7),
            error_y=theme.error_bar(metrics, color),
            customdata=[[with_interval(metric, digits_for(metric))] for metric in metrics],
            hovertemplate="layer %{x}: %{customdata[0]}<extra></extra>",
            showlegend=False,
        ),
        row=row,
        col=1,
    )
    known = span([end for metric in metrics for end in metric] + ([] if level is None else [level]))
    low, high = known or (0.0, 1.0)
    pad = 0.14 * (high - low) or 0.1
    figure.update_yaxes(range=[low - 0.5 * pad, high + pad], row=row, col=1)
    best = best_layer(ranking, of) if row == 1 else ranking.first
    if best is not None:
        _mark(figure, best, of(best), row, _anchor(best.layer, ends))


def _mark(figure: go.Figure, best: RankedLayer, metric: Metric, row: int, anchor: str) -> None:
    """Ring the best layer and say so above its interval."""
    figure.add_trace(
        go.Scatter(
            x=[best.layer],
            y=[metric.value],
            mode="markers",
            name="best",
            marker=dict(symbol="circle-open", size=15, color=theme.BLACK, line=dict(width=2)),
            hoverinfo="skip",
            showlegend=False,
        ),
        row=row,
        col=1,
    )
    top = metric.high if metric.has_interval else metric.value
    what = "reads best" if row == 1 else "steers best"
    figure.add_annotation(
        x=best.layer, y=top, xanchor=anchor, yanchor="bottom", yshift=2 if metric.has_interval else 8,
        showarrow=False, text=f"<b>layer {best.layer}</b> {what}", font=dict(size=11),
        bgcolor="rgba(255,255,255,0.85)", row=row, col=1,
    )  # fmt: skip


def _anchor(layer: float, ends: list[float]) -> str:
    return name_anchor((layer - ends[0]) / (ends[1] - ends[0]))


def _steered(figure: go.Figure, layers: list[int], ends: list[float]) -> None:
    """Mark the layers that the run steered, with one name for all of them."""
    for layer in layers:
        figure.add_shape(
            type="line", x0=layer, x1=layer, y0=0, y1=1, xref="x", yref="paper", layer="below",
            line=dict(color=theme.VERMILLION, width=1.4, dash="dot"),
        )  # fmt: skip
    if not layers:
        return
    middle = (layers[0] + layers[-1]) / 2
    figure.add_annotation(
        x=middle, xanchor=_anchor(middle, ends), xref="x", y=1, yref="paper", yanchor="bottom",
        showarrow=False,
        text="steered in this run", font=dict(size=11, color=theme.VERMILLION),
    )  # fmt: skip


def rerank_table(ranking: Ranking) -> str:
    """Return the layers by rank: what they predict, what steering them does, and its ratio."""
    rows = sorted(ranking.rows, key=lambda row: math.inf if row.rank is None else row.rank)
    name = metric_name(ranking.metric)
    header = ["Rank", "Layer", upper_first(name), "Effect (score)", "Damage (nats per token)",
              "Effect per √nat"]  # fmt: skip

    def part(some: list[RankedLayer], caption: str) -> str:
        return table(header, [_row(row) for row in some], caption=caption, name="numbers")

    shown = part(
        rows[:SHOWN],
        f"Layers by effect per root of damage at coeff {coeff_text(ranking.coeff)}, with 95 % "
        "intervals; those whose interval holds 0 come last. <b>Bold</b>: the layer this run steered.",
    )
    if len(rows) <= SHOWN:
        return shown
    rest = part(rows[SHOWN:], "The other layers.")
    return (
        f"{shown}<details><summary>The other {len(rows) - SHOWN} layers</summary>{rest}</details>"
    )


def _row(row: RankedLayer) -> list[str]:
    layer = f"<b>{row.layer}, steered</b>" if row.steered else str(row.layer)
    return [
        "–" if row.rank is None else str(row.rank),
        layer,
        interval_cell(row.metric, 2),
        change_cell(row.effect),
        interval_cell(row.damage, 3),
        interval_cell(row.ratio, 2),
    ]
