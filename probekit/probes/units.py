"""Ratings and the scores of heads: the range of the data is the unit of a head, -1 to 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from probekit.errors import DataError
from probekit.results.intervals import Array

if TYPE_CHECKING:
    from probekit.activations.table import Examples


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


def scale_ends(scale: str) -> tuple[float, float]:
    """Return the ends of a scale LOW:HIGH, or raise `DataError`."""
    low, _, high = scale.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = math.nan, math.nan
    if not (bounds[0] < bounds[1] and all(map(math.isfinite, bounds))):
        raise DataError(f"scale {scale!r}: expected LOW:HIGH, such as 1:10.")
    return bounds


def on_scale(examples: Examples, scale: str | None) -> tuple[float, float] | None:
    """Return the ends of a scale LOW:HIGH that all ratings lie on; None without one.

    Raises
    ------
    DataError
        When it is no scale, rows are no ratings, or one lies outside of it.
    """
    if not scale:
        return None
    bounds = scale_ends(scale)
    if examples.score is None:
        raise DataError(
            f"scale {scale}: the store has {examples.kind} rows, which have no ratings. Leave it out."
        )
    outside = (examples.score < bounds[0]) | (examples.score > bounds[1])
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"row {str(examples.id[row])!r}: rating {examples.score[row]:g} is outside of the scale {scale}, "
            f"as {int(outside.sum())} of {len(examples)} are. Correct the rows or the scale."
        )
    return bounds
