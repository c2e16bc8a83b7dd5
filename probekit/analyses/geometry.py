"""The shape of the pair differences, and the exact solution that every optimiser should find."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ProbeError
from probekit.probes.bradley_terry import BradleyTerryProbe
from probekit.probes.spectrum import Scaling, Spectrum
from probekit.results.intervals import Array

TINY = 1e-6
"""Penalty a pair that stands for none: small enough to separate what can be separated."""


def geometry(differences: NDArray[np.floating[Any]]) -> dict[str, dict[str, float]]:
    """Return the spectrum of the second moment X'X/n, raw and standardised.

    Parameters
    ----------
    differences
        Chosen minus rejected, shape (n, d_model).

    Returns
    -------
    dict
        For `raw` and `standardised`: `rank`, `largest` and `smallest` eigenvalue above rounding,
        `condition` (their ratio), `condition_90` (largest to the one at which 90 % of the
        variance is reached), `effective_rank` (sum^2 / sum of squares), `top_direction` and
        `top_10_directions` (shares of the variance), `coordinate_spread` (largest to median root
        mean square of a coordinate), `top_coordinate` and `top_10_coordinates` (shares).
    """
    x = differences.astype(np.float64)
    scaling = Scaling.fit(x, center=False, standardize=True)
    return {"raw": _shape(x), "standardised": _shape(scaling.apply(x))}


def _shape(x: Array) -> dict[str, float]:
    energy = Spectrum.of(x).energy / len(x)
    total = max(float(energy.sum()), 1e-30)
    share = np.cumsum(energy) / total
    most = int(np.searchsorted(share, 0.9 - 1e-12))
    moment = np.sort(np.mean(x * x, axis=0))[::-1]
    middle = max(float(np.median(moment)), 1e-30)
    return {
        "rank": float(len(energy)),
        "largest": float(energy[0]),
        "smallest": float(energy[-1]),
        "condition": float(energy[0] / energy[-1]),
        "condition_90": float(energy[0] / energy[min(most, len(energy) - 1)]),
        "effective_rank": float(total**2 / max(float((energy**2).sum()), 1e-30)),
        "top_direction": float(share[0]),
        "top_10_directions": float(share[min(9, len(share) - 1)]),
        "coordinate_spread": float(np.sqrt(moment[0] / middle)),
        "top_coordinate": float(moment[0] / max(float(moment.sum()), 1e-30)),
        "top_10_coordinates": float(moment[:10].sum() / max(float(moment.sum()), 1e-30)),
    }


def exact_solutions(
    fit: NDArray[Any], choose: NDArray[Any], *, l2: float | None, standardize: bool
) -> list[dict[str, Any]]:
    """Return the convex optimum at the head's own l2 and with next to no penalty.

    Losses are means over pairs without the penalty. `separates`: every fit pair has a positive
    margin, which proves that they are linearly separable and the infimum of the loss is 0; that it
    does not at next to no penalty suggests, and does not prove, that they are not.

    Parameters
    ----------
    fit, choose
        Chosen minus rejected of the two splits, shapes (n_fit, d_model) and (n_choose, d_model).
    l2
        Penalty of the head; None leaves its solution out.
    standardize
        Divide features by their root mean square first.
    """
    solutions = []
    for name, penalty in (("own l2", l2), ("no l2", TINY * len(fit))):
        if penalty is None:
            continue
        probe = BradleyTerryProbe(penalty, standardize=standardize)
        try:
            coef = probe.fit(fit, np.zeros_like(fit)).coef_
        except ProbeError:
            continue  # so little penalty that the solve does not settle: nothing to draw
        row: dict[str, Any] = {"name": name, "l2": penalty}
        for split, x in (("fit", fit), ("choose", choose)):
            margin = x.astype(np.float64) @ coef
            row[f"{split}_loss"] = float(np.logaddexp(0.0, -margin).mean())
            row[f"{split}_accuracy"] = float(np.mean((margin > 0) + 0.5 * (margin == 0)))
        row["separates"] = bool((fit.astype(np.float64) @ coef > 0).all())
        row["rms_coef"] = float(np.sqrt(np.mean(coef**2)))
        solutions.append(row)
    return solutions
