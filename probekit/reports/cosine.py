"""Cosine between the directions of different layers: where does the direction stay the same?"""

from __future__ import annotations

import math

import plotly.graph_objects as go

from probekit.reports import theme
from probekit.reports.rows import Sweep
from probekit.reports.words import kind_name, number, plot_text

WITH_NUMBERS = 14
"""Up to this many layers the cells carry their values."""


def cosine_figure(sweep: Sweep) -> go.Figure:
    """Draw the layers x layers matrix on a fixed scale from -1 to 1."""
    layers, matrix, chosen = sweep.cosine_layers, sweep.cosine, sweep.chosen
    names = [str(layer) for layer in layers]
    places = list(range(len(layers)))
    numbers = len(layers) <= WITH_NUMBERS
    figure = go.Figure(
        go.Heatmap(
            z=[theme.known(line) for line in matrix],
            x=places,
            y=places,
            zmin=-1,
            zmax=1,
            colorscale=[list(stop) for stop in theme.DIVERGING],
            text=[[_text(value) for value in line] for line in matrix] if numbers else None,
            texttemplate="%{text}" if numbers else None,
            textfont=dict(size=10),
            customdata=[[[row, column] for column in names] for row in names],
            hovertemplate="layers %{customdata[0]} and %{customdata[1]}: %{z:.3f}<extra></extra>",
            hoverongaps=False,
            xgap=0.5 if len(layers) <= 40 else 0,
            ygap=0.5 if len(layers) <= 40 else 0,
            colorbar=dict(
                title=dict(text="Cosine", side="top", font=dict(size=12)), thickness=10, len=0.6,
                outlinewidth=0, tickvals=[-1, -0.5, 0, 0.5, 1], x=1.02,
                ticktext=["−1", "−0.5", "0", "0.5", "1"], tickfont=dict(size=11),
            ),
        )
    )  # fmt: skip
    if chosen.layer in layers:
        where = layers.index(chosen.layer)
        for low, high, other in ((where - 0.5, where + 0.5, "x"), (where - 0.5, where + 0.5, "y")):
            ends = dict(x0=low, x1=high, y0=-0.5, y1=len(layers) - 0.5) if other == "x" else dict(
                y0=low, y1=high, x0=-0.5, x1=len(layers) - 0.5
            )  # fmt: skip
            figure.add_shape(type="rect", line=dict(color=theme.BLACK, width=1.2), **ends)
    step = max(1, math.ceil(len(layers) / 16))
    ticks = dict(tickmode="array", tickvals=places[::step], ticktext=names[::step], showgrid=False)
    edge = [-0.5, len(layers) - 0.5]
    figure.update_xaxes(title_text="Layer", range=edge, constrain="domain", **ticks)
    figure.update_yaxes(
        title_text="Layer", range=edge[::-1], scaleanchor="x", constrain="domain", **ticks
    )
    if any(math.isnan(value) for line in matrix for value in line):
        figure.update_layout(plot_bgcolor=theme.FAINT)
    kind = kind_name(chosen.kind, chosen.head)
    return theme.finish(
        figure,
        title="Cosine between the layers' directions",
        subtitle=f"{kind}, {chosen.site}, position {plot_text(chosen.position, 20)}; "
        f"n = {len(layers)} layers, fit split; lines frame the chosen layer",
        plot_height=max(240, min(440, 46 * len(layers))),
        right=90,
    )


def _text(value: float) -> str:
    return "" if math.isnan(value) else number(round(value, 2))
