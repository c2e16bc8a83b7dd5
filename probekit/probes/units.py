"""Ratings and the scores of heads: the range of the data is the unit of a head, -1 to 1."""

from __future__ import annotations

from probekit.errors import DataError
from probekit.results.intervals import Array


def target_range(
    target: Array,
    option: bool | tuple[float, float],  # noqa: FBT001 - mirrors the parameter
) -> tuple[float, float] | None:
    """Return the ratings that map to -1 and 1 among targets (n,), or None for no mapping."""
    if option is False:
        return None
    low, high = (float(target.min()), float(target.max())) if option is True else option
    if high < low:
        raise DataError(f"scale_target: the range {low:g} to {high:g} is empty.")
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def to_unit(rating: Array, bounds: tuple[float, float] | None) -> Array:
    """Map ratings (n,) to [-1, 1]."""
    if bounds is None:
        return rating
    low, high = bounds
    return 2 * (rating - low) / (high - low) - 1


def from_unit(score: Array, bounds: tuple[float, float] | None) -> Array:
    """Map scores (n,) back to ratings."""
    if bounds is None:
        return score
    low, high = bounds
    return (score + 1) / 2 * (high - low) + low
