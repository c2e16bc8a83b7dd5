"""Intervals by the bootstrap over groups, for any metric that sums over groups.

A metric is written as sums over rows and a formula on those sums. Resampling groups then is one
matrix product: the groups' sums times how often each group was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Formula = Callable[[Array], Array]


class Interval(NamedTuple):
    """A value with its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float]:
        """Return the JSON form."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, value: Mapping[str, float | None] | None) -> Interval:
        """Return the interval of a JSON object; NaN for what is null or absent."""
        value = value or {}
        ends = (value.get(name) for name in cls._fields)
        return cls(*(math.nan if end is None else float(end) for end in ends))

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are there."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def side(self, reference: float = 0.0) -> int:
        """Return 1 when the whole interval lies above `reference`, -1 below it, else 0."""
        return int(self.low > reference) - int(self.high < reference)


NO_VALUE = Interval(math.nan)


Metrics = dict[str, Interval]


@dataclass(frozen=True)
class Resampler:
    """Draws of groups with replacement, shared by every metric on the same rows.

    Parameters
    ----------
    groups
        Group of every row, shape (n,).
    n_boot
        Number of draws.
    seed
        Seed of the draws.
    level
        Coverage of the interval.
    """

    groups: NDArray[Any]
    n_boot: int = 1000
    seed: int = 0
    level: float = 0.95

    @cached_property
    def code(self) -> NDArray[np.int64]:
        """Index of every row's group, shape (n,)."""
        return np.unique(self.groups, return_inverse=True)[1].reshape(-1)

    @cached_property
    def draws(self) -> Array:
        """How often each group is in each draw, shape (n_boot, n_groups)."""
        return _draws(int(self.code.max()) + 1, self.n_boot, self.seed)

    def interval(self, rows: Array, formula: Formula) -> Interval:
        """Return formula(sum of rows) and its percentile interval.

        Parameters
        ----------
        rows
            What each row adds to the sums, shape (n, n_sums).
        formula
            Maps sums (..., n_sums) to values (...).
        """
        sums = np.zeros((self.draws.shape[1], rows.shape[1]))
        np.add.at(sums, self.code, rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(formula(sums.sum(axis=0)))
            return self.around(value, formula(self.draws @ sums))

    def around(self, value: float, drawn: Array) -> Interval:
        """Return the percentile interval of the metric's value in every draw, shape (n_boot,)."""
        good = drawn[np.isfinite(drawn)]
        # A metric undefined in most draws (one class left) has no honest interval.
        if not np.isfinite(value) or len(good) < max(1, len(drawn) / 2):
            return Interval(value, np.nan, np.nan)
        low, high = np.quantile(good, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Interval(value, float(low), float(high))

    def mean(self, rows: Array) -> Interval:
        """Return the mean of one value a row, shape (n,), NaN left out, with its interval."""
        known = np.isfinite(rows)
        sums = np.stack([np.where(known, rows, 0.0), known], axis=1)
        return self.interval(sums, lambda s: s[..., 0] / s[..., 1])


@lru_cache(maxsize=8)
def _draws(n: int, n_boot: int, seed: int) -> Array:
    """Return draws of n groups, which many measures of a page share."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n, np.full(n, 1.0 / n), size=n_boot).astype(np.float64)
    draws.flags.writeable = False
    return draws
