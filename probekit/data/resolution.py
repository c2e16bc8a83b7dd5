"""What a data set is large enough to show: the least measure whose 95 % interval leaves chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from probekit.results.intervals import Interval

REPORT = 0.2
"""Share of the groups in the report split of a fit."""
FEW, N_FOLDS = 500, 5
"""Rows or pairs under which outer folds are worth their time, and how many."""
MEASURE = {"pair": "pair_accuracy", "label": "auroc", "rating": "pearson"}


class Resolution(NamedTuple):
    """How many rows or pairs are held out, and the least measure that they can tell from chance."""

    measure: str
    """Name of the primary metric of the kind."""
    rows: int
    groups: int
    least: float | None
    """None where no value would do, for want of groups."""


def resolution(kind: str, rows: int, groups: int, rarer: int, *, outer: bool = False) -> Resolution:
    """Return the least value of the primary metric whose interval lies above chance.

    Groups count as equal and their rows as independent: rows of a group that are alike show less.

    Parameters
    ----------
    kind
        `pair`, `label` or `rating`.
    rows, groups
        How many are held out.
    rarer
        Rows of the rarer class among them, for labels.
    outer
        Whether they are those of outer folds, whose intervals are wider.
    """
    from probekit.results.intervals import FEWEST_GROUPS, SHARED

    chance, inflation = 0.0 if kind == "rating" else 0.5, SHARED[kind] if outer else 1.0
    low, high, least = chance, 1.0 - 1e-6, None
    smallest = min(groups, rarer if kind == "label" else groups) / (N_FOLDS if outer else 1)
    interval = _interval(kind, rows / inflation, groups / inflation, rarer / inflation)
    if smallest >= FEWEST_GROUPS and interval(high).low > chance:
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if interval(middle).low > chance else (middle, high)
        least = high
    return Resolution(MEASURE[kind], rows, groups, least)


def held_out(kind: str, rows: int, groups: int, rarer: int) -> dict[str, Resolution]:
    """Return what the report split of a fit can show; of few rows also `outer`, all in outer folds."""
    parts = (max(1, round(REPORT * n)) for n in (rows, groups, rarer))
    found = {"report": resolution(kind, *parts)}
    if rows < FEW:
        found["outer"] = resolution(kind, rows, groups, rarer, outer=True)
    return found


def _interval(kind: str, rows: float, groups: float, rarer: float) -> Callable[[float], Interval]:
    """Return the interval of a value as a function of it."""
    from probekit.results.intervals import fisher, score

    n = max(2, round(groups))
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)  # only their squares count

    def spread(variance: float) -> NDArray[np.float64]:
        """Return influences of n groups whose sum of squares is the variance, less n/(n-1)."""
        return signs * math.sqrt(max(variance, 0.0) / n * (n - 1) / n)

    if kind == "rating":
        about = signs * groups / max(groups - 1, 1) / math.sqrt(rows * n)
        return lambda r: fisher(r, about * (1 - r * r), groups)
    if kind == "pair":
        return lambda p: score(p, spread(p * (1 - p) / rows), groups, n, most=rows)
    others = rows - rarer

    def area(a: float) -> Interval:
        q = a * a  # of two rows against one: Hanley and McNeil (1982)
        shared = (rarer - 1) * (a / (2 - a) - q) + (others - 1) * (2 * q / (1 + a) - q)
        variance = (a * (1 - a) + shared) / (rarer * others)
        return score(a, spread(variance), min(rarer, groups), n)

    return area
