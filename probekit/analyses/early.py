"""From which part of a completion on a rating is known."""

from __future__ import annotations

import numpy as np

from probekit.probes.metrics import pearson
from probekit.results.intervals import Array, Interval, Resampler

TENTHS = 10
KNOWN = 0.9
"""Part of the last correlation that counts as knowing the rating."""


def known_from(part: Array, ratings: Array, sample: Resampler) -> Interval:
    """Return from which tenth on r stays at `KNOWN` of r at the end or above, with its interval.

    Percentiles over draws of groups: the answer is one of eleven numbers, which BCa is not made for. There
    is none where r at the end does not leave 0.

    Parameters
    ----------
    part
        Predictions at the tenths of a completion, 0 to 10, shape (n, 11).
    ratings
        Shape (n,).
    sample
        Draws of the groups of the same n rows.
    """
    if pearson(ratings, part[:, -1], sample).side() != 1:
        return Interval(np.nan)
    rows = np.concatenate(
        [
            part,
            part**2,
            part * ratings[:, None],
            np.stack([ratings, ratings**2, np.ones_like(ratings)], 1),
        ],
        axis=1,
    )
    sums = sample.per_group(rows)
    value = float(_first(sums.sum(axis=0)))
    drawn = _first(sample.weights[: sample.n_boot] @ sums)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _first(sums: Array) -> Array:
    """Return the first tenth from which r stays high, from sums (..., 3 * 11 + 3) over rows."""
    k = TENTHS + 1
    x, xx, xy = sums[..., :k], sums[..., k : 2 * k], sums[..., 2 * k : 3 * k]
    y, yy, n = (sums[..., 3 * k + i, None] for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
    high = np.nan_to_num(r, nan=-1.0) >= KNOWN * r[..., -1:]
    stays = np.flip(np.logical_and.accumulate(np.flip(high, -1), axis=-1), -1)
    return np.asarray(np.argmax(stays, axis=-1) / TENTHS)
