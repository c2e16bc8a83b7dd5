"""Means, paired changes and ratios of values over groups, with intervals; a straight line."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.results.intervals import FEWEST_GROUPS, NO_VALUE, Array, Interval, Resampler

Groups = NDArray[Any]


def mean(groups: Groups, values: Array, *, share: bool = False) -> Interval:
    """Return the mean of values, NaN left out.

    Parameters
    ----------
    groups
        Group of every value, shape (n,).
    values
        Shape (n,).
    share
        Whether values lie in [0, 1], so that the interval is one of a share.
    """
    sample = Resampler(np.asarray(groups))
    return sample.share(values) if share else sample.mean(values)


def change(
    groups: Groups, before: Array, after: Array, *, share: bool = False, scaled: bool = False
) -> Interval:
    """Return mean(after - before), paired row by row.

    Parameters
    ----------
    groups
        Shape (n,).
    before, after
        The same rows twice, shape (n,) each; rows with a NaN on either side are left out.
    share
        Whether both lie in [0, 1].
    scaled
        Divide by the standard deviation of `before`; no value where that is 0.
    """
    sample = Resampler(np.asarray(groups))
    if share:
        return sample.share_change(after - before)
    whole = np.isfinite(before) & np.isfinite(after)
    spread = float(before[whole].std()) if scaled and whole.any() else 1.0
    return sample.mean((after - before) / spread) if spread > 0 else NO_VALUE


def ratio(groups: Groups, before: Array, after: Array, *, share: bool = False) -> Interval:
    """Return mean(after) / mean(before), paired row by row, shape (n,) each; see `change`."""
    whole = np.isfinite(before) & np.isfinite(after)
    if not whole.any():
        return NO_VALUE
    sample = Resampler(np.asarray(groups)[whole])
    if share:
        return sample.share_ratio(before[whole], after[whole])
    sides = np.stack([after[whole], before[whole]], axis=1)
    return sample.interval(sides, lambda s: s[..., 0] / s[..., 1])


def separation(groups: Groups, values: Array, inside: NDArray[np.bool_]) -> Interval:
    """Return how much higher the mean is inside a class than outside of it.

    Parameters
    ----------
    groups, values
        Shape (n,) each; rows with a NaN are left out.
    inside
        Whether a row is of the class, shape (n,).
    """
    whole = np.isfinite(values)
    groups, values, inside = np.asarray(groups)[whole], values[whole], inside[whole]
    if inside.all() or not inside.any():
        return NO_VALUE
    rows = np.stack([values * inside, inside, values * ~inside, ~inside], axis=1)
    return Resampler(groups).interval(
        rows.astype(float), lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3]
    )


def shift(groups: Groups, before: Array, after: Array) -> Interval:
    """Return mean(after) - mean(before), each over the rows that it has; groups are drawn for both.

    Parameters
    ----------
    groups
        Shape (n,).
    before, after
        Shape (n,) each; a NaN is left out on its side only.
    """
    groups, known = np.asarray(groups), [np.isfinite(values) for values in (after, before)]
    if not all(side.any() for side in known):
        return NO_VALUE
    if min(len(np.unique(groups[side])) for side in known) < FEWEST_GROUPS:
        return Interval(float(after[known[0]].mean() - before[known[1]].mean()))
    sides = [after, known[0], before, known[1]]
    rows = np.nan_to_num(np.stack(sides, axis=1).astype(float))
    return Resampler(groups).interval(rows, lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3])


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
