"""95 % intervals over groups, for shares, their changes, areas, correlations and any other metric.

A metric is written as sums over rows and a formula on those sums. Resampling groups then is one
matrix product: the groups' sums times how often each group was drawn. Coverage of every interval
here is measured by `benchmarks/coverage.py`; the table stands in docs/simulations.md.
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
FEWEST_GROUPS = 5
"""Fewer groups give no interval: what they vary by is not known."""
SHARED = {"pair": 1.4, "label": 1.6, "rating": 1.8}
"""How many times the variance over outer folds is that of independent rows, at chance: a row that one
head is judged on fits the others. With one cell it is 1.5 for pairs, 1.7 for AUROC and 1.75 for r; with
more to choose from, a little less (`benchmarks/outer_folds.py`)."""
BLOCKS = 200
"""At most so many parts are left out in turn for the acceleration of BCa."""


class Interval(NamedTuple):
    """A value with its 95 % interval; NaN where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float]:
        """Return the JSON form."""
        return self._asdict()

    @classmethod
    def from_json(cls, value: Interval | Mapping[str, float | None] | None) -> Interval:
        """Return the interval of a JSON object; NaN for what is null or absent, an interval as it is."""
        if isinstance(value, Interval):
            return value
        ends = ((value or {}).get(name) for name in cls._fields)
        return cls(*(math.nan if end is None else float(end) for end in ends))

    def __str__(self) -> str:
        """Return value and interval as they are printed, the value alone where there is no interval."""
        ends = f" [{self.low:.3f}, {self.high:.3f}]" if self.has_interval else ""
        return f"{self.value:.3f}{ends}"

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are there."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def side(self, reference: float = 0.0) -> int:
        """Return 1 when the whole interval lies above `reference`, -1 below it, else 0.

        An end that differs from the reference by rounding alone lies on it.
        """
        low, high = self.low - reference, self.high - reference
        rounding = 1e-12 + 1e-9 * max(abs(low), abs(high))
        return int(low > rounding) - int(high < -rounding)


NO_VALUE = Interval(math.nan)
Metrics = dict[str, Interval]


@dataclass(frozen=True)
class Resampler:
    """Intervals over the same groups of rows; draws of groups are shared by every metric.

    Parameters
    ----------
    groups
        Group of every row, shape (n,).
    n_boot
        Number of draws.
    seed
        Seed of the draws.
    """

    groups: NDArray[Any]
    n_boot: int = 1000
    seed: int = 0

    @cached_property
    def code(self) -> NDArray[np.int64]:
        """Index of every row's group, shape (n,)."""
        return np.unique(self.groups, return_inverse=True)[1].reshape(-1)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.code.max()) + 1 if len(self.code) else 0

    @cached_property
    def weights(self) -> Array:
        """How often each group counts, shape (n_boot + n_left_out, n_groups).

        First the draws with replacement, then the groups (or blocks of them) left out in turn.
        """
        return _weights(self.n_groups, self.n_boot, self.seed)

    def per_group(self, rows: Array) -> Array:
        """Return sums of rows (n, ...) within groups, shape (n_groups, ...)."""
        sums = np.zeros((self.n_groups, *rows.shape[1:]))
        np.add.at(sums, self.code, rows)
        return sums

    def interval(self, rows: Array, formula: Formula) -> Interval:
        """Return formula(sum of rows) and its BCa interval.

        Parameters
        ----------
        rows
            What each row adds to the sums, shape (n, n_sums).
        formula
            Maps sums (..., n_sums) to values (...).
        """
        sums = self.per_group(rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.around(float(formula(sums.sum(axis=0))), formula(self.weights @ sums))

    def around(self, value: float, drawn: Array) -> Interval:
        """Return the BCa interval of a metric (Efron 1987), widened for few groups.

        The normal quantile is replaced by Student's, times the root of K/(K-1) with K the number of
        groups of equal size that tell as much (Kish), which corrects what resampling K values
        lacks (Hesterberg 2015, "expanded percentile").

        Parameters
        ----------
        value
            The metric.
        drawn
            The metric under each row of `weights`, shape (n_boot + n_left_out,).
        """
        from scipy.special import ndtr, ndtri

        boot, left_out = drawn[: self.n_boot], drawn[self.n_boot :]
        boot, left_out = boot[np.isfinite(boot)], left_out[np.isfinite(left_out)]
        support = kish(np.bincount(self.code))
        # A metric undefined in most draws (one class left) has no honest interval.
        if (
            not np.isfinite(value)
            or len(boot) < self.n_boot / 2
            or not enough(self.n_groups, support)
        ):
            return Interval(value)
        rounding = 1e-9 * float(np.ptp(boot))
        below = np.mean(boot < value - rounding) + np.mean(np.abs(boot - value) <= rounding) / 2
        bias = ndtri(np.clip(below, 1 / self.n_boot, 1 - 1 / self.n_boot))
        gap = left_out.mean() - left_out if len(left_out) else np.zeros(1)
        spread = float((gap**2).sum())
        skew = float((gap**3).sum()) / (6 * spread**1.5) if spread > rounding**2 else 0.0
        reach = student(support) * math.sqrt(support / (support - 1))
        ends = bias + np.array([-reach, reach])
        # Beyond a half the transformation bends back (one group that outweighs the others).
        ends = ndtr(bias + ends / (1 - np.clip(skew * ends, -1.0, 0.5)))
        low, high = np.quantile(boot, ends)
        return Interval(value, float(low), float(high))

    def mean(self, values: Array) -> Interval:
        """Return the mean of one value a row, shape (n,), NaN left out, with its BCa interval."""
        known = np.isfinite(values)
        if not known.any():
            return NO_VALUE
        rows = np.stack([values[known], np.ones(int(known.sum()))], axis=1)
        return self._of(known).interval(rows, lambda s: s[..., 0] / s[..., 1])

    def share(self, values: Array, weights: Array | None = None) -> Interval:
        """Return the mean of values in [0, 1] with a score interval that knows groups.

        Wilson's interval on the number of independent rows that have the variance seen between
        groups, with Student's quantile. The variance is mixed with that of independent groups, the
        more so the fewer groups hold the rarer outcome, so that the interval never has zero width.

        Parameters
        ----------
        values
            Shape (n,); NaN is left out.
        weights
            What each row counts, shape (n,); 1 by default.
        """
        sums, sizes = self._shares(values, weights)
        if not len(sizes):
            return NO_VALUE
        total = sizes.sum()
        share = float(sums.sum() / total)
        rarer = min(int((sums < sizes).sum()), int((sums > 0).sum()))
        return score(share, (sums - share * sizes) / total, kish(sizes), rarer, most=total)

    def share_change(self, gaps: Array, weights: Array | None = None) -> Interval:
        """Return the mean of differences of two shares, each in [-1, 1], with its interval.

        Two groups are imagined, one that gained all and one that lost all (Agresti and Min 2005,
        here with groups), each as large as the rows of one independent group; then Student's
        interval on the variance between groups. Agrees with McNemar's test on single rows.

        Parameters
        ----------
        gaps
            After minus before, paired, shape (n,); NaN is left out.
        weights
            What each row counts, shape (n,); 1 by default.
        """
        sums, sizes = self._shares(gaps, weights)
        if not len(sizes):
            return NO_VALUE
        total, n, support = sizes.sum(), len(sizes), kish(sizes)
        value = float(sums.sum() / total)
        if not enough(n, support):
            return Interval(value)
        between = float(((sums - value * sizes) ** 2).sum()) / total**2 * n / (n - 1)
        alone = (float(np.abs(sums).sum()) / total - value**2) / total
        own = float(np.clip(between / alone, 1, total / support)) if alone > 0 else total / support
        return change(value, (sums - value * sizes) / total, support, own / total)

    def share_ratio(self, before: Array, after: Array) -> Interval:
        """Return mean(after) / mean(before) of paired values in [0, 1], with its interval.

        On the logarithm, with half a success of one independent group added to both sides and the
        variance between groups (delta method, Student's quantile).

        Parameters
        ----------
        before, after
            Shape (n,) each; rows with a NaN on either side are left out.
        """
        known = np.isfinite(before) & np.isfinite(after)
        if not known.any():
            return NO_VALUE
        own = self._of(known)
        sizes = own.per_group(np.ones(int(known.sum())))
        total, n, support = sizes.sum(), len(sizes), kish(sizes)
        sides = [own.per_group(side[known]) for side in (before, after)]
        first, last = (side.sum() for side in sides)
        if first == 0:
            return NO_VALUE
        if not enough(n, support):
            return Interval(float(last / first))
        extra = max(_design_effect(side, sizes) for side in sides)
        first, last = first + extra / 2, last + extra / 2
        before, after = (
            (side - sizes * whole / (total + extra)) / whole
            for side, whole in zip(sides, (first, last), strict=True)
        )
        variance = float(((after - before) ** 2).sum()) * n / (n - 1)
        variance += extra / 4 * (1 / first**2 + 1 / last**2)
        half = student(support) * math.sqrt(variance)
        value = float(sides[1].sum() / sides[0].sum())
        ends = (math.log(last / first) - half, math.log(last / first) + half)
        return Interval(value, *(math.exp(end) for end in ends))

    def _shares(self, values: Array, weights: Array | None) -> tuple[Array, Array]:
        """Return weighted sums and weights of every group that has any, (n_groups,) each."""
        known = np.isfinite(values)
        weights = np.ones(len(values)) if weights is None else weights
        sizes = self.per_group(np.where(known, weights, 0.0))
        sums = self.per_group(np.where(known, values, 0.0) * weights)
        return sums[sizes > 0], sizes[sizes > 0]

    def _of(self, rows: NDArray[np.bool_]) -> Resampler:
        return self if rows.all() else Resampler(self.groups[rows], self.n_boot, self.seed)


def score(
    value: float, influence: Array, support: float, rarer: int, *, most: float = math.inf
) -> Interval:
    """Return a score interval of a share or an area whose groups are independent.

    Parameters
    ----------
    value
        In [0, 1].
    influence
        How far each group moves the value, shape (n_groups,); sums to 0.
    support
        Number of equal groups that tell as much.
    rarer
        How many groups hold the rarer outcome.
    most
        Rows: the interval is never narrower than that of so many independent ones.
    """
    n = len(influence)
    if not np.isfinite(value) or not enough(n, support):
        return Interval(value)
    alone, mixed = value * (1 - value), 2 / (rarer + 2)
    variance = (1 - mixed) * float((influence**2).sum()) * n / (n - 1) + mixed * alone / support
    rows = min(alone / variance, most) if alone > 1e-12 else support
    t2 = student(support) ** 2
    centre = (value + t2 / (2 * rows)) / (1 + t2 / rows)
    half = math.sqrt(t2 * alone / rows + (t2 / (2 * rows)) ** 2) / (1 + t2 / rows)
    # At 0 and 1 the end is the value itself, but for rounding.
    return Interval(value, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))


def change(value: float, influence: Array, support: float, imagined: float = 0.0) -> Interval:
    """Return Student's interval of a difference whose groups are independent.

    Parameters
    ----------
    value
        In [-1, 1].
    influence
        How far each group moves the value, shape (n_groups,); sums to 0.
    support
        Number of equal groups that tell as much.
    imagined
        Weight, in parts of all, of one more group at 1 and one at -1, so that the interval of
        groups that agree is not of zero width.
    """
    n, whole = len(influence), 1 + 2 * imagined
    if not np.isfinite(value) or not enough(n, support):
        return Interval(value)
    centre = value / whole
    squares = float((influence**2).sum()) + (value - centre) ** 2 / support
    squares += imagined**2 * ((1 - centre) ** 2 + (1 + centre) ** 2)
    half = student(support) * math.sqrt(squares * n / (n - 1)) / whole
    return Interval(value, max(-1.0, centre - half), min(1.0, centre + half))


def fisher(value: float, influence: Array, support: float) -> Interval:
    """Return Fisher's interval of a correlation, on atanh, whose groups are independent.

    The variance between groups, times n/(n-3) as few groups make it too small, stands in place of
    1/(n-3), with Student's quantile.

    Parameters
    ----------
    value
        In [-1, 1].
    influence
        How far each group moves the value, shape (n_groups,); sums to 0.
    support
        Number of equal groups that tell as much.
    """
    if not np.isfinite(value) or not enough(len(influence), support):
        return Interval(value)
    if 1 - value * value < 1e-12:
        return Interval(value, value, value)
    variance = float((influence**2).sum()) * support / max(support - 3, 1.0)
    half = student(support) * math.sqrt(variance) / (1 - value * value)
    return Interval(value, *(math.tanh(math.atanh(value) + sign * half) for sign in (-1, 1)))


def kish(sizes: Array | NDArray[np.int64]) -> float:
    """Return how many equal groups tell as much as groups of these sizes, shape (n_groups,)."""
    return float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum())


@lru_cache(maxsize=1024)
def student(support: float) -> float:
    """Return the quantile of Student's distribution for 95 %, at `support` - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(support - 1, 0.975))


def enough(n_groups: int, support: float) -> bool:
    """Return whether groups are enough for an interval, by their number and by what they tell."""
    return n_groups >= FEWEST_GROUPS and support >= 2


def _design_effect(sums: Array, sizes: Array) -> float:
    """Return the variance of a share between groups in parts of that of independent rows."""
    total, largest = sizes.sum(), float((sizes**2).sum() / sizes.sum())
    share = sums.sum() / total
    alone = share * (1 - share) * total
    between = float(((sums - share * sizes) ** 2).sum())
    return float(np.clip(between / alone, 1, largest)) if alone > 0 else largest


@lru_cache(maxsize=8)
def _weights(n: int, n_boot: int, seed: int) -> Array:
    """Return the weights of n groups, which many measures of a page share."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n, np.full(n, 1.0 / n), size=n_boot).astype(np.float64)
    blocks = min(n, BLOCKS)
    left_out = np.ones((blocks, n))
    left_out[np.arange(n) % blocks, np.arange(n)] = 0.0
    weights = np.vstack([draws, left_out])
    weights.flags.writeable = False
    return weights
