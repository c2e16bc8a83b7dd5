"""What the probe of every layer reads of the steering: one change a layer, with random directions."""

from __future__ import annotations

import plotly.graph_objects as go

from probekit.reports import theme
from probekit.reports.rows import Metric
from probekit.reports.steer_axis import name_anchor
from probekit.reports.steer_rows import Change, Steer, span
from probekit.reports.steer_traces import EACH, LIGHT, RANGE, band
from probekit.reports.steer_words import change_text, direction_name, listed, report_n, wrapped
from probekit.reports.words import count

NAMED = 3
"""Up to this many steered layers are named in the figure."""
READ = "probe of each layer, 95 % interval"


def layer_changes(steer: Steer) -> dict[int, Change]:
    """Return the change that each layer's probe reads, layers in order.

    The score itself stands for the probe's own layer where that has no measure of its own.
    """
    found = {
        item.layer: steer.change(item.name)
        for item in steer.grouped("layers")
        if item.layer is not None
    }
    if found:
        found.setdefault(steer.probe.layer, steer.change("score"))
    return {layer: found[layer] for layer in sorted(found)}


def layers_figure(steer: Steer) -> go.Figure:
    """Draw the slope (the difference, where only ablation was run) over layers."""
    changes = layer_changes(steer)
    layers, metrics = list(changes), [change.metric for change in changes.values()]
    figure = go.Figure()
    pad = 0.02 * (layers[-1] - layers[0]) + 0.3
    ends = [layers[0] - pad, layers[-1] + pad]
    figure.add_trace(theme.reference(ends, [0.0, 0.0], "dash", "no change"))
    names = [READ, *_controls(figure, changes)]
    figure.add_traces(band(layers, metrics, theme.faint(theme.BLUE, 0.16), "interval"))
    figure.add_trace(_line(layers, metrics))
    _steered(figure, steer, ends)
    what = "change under ablation" if steer.ablate_only else "slope of its score"
    unit = "ablated − unsteered" if steer.ablate_only else "per mean residual norm"
    figure.update_xaxes(
        **theme.layer_ticks(layers, 16),
        range=ends,
        showgrid=False,
        title_text="Layer whose probe reads the score",
    )
    figure.update_yaxes(title_text=wrapped(f"Change of score ({unit})", 44), **_range(changes))
    return theme.finish(
        figure,
        title=f"What every layer's probe reads: {what}",
        subtitle=report_n(steer),
        plot_height=280,
        legend=names,
        head=26,
    )


def _line(layers: list[int], metrics: list[Metric]) -> go.Scatter:
    return go.Scatter(
        x=layers,
        y=theme.known([metric.value for metric in metrics]),
        mode="lines+markers",
        name=READ,
        line=dict(color=theme.BLUE, width=2),
        marker=dict(size=6, color=theme.BLUE),
        error_y=theme.error_bar(metrics, theme.BLUE) if len(layers) == 1 else None,
        customdata=[[change_text(metric)] for metric in metrics],
        hovertemplate="probe of layer %{x}: %{customdata[0]}<extra></extra>",
    )


def _controls(figure: go.Figure, changes: dict[int, Change]) -> list[str]:
    """Draw every random direction and their range; return their names in the legend."""
    layers, total = list(changes), max(len(change.random) for change in changes.values())
    spans = [span(change.random) for change in changes.values()]
    ranges = [Metric(item[0], *item) if item else Metric(float("nan")) for item in spans]
    if total > 1:
        bands = band(layers, ranges, theme.faint(theme.GREY, 0.15), RANGE)
        for index, trace in enumerate(bands):
            figure.add_trace(trace.update(showlegend=index == 0, legendrank=3000))
    for index in range(total):
        values = [
            change.random[index] if index < len(change.random) else float("nan")
            for change in changes.values()
        ]
        name = direction_name(f"random-{index + 1:02}")
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=theme.known(values),
                mode="lines" if len(layers) > 1 else "markers",
                name=EACH,
                legendgroup=EACH,
                legendrank=2000,
                showlegend=index == 0,
                line=dict(color=LIGHT, width=1),
                hovertemplate=f"{name}, probe of layer %{{x}}: %{{y:.3g}}<extra></extra>",
            )
        )
    return ([EACH] if total else []) + ([RANGE] if total > 1 else [])


def _steered(figure: go.Figure, steer: Steer, ends: list[float]) -> None:
    """Mark the layers that were steered; a stretch of many is only shaded."""
    if not steer.layers:
        return
    first, last = min(steer.layers), max(steer.layers)
    if len(steer.layers) > NAMED:
        figure.add_shape(
            type="rect", x0=first - 0.4, x1=last + 0.4, y0=0, y1=1, yref="paper",
            fillcolor=theme.faint(theme.VERMILLION, 0.08), line_width=0, layer="below",
        )  # fmt: skip
        text = f"{count(len(steer.layers))} layers steered"
    else:
        for layer in steer.layers:
            figure.add_shape(
                type="line", x0=layer, x1=layer, y0=0, y1=1, yref="paper", layer="below",
                line=dict(color=theme.VERMILLION, width=1.4, dash="dot"),
            )  # fmt: skip
        plural = "s" if len(steer.layers) > 1 else ""
        text = f"steered: layer{plural} {listed([str(layer) for layer in steer.layers])}"
    middle = (first + last) / 2
    anchor = name_anchor((middle - ends[0]) / (ends[1] - ends[0]))
    figure.add_annotation(
        x=middle, xanchor=anchor, y=1, yref="paper", yanchor="bottom", showarrow=False, text=text,
        font=dict(size=11, color=theme.VERMILLION),
    )  # fmt: skip


def _range(changes: dict[int, Change]) -> dict[str, list[float]]:
    ends = [end for change in changes.values() for end in (*change.metric, *change.random)]
    known = span([0.0, *ends]) or (0.0, 1.0)
    pad = 0.06 * (known[1] - known[0]) or 0.1
    return dict(range=[known[0] - pad, known[1] + pad])
