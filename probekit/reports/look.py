"""One look for every figure: palette, fonts, panels, titles and legends placed in pixels.

The palette is Okabe and Ito's, told apart by readers with any of the common colour blindnesses;
every colour is doubled by a dash or a marker so that a grey print can be read too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from probekit.reports.formats import plot_text

BLACK, GREY, THIN, FAINT, GRID = "#1a1a1a", "#6b6b6b", "#a6a6a6", "#c9c9c9", "#ececec"
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY = "#E69F00", "#56B4E9"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
DASHES = ("solid", "solid", "dash", "dash", "dot", "dot", "dashdot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
CONTROLS = ("dot", "dashdot", "dash")
LEVELS = ("dash", "dot", "longdashdot")
FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
SEQUENTIAL = ["#f4f8fc", "#c6dbef", "#7fb5da", "#2f7fbc", "#083d7a"]
DIVERGING = ["#b2451c", "#efa37f", "#f7f7f7", "#86bedd", "#00588c"]
"""Colour scales, evenly spaced from the lowest value to the highest."""
WIDTH = 680
"""Narrowest width in pixels a figure is drawn at: A4 between its margins."""
TITLE, LEGEND_ROW = 46, 22


@dataclass(frozen=True)
class Panels:
    """Panels in rows: how many beside each other, how high each is, the gaps, in pixels."""

    n: int
    across: int
    each: int
    gap: int = 76

    @classmethod
    def fitting(cls, n: int, across: int | None = None, each: int | None = None) -> Panels:
        """Return a layout for `n` panels that stays on a printed page where it can."""
        wide = min(n, across or (2 if n in (2, 4) else 3))
        return cls(n, wide, each or {1: 320, 2: 230}.get(wide, 180))

    @property
    def down(self) -> int:
        """Rows of panels."""
        return -(-self.n // self.across)

    @property
    def height(self) -> int:
        """Height of all rows with their gaps."""
        return self.down * self.each + (self.down - 1) * self.gap

    def cell(self, index: int) -> dict[str, int]:
        """Return row and column of a panel, as plotly counts them."""
        return {"row": index // self.across + 1, "col": index % self.across + 1}

    def figure(self, **options: Any) -> go.Figure:  # noqa: ANN401 - plotly's own
        """Return an empty figure of these panels; unused places are left blank."""
        # Between columns stand tick labels, which take 64 pixels.
        across, down = 64 / WIDTH * (self.across > 1), self.gap / self.height * (self.down > 1)
        spacing = {"horizontal_spacing": across, "vertical_spacing": down}
        made = make_subplots(rows=self.down, cols=self.across, **spacing, **options)
        for index in range(self.n, self.down * self.across):
            made.update_xaxes(visible=False, **self.cell(index))
            made.update_yaxes(visible=False, **self.cell(index))
        return made


def axis(letter: str, index: int) -> str:
    """Return plotly's name of the axis of a panel: `x`, `x2`, `y3`."""
    return letter if index == 0 else f"{letter}{index + 1}"


def panel_title(figure: go.Figure, text: str, index: int, letters: int, lift: int = 4) -> None:
    """Write a title `lift` pixels above a panel, at its left edge, cut to so many letters."""
    figure.add_annotation(
        text=f"<b>{plot_text(text, letters)}</b>", x=0, xref=f"{axis('x', index)} domain",
        xanchor="left", y=1, yref=f"{axis('y', index)} domain", yanchor="bottom", yshift=lift,
        showarrow=False, align="left", font={"size": 12},
    )  # fmt: skip


def above(figure: go.Figure, x: float, text: str, index: int = 0) -> None:
    """Name a place on the horizontal axis above a panel."""
    figure.add_annotation(
        x=x, xref=axis("x", index), y=1, yref=f"{axis('y', index)} domain", yanchor="bottom",
        text=text, showarrow=False, font={"size": 10.5, "color": GREY},
    )  # fmt: skip


def template() -> go.layout.Template:
    """Return the template of every figure."""
    line = dict(
        showline=True, linecolor=BLACK, linewidth=1, ticks="outside", ticklen=4, tickcolor=BLACK,
        gridcolor=GRID, gridwidth=1, zeroline=False, automargin=True,
        title=dict(standoff=8, font=dict(size=12.5)), tickfont=dict(size=11.5),
    )  # fmt: skip
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=12, color=BLACK), paper_bgcolor="white",
            plot_bgcolor="white", colorway=list(SERIES), xaxis=line, yaxis=line, dragmode=False,
            hoverlabel=dict(bgcolor="white", bordercolor=FAINT, font=dict(family=FONT, size=12)),
            hovermode="closest",
        )
    )  # fmt: skip


def finish(
    figure: go.Figure, *, title: str, subtitle: str, height: int, legend: Sequence[str] = (),
    right: int = 16, head: int = 10,
) -> go.Figure:  # fmt: skip
    """Put title, subtitle and legend above a plot area of `height` pixels; return the figure.

    Everything is placed in pixels, so nothing moves over anything else at any width down to
    `WIDTH`. `legend` names the legend's entries: how many rows they take is worked out here.
    `head` is the room right above the plot area, for panel titles.
    """
    bottom = 56
    top = TITLE + LEGEND_ROW * legend_rows(legend) + head
    whole = top + height + bottom
    small = f"<span style='font-size:12px;color:{GREY}'>{subtitle}</span>"
    return figure.update_layout(
        template=template(), height=whole, margin=dict(l=60, r=right, t=top, b=bottom),
        title=dict(
            text=f"<b>{title}</b><br>{small}", font=dict(size=14.5), x=0, xref="container",
            xanchor="left", y=1, yref="container", yanchor="top", pad=dict(t=22, l=4),
        ),
        showlegend=bool(legend),
        legend=dict(
            orientation="h", x=0, xref="container", xanchor="left", y=1 - (TITLE + 2) / whole,
            yref="container", yanchor="top", font=dict(size=11.5), itemsizing="trace",
            traceorder="normal", itemclick=False, itemdoubleclick=False,
            bgcolor="rgba(255,255,255,0)",
        ),
    )  # fmt: skip


def legend_rows(entries: Sequence[str]) -> int:
    """Return how many rows a horizontal legend of `entries` takes at `WIDTH`.

    Plotly gives every entry the width of the longest one when they do not fit in one row.
    """
    widths = [text_width(entry) + 44 for entry in entries]
    if sum(widths) <= WIDTH - 20:
        return int(bool(widths))
    return math.ceil(len(entries) / max(1, int((WIDTH - 20) // max(widths))))


def text_width(text: str, size: float = 11.5) -> float:
    """Return about how many pixels `text` takes, rather too many than too few."""
    return len(text) * size * 0.56


def faint(color: str, opacity: float) -> str:
    """Return a `#rrggbb` colour as rgba with an opacity."""
    return f"rgba({','.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))},{opacity})"


def mark(place: float | tuple[float, float], color: str, index: int) -> dict[str, object]:
    """Return the shape of a vertical line in a panel, or of a shade between two places."""
    ends = place if isinstance(place, tuple) else (place, place)
    shape: dict[str, object] = {
        "x0": ends[0], "x1": ends[1], "y0": 0, "y1": 1,
        "xref": axis("x", index), "yref": f"{axis('y', index)} domain",
    }  # fmt: skip
    if isinstance(place, tuple):
        fill = {"fillcolor": faint(color, 0.13), "line": {"width": 0}, "layer": "below"}
        return {"type": "rect", **shape, **fill}
    return {"type": "line", **shape, "line": {"color": color, "width": 1.2, "dash": "dot"}}


def key(name: str, color: str, symbol: str = "line-ns") -> go.Scatter:
    """Return a trace that draws nothing and names a mark in the legend; a square for shading."""
    fill = faint(color, 0.2) if symbol == "square" else color
    marker = {"symbol": symbol, "size": 12, "color": fill, "line": {"width": 1.4, "color": color}}
    return go.Scatter(
        x=[None], y=[None], mode="markers", name=name, hoverinfo="skip", marker=marker
    )


def bands(line: pd.DataFrame, color: str, name: str) -> list[go.Scatter]:
    """Return the interval of a line as filled bands, broken where a point has none."""
    has = line["low"].notna() & line["high"].notna()
    return [
        go.Scatter(
            x=[*numbers(part["x"]), *numbers(part["x"][::-1])],
            y=[*numbers(part["high"]), *numbers(part["low"][::-1])],
            fill="toself", fillcolor=faint(color, 0.14), line={"width": 0}, mode="lines",
            hoverinfo="skip", showlegend=False, legendgroup=name,
        )
        for _, part in line[has].groupby((~has).cumsum()[has])
    ]  # fmt: skip


def error_bar(data: pd.DataFrame, color: str) -> dict[str, object]:
    """Return plotly's bar of the interval of every row; no bar where there is none."""
    above = (data["high"] - data["value"]).clip(lower=0).fillna(0.0)
    below = (data["value"] - data["low"]).clip(lower=0).fillna(0.0)
    return {
        "type": "data", "symmetric": False, "array": above.tolist(), "arrayminus": below.tolist(),
        "color": color, "thickness": 1.6, "width": 0,
    }  # fmt: skip


def numbers(values: pd.Series) -> list[float | None]:
    """Return values as JSON has them: None for NaN."""
    return [None if pd.isna(value) else value for value in values.tolist()]


def thinned(labels: Sequence[object], most: float) -> list[int]:
    """Return the places of at most about `most` labels at round steps; a word before numbers stays."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if len(labels) <= step * most)
    first = next((at for at, label in enumerate(labels) if str(label).lstrip("-").isdigit()), 0)
    shown = list(range(first, len(labels), step))
    return [*range(0, first, step), *(shown if step == 1 or not first else shown[1:])]


def apart(labels: Sequence[tuple[float, str]], pixels: float) -> list[tuple[float, str]]:
    """Return the labels that have room on an axis of so many pixels, the first ones before others."""
    span = max((x for x, _ in labels), default=0.0) - min((x for x, _ in labels), default=0.0)
    shown: list[tuple[float, str]] = []
    for x, text in labels:
        if all(
            abs(x - other) * pixels >= (text_width(text + name, 10.5) / 2 + 6) * span
            for other, name in shown
        ):
            shown.append((x, text))
    return shown


def padded(values: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of an axis that holds all finite values, with a little room."""
    finite = values.to_numpy(dtype=float)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def bin_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges of bins that hold every finite value, multiples of a width (Freedman and Diaconis)."""
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    span = high - low or 1.0
    quarter, three = np.percentile(values, [25, 75]) if values.size else (0.0, 0.0)
    width = 2 * float(three - quarter) / max(1, values.size) ** (1 / 3) or span / 10
    width = span / min(40, max(10, math.ceil(span / width)))
    first = math.floor(low / width)
    last = max(math.ceil(high / width), first + 1)
    edges = np.arange(first, last + 1, dtype=np.float64) * width
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding leaves no value out
    return edges


def powers(values: pd.DataFrame, bounds: tuple[float, float] = (1e-9, 1e9)) -> dict[str, object]:
    """Return an axis by powers of ten that holds the values, as far as `bounds` go."""
    finite = values.to_numpy(dtype=float)
    finite = finite[np.isfinite(finite) & (finite > 0)]
    low = max(0.8 * float(finite.min(initial=bounds[1])), bounds[0])
    high = min(1.25 * float(finite.max(initial=bounds[0])), bounds[1])
    low, high = (low / 1.4, high * 1.4) if high < 2 * low else (low, high)
    leads = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 300 * low else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [lead * 10.0**exponent for exponent in exponents for lead in leads]
    return {
        "type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": ticks,
        "ticktext": [f"{tick:,g}" for tick in ticks],
    }  # fmt: skip
