"""The damage frontier: how far the score is moved against what that does to the text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from probekit.reports import theme
from probekit.reports.rows import NO_VALUE, Metric
from probekit.reports.steer_axis import WIDE, name_anchor
from probekit.reports.steer_rows import PROBE, Condition, Steer, steered_ends
from probekit.reports.steer_words import coeff_text, direction_name, report_n, signed, wrapped
from probekit.reports.words import number

HEIGHT = 340
STEERED, RANDOM, ABLATED = "probe direction", "random directions", "probe direction ablated"

_LEFT, _RIGHT = 64, 24
_LABEL = 11.0


class Spot(NamedTuple):
    """Where a condition lies: damage across, effect up."""

    item: Condition
    x: float
    y: float
    effect: Metric = NO_VALUE
    """The effect with its interval, paired over prompts, where that was recorded."""


class Frontier(NamedTuple):
    """What is drawn: the probe's path by dose, random directions, and the ablated model."""

    path: list[Spot]
    random: list[Spot]
    ablated: list[Spot]
    by_perplexity: bool
    """Damage is perplexity as a multiple of the unsteered; nats per token otherwise."""


class Window(NamedTuple):
    """Ends of both axes in the units of the data; x is logarithmic where `log`."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies in the narrowest figure, from its lower left corner."""
        (x0, x1), (y0, y1) = self.x, self.y
        if self.log:
            x, x0, x1 = math.log10(x), math.log10(x0), math.log10(x1)
        across = (x - x0) / (x1 - x0) * (theme.WIDTH - _LEFT - _RIGHT)
        return across, (y - y0) / (y1 - y0) * HEIGHT


def frontier(steer: Steer) -> Frontier | None:
    """Return the points of the frontier, None where score or damage has no values."""
    before = steer.baseline.value("perplexity").value
    by_perplexity = before > 0
    start = steer.baseline.value("score").value

    def spots(items: Sequence[Condition]) -> list[Spot]:
        found = []
        for item in items:
            damage = item.value("perplexity" if by_perplexity else "kl").value
            if item is steer.baseline and not by_perplexity:
                damage = 0.0
            effect = item.differences.get("score", NO_VALUE)
            if not effect.known:
                effect = Metric(item.value("score").value - start)
            spot = Spot(item, damage / before if by_perplexity else damage, effect.value, effect)
            if math.isfinite(spot.x) and math.isfinite(spot.y):
                found.append(spot)
        return found

    path = spots(steer.curve(PROBE))
    ablated = steer.ablated(PROBE)
    random = [c for c in steer.conditions if c.direction in steer.controls and not c.ablated]
    found = Frontier(path, spots(random), spots([ablated] if ablated else []), by_perplexity)
    return found if len(path) + len(found.ablated) > 1 else None


def frontier_figure(steer: Steer, found: Frontier) -> go.Figure:
    """Draw effect against damage: the path of the probe's direction, controls as grey points."""
    window = _window(steer, found)
    figure = go.Figure()
    if found.by_perplexity and not math.isnan(steer.usable.bound):
        _bound(figure, steer.usable.bound, window)
    ends = list(window.x)
    figure.add_trace(theme.reference(ends, [0.0, 0.0], "dot", "unsteered"))
    figure.add_trace(_points(found.random, RANDOM, theme.GREY, "circle-open", 6))
    figure.add_trace(_path(steer, found))
    ablated = _points(found.ablated, ABLATED, theme.VERMILLION, "diamond", 10)
    bars = theme.error_bar([spot.effect for spot in found.ablated], theme.VERMILLION)
    figure.add_trace(ablated.update(error_y=bars))
    for note in labels(steer, found, window):
        figure.add_annotation(note)
    score = steer.measure("score")
    unit = score.unit if score and score.unit else "score units"
    title = "Perplexity (times the unsteered)"
    if not found.by_perplexity:
        title = "Divergence from the unsteered model (nats per token)"
    figure.update_xaxes(title_text=title, **_x_layout(window))
    figure.update_yaxes(title_text=wrapped(f"Change of score ({unit})", 52), range=list(window.y))
    shown = [STEERED] * (len(found.path) > 1) + [RANDOM] * bool(found.random)
    return theme.finish(
        figure,
        title="Change of the score against damage to the text",
        subtitle=report_n(steer),
        plot_height=HEIGHT,
        legend=shown + [ABLATED] * bool(found.ablated),
        left=_LEFT,
        right=_RIGHT,
        head=24,
    )


def labels(steer: Steer, found: Frontier, window: Window) -> list[dict[str, object]]:
    """Return the doses written beside the path, those left out that would lie over something."""
    at = [window.pixel(spot.x, spot.y) for spot in found.path]
    marks: list[tuple[float, ...]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    marks += [
        (x - 6, y - 6, x + 6, y + 6)
        for x, y in (window.pixel(spot.x, spot.y) for spot in found.ablated)
    ]
    marks += _on_lines(at, window)
    for spot in found.path:
        if spot.effect.has_interval:
            x, bottom = window.pixel(spot.x, spot.effect.low)
            marks.append((x - 1, bottom, x + 1, window.pixel(spot.x, spot.effect.high)[1]))
    if found.by_perplexity and window.x[0] < steer.usable.bound < window.x[1]:
        bound = window.pixel(steer.usable.bound, 0.0)[0]
        marks.append((bound - 1, 0, bound + 1, HEIGHT))
    width = theme.WIDTH - _LEFT - _RIGHT
    taken: list[tuple[float, float, float, float]] = []
    notes: list[dict[str, object]] = []
    for index in _order(steer, found.path):
        text, (x, y) = coeff_text(found.path[index].item.coeff), at[index]
        half = theme.text_width(text, _LABEL) / 2 + 1
        up = 1 if found.path[index].y >= 0 else -1
        for dx, dy in _sides(half, up):
            box = (x + dx - half, y + dy - 7, x + dx + half, y + dy + 7)
            free = not any(_overlap(box, other) for other in [*taken, *marks])
            if free and box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= HEIGHT:
                taken.append(box)
                notes.append(_note(found.path[index], text, dx, dy, log=window.log))
                break
    return notes


def _sides(half: float, up: int) -> list[tuple[float, float]]:
    """Return where a label may stand beside its point, outward first."""
    right, left = half + 8, -half - 8
    return [(left, 9 * up), (left, 0), (right, 0), (right, -9 * up), (0, 15 * up), (0, -15 * up)]


def _on_lines(at: Sequence[tuple[float, float]], window: Window) -> list[tuple[float, ...]]:
    """Return small boxes along the path and the line of no effect, where no label may lie."""
    zero = window.pixel(window.x[0], 0.0)[1]
    boxes: list[tuple[float, ...]] = [(0, zero - 1, theme.WIDTH, zero + 1)]
    for (x0, y0), (x1, y1) in pairwise(at):
        steps = max(2, int(max(abs(x1 - x0), abs(y1 - y0)) / 4))
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            boxes.append((x - 1, y - 1, x + 1, y + 1))
    return boxes


def _note(spot: Spot, text: str, dx: float, dy: float, *, log: bool) -> dict[str, object]:
    return dict(
        x=math.log10(spot.x) if log else spot.x, y=spot.y, xshift=dx, yshift=dy, text=text,
        showarrow=False, font=dict(size=_LABEL, color=theme.BLUE), xanchor="center",
        yanchor="middle",
    )  # fmt: skip


def _order(steer: Steer, path: Sequence[Spot]) -> list[int]:
    """Return which doses are named first: the usable ends, the outermost, 0, then the others."""
    coeffs = [spot.item.coeff for spot in path]
    first = [*steered_ends(steer), coeffs[-1], coeffs[0], 0.0]
    wanted = [*first, *sorted(coeffs, key=abs, reverse=True)]
    return [coeffs.index(coeff) for coeff in dict.fromkeys(wanted) if coeff in coeffs]


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    across = min(one[2], other[2]) - max(one[0], other[0])
    return across > 0 and min(one[3], other[3]) - max(one[1], other[1]) > 0


def _path(steer: Steer, found: Frontier) -> go.Scatter:
    usable = [
        spot.item.coeff in steer.usable.coeffs or spot.item is steer.baseline for spot in found.path
    ]
    trace = _points(found.path, STEERED, theme.BLUE, "circle", 8)
    return trace.update(
        mode="lines+markers",
        line=dict(color=theme.BLUE, width=1.6),
        marker=dict(
            symbol=["circle" if ok else "circle-open" for ok in usable],
            line=dict(width=1.6, color=theme.BLUE),
        ),
        error_y=theme.error_bar([spot.effect for spot in found.path], theme.faint(theme.BLUE, 0.5)),
        showlegend=len(found.path) > 1,
        legendrank=1,
    )


def _points(spots: Sequence[Spot], name: str, color: str, symbol: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=[spot.x for spot in spots],
        y=[spot.y for spot in spots],
        mode="markers",
        name=name,
        showlegend=bool(spots),
        marker=dict(color=color, symbol=symbol, size=size),
        customdata=[
            [
                direction_name(spot.item.direction),
                coeff_text(spot.item.coeff),
                number(spot.x, 3),
                signed(spot.y, 2),
            ]
            for spot in spots
        ],
        hovertemplate="%{customdata[0]}, %{customdata[1]}: damage %{customdata[2]}, effect "
        "%{customdata[3]}<extra></extra>",
    )


def _bound(figure: go.Figure, bound: float, window: Window) -> None:
    if not window.x[0] < bound < window.x[1]:
        return
    line = theme.reference([bound, bound], list(window.y), "dash", "bound")
    figure.add_trace(line.update(line=dict(color=theme.ORANGE, width=1.6)))
    # The name stays over the plot where the line is close to one of its ends.
    share = window.pixel(bound, 0.0)[0] / (theme.WIDTH - _LEFT - _RIGHT)
    figure.add_annotation(
        x=math.log10(bound) if window.log else bound, y=1, yref="paper", yanchor="bottom",
        xanchor=name_anchor(share), showarrow=False, text=f"bound of usable text, {number(bound, 1)}",
        font=dict(size=11, color=theme.GREY),
    )  # fmt: skip


def _window(steer: Steer, found: Frontier) -> Window:
    spots = [*found.path, *found.random, *found.ablated]
    xs, ys = [spot.x for spot in spots], [spot.y for spot in spots]
    ys += [
        end for spot in (*found.path, *found.ablated) for end in spot.effect if math.isfinite(end)
    ]
    bounded = found.by_perplexity and not math.isnan(steer.usable.bound)
    bound = [steer.usable.bound * 1.05] if bounded else []
    low, high = min(xs), max([*xs, *bound])
    y_low, y_high = min([0.0, *ys]), max([0.0, *ys])
    pad = 0.08 * (y_high - y_low) or 0.1
    log = low > 0 and high / low >= WIDE
    room = 0.07 * (high - low) or 0.05
    across = (low * 0.88, high * 1.2) if log else (low - room, high + room)
    return Window(across, (y_low - pad, y_high + pad), log)


def _x_layout(window: Window) -> dict[str, object]:
    if not window.log:
        return dict(range=list(window.x))
    low, high = (math.log10(end) for end in window.x)
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5)
    ticks = [s * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for s in steps]
    ticks = [tick for tick in ticks if window.x[0] <= tick <= window.x[1]]
    return dict(
        type="log", range=[low, high], tickmode="array", tickvals=ticks,
        ticktext=[f"{tick:,g}" for tick in ticks],
    )  # fmt: skip
