"""Means, paired changes and ratios of values over groups with bootstrap intervals; a straight line."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.results.intervals import NO_VALUE, Array, Formula, Interval, Resampler

Groups = NDArray[Any]


def mean(groups: Groups, values: Array) -> Interval:
    """Return the mean of values, NaN left out.

    Parameters
    ----------
    groups
        Group of every value, resampled as wholes, shape (n,).
    values
        Shape (n,).
    """
    return _over(groups, values[:, None], lambda s: s[..., 0] / s[..., -1])


def change(groups: Groups, before: Array, after: Array, *, scaled: bool = False) -> Interval:
    """Return mean(after - before), paired row by row.

    Parameters
    ----------
    groups
        Shape (n,).
    before, after
        The same rows twice, shape (n,) each; rows with a NaN on either side are left out.
    scaled
        Divide by the standard deviation of `before`; no value where that is 0.
    """
    whole = np.isfinite(before) & np.isfinite(after)
    spread = float(before[whole].std()) if scaled and whole.any() else 1.0
    return mean(groups, (after - before) / spread) if spread > 0 else NO_VALUE


def ratio(groups: Groups, before: Array, after: Array) -> Interval:
    """Return mean(after) / mean(before), paired row by row, shape (n,) each; see `change`."""
    return _over(groups, np.stack([after, before], axis=1), lambda s: s[..., 0] / s[..., 1])


def separation(groups: Groups, values: Array, inside: NDArray[np.bool_]) -> Interval:
    """Return how much higher the mean is inside a class than outside of it.

    Parameters
    ----------
    groups, values
        Shape (n,) each.
    inside
        Whether a row is of the class, shape (n,).
    """
    if inside.all() or not inside.any():
        return NO_VALUE
    rows = np.stack([values * inside, inside, values * ~inside, ~inside], axis=1)
    return _over(groups, rows, lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3])


class Line(NamedTuple):
    """A least-squares line and Pearson's r; NaN where either side has no spread."""

    slope: float = np.nan
    intercept: float = np.nan
    r: float = np.nan


def least_squares(x: Array, y: Array) -> Line:
    """Return the line y = slope * x + intercept, shape (n,) each; NaN is left out."""
    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Line()
    slope, intercept = np.polyfit(x, y, 1)
    return Line(float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1]))


def _over(groups: Groups, rows: Array, formula: Formula) -> Interval:
    """Return formula(sums of rows, number of rows) over the rows without a NaN."""
    whole = np.isfinite(rows).all(axis=1)
    if not whole.any():
        return NO_VALUE
    groups = np.asarray(groups)[whole]
    sums = np.column_stack([rows[whole], np.ones(int(whole.sum()))]).astype(float)
    interval = Resampler(groups).interval(sums, formula)
    # One group drawn again and again says nothing about other groups.
    return interval if len(np.unique(groups)) > 1 else Interval(interval.value)
