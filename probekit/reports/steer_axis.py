"""Axes of the dose-response panels: the doses with the ablated model at their side, and measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from probekit.reports.steer_rows import PROBE, Measure, Steer, span
from probekit.reports.steer_words import coeff_text, is_share

WIDE = 5.0
"""From this ratio of the largest to the smallest perplexity on the axis is logarithmic."""


_LETTER = 5.5
"""Width in pixels of a letter of a tick; those used here are narrow."""


_BEFORE_SLOT, _AFTER_SLOT = 37, 24
"""Pixels between the highest dose and the ablated model, and after it: its name fits there."""


class DoseAxis(NamedTuple):
    """The shared horizontal axis: its ends, where doses end, and the slot of the ablated model."""

    low: float
    high: float
    edge: float
    """Right end of the doses."""
    slot: float
    """Where the ablated model stands; nan where it was not run."""


class MeasureAxis(NamedTuple):
    """A vertical axis: its ends in the values of the measure, and whether it is logarithmic."""

    low: float
    high: float
    log: bool

    def layout(self) -> dict[str, object]:
        """Return plotly's range, type and ticks."""
        if not self.log:
            return dict(range=[self.low, self.high], nticks=6)
        ticks = _log_ticks(self.low, self.high)
        return dict(
            type="log", range=[math.log10(self.low), math.log10(self.high)], tickmode="array",
            tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks],
        )  # fmt: skip


def dose_axis(steer: Steer, pixels: float) -> DoseAxis:
    """Return the horizontal axis all panels share, each `pixels` wide at the narrowest."""
    low, high = min(steer.coeffs), max(steer.coeffs)
    width = high - low or 1.0
    pad = 0.05 * width if high > low else 0.5
    if steer.ablated(PROBE) is None:
        return DoseAxis(low - pad, high + pad, high + pad, math.nan)
    if high == low:
        return DoseAxis(low - pad, high + 1.5, high + 0.5, high + 1.0)
    before, after = max(_BEFORE_SLOT, 0.1 * pixels), max(_AFTER_SLOT, 0.06 * pixels)
    scale = (pixels - before - after) / (width + pad)
    slot = high + before / scale
    return DoseAxis(low - pad, slot + after / scale, high + 0.3 * before / scale, slot)


def dose_ticks(steer: Steer, axis: DoseAxis, pixels: float) -> dict[str, object]:
    """Return ticks at tested doses, as many as `pixels` have room for: 0, the ends, then others."""
    at: dict[float, str] = {}
    if not math.isnan(axis.slot):
        at[axis.slot] = "ablated"
    scale = pixels / (axis.high - axis.low)
    order = [0.0, steer.coeffs[-1], steer.coeffs[0]]
    for coeff in [*order, *sorted(steer.coeffs, key=abs, reverse=True)]:
        text = "unsteered" if len(steer.coeffs) == 1 else coeff_text(coeff)
        gaps = [
            abs(coeff - other) * scale
            - (len(text) + len(name)) / 2 * _LETTER
            for other, name in at.items()
        ]  # fmt: skip
        if coeff not in at and all(gap >= 3 for gap in gaps):
            at[coeff] = text
    ticks = sorted(at)
    return dict(
        tickmode="array", tickvals=ticks, ticktext=[at[tick] for tick in ticks], tickangle=0
    )


def unusable_bands(steer: Steer, axis: DoseAxis) -> list[tuple[float, float]]:
    """Return the stretches of doses that are not usable, each up to halfway to a usable one."""
    bands: list[tuple[float, float]] = []
    coeffs = steer.coeffs
    if len(coeffs) < 2 or steer.ablate_only:
        return bands
    for index, coeff in enumerate(coeffs):
        if coeff in steer.usable.coeffs:
            continue
        left = (coeffs[index - 1] + coeff) / 2 if index else axis.low
        right = (coeff + coeffs[index + 1]) / 2 if index + 1 < len(coeffs) else axis.edge
        if bands and bands[-1][1] == left:
            left = bands.pop()[0]
        bands.append((left, right))
    return bands


def measure_axis(steer: Steer, measure: Measure, extra: Sequence[float] = ()) -> MeasureAxis:
    """Return the vertical axis of a measure: everything drawn fits, shares stay within 0 and 1."""
    ends = list(extra)
    for item in steer.conditions:
        metric = item.value(measure.name)
        probe = item.direction == PROBE or item is steer.baseline
        ends += metric if probe else [metric.value]
    known = span(ends)
    if known is None:
        return MeasureAxis(0.0, 1.0, log=False)
    low, high = known
    if measure.name == "perplexity" and low > 0 and high / low >= WIDE:
        room = (high / low) ** 0.06
        return MeasureAxis(low / room, high * room, log=True)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - pad, high + pad
    if is_share(measure):
        # A share that hardly moves is not blown up to the height of its panel.
        middle, half = (low + high) / 2, max(0.1, (high - low) / 2)
        low, high = max(-0.03, middle - half), min(1.03, middle + half)
    return MeasureAxis(low, high, log=False)


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low <= tick <= high] or [low, high]


def name_anchor(share: float) -> str:
    """Return how a name is anchored at a share of an axis, so that it stays over the plot."""
    if share < 0.15:
        return "left"
    return "right" if share > 0.85 else "center"
