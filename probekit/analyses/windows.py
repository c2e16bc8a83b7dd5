"""What a sweep of learning rates says: the best one, the window that works, and how far it moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probekit.analyses.parametrisations import PARAMETRISATIONS, step_factor
from probekit.results.dynamics import TrainedVector

CHANCE = math.log(2)
"""Loss of a head that says nothing."""
LEAST = 0.05 * CHANCE
"""The best loss must lie this far below: otherwise no run has trained."""
Measure = Literal["choose_loss", "loss"]
MEASURES: tuple[Measure, ...] = ("choose_loss", "loss")
WORST = 1e30
SHARE = 0.9
"""Of the way from chance to the best loss: what counts as trained."""


def optimizer_findings(
    runs: Sequence[TrainedVector], steps: Sequence[int], d: int
) -> dict[str, Any]:
    """Return the findings of one optimiser.

    Parameters
    ----------
    runs
        All of one optimiser.
    steps
        The recorded steps.
    d
        d_model.

    Returns
    -------
    dict
        `step_factor` and its logarithm `predicted_shift` (how many decades the windows of a direct
        vector should lie above the projection's), `grid_decades` (spacing of the grid),
        `parametrisations` (each at its best learning rate), `measures` (windows by the loss on the
        fit split and by that on the choose split: see `_measured`), `contrast` (the grid's rate at
        which the accuracies of projection and direct vector differ most) and `equivalence` (how far
        `rescaled` is from `projection`).
    """
    factor = step_factor(runs[0]["optimizer"], d)
    rates = sorted({run["learning_rate"] for run in runs})
    best = {name: _at_best(runs, name) for name in PARAMETRISATIONS}
    return {
        "step_factor": factor,
        "predicted_shift": math.log10(factor),
        "grid_decades": float(np.diff(np.log10(rates)).max()),
        "parametrisations": best,
        "measures": {measure: _measured(runs, measure, steps, best) for measure in MEASURES},
        "contrast": _contrast(runs),
        "equivalence": _equivalence(runs),
    }


def _of(runs: Sequence[TrainedVector], name: str) -> list[TrainedVector]:
    return [run for run in runs if run["parametrisation"] == name]


def last_losses(
    runs: Sequence[TrainedVector], name: str, measure: Measure
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the grid and the last losses on it, shapes (n_rates,) and (n_rates, n_seeds)."""
    inside = _of(runs, name)
    rates = sorted({run["learning_rate"] for run in inside})
    losses = [[run[measure][-1] for run in inside if run["learning_rate"] == r] for r in rates]
    # A run that left the numbers is as bad as can be, not unknown.
    return np.array(rates), np.nan_to_num(np.array(losses), nan=WORST, posinf=WORST)


def _at_best(runs: Sequence[TrainedVector], name: str) -> dict[str, Any]:
    """Return the learning rate with the lowest mean loss on the choose split, and what it gives.

    Not the loss it trains on: where the fit pairs can be separated that one only ever falls.
    """
    rates, losses = last_losses(runs, name, "choose_loss")
    rate = float(rates[int(losses.mean(axis=1).argmin())])
    there = [run for run in _of(runs, name) if run["learning_rate"] == rate]
    return {
        "learning_rate": rate,
        "own_learning_rate": there[0]["own_learning_rate"],
        "start_loss": _band([run["loss"][0] for run in there]),
        "loss": _band([run["loss"][-1] for run in there]),
        "choose_loss": _band([run["choose_loss"][-1] for run in there]),
        "choose_accuracy": _band([run["choose_accuracy"][-1] for run in there]),
        "seeds": len(there),
    }


def _contrast(runs: Sequence[TrainedVector]) -> dict[str, float]:
    def accuracy(name: str, rate: float) -> float:
        accuracies = [
            run["choose_accuracy"][-1] for run in _of(runs, name) if run["learning_rate"] == rate
        ]
        return float(np.mean(accuracies))

    rows = [
        {
            "learning_rate": r,
            **{name: accuracy(name, r) for name in ("projection", "direct", "small-start")},
        }
        for r in sorted({run["learning_rate"] for run in runs})
    ]
    return max(rows, key=lambda row: abs(row["projection"] - row["direct"]))


def _measured(
    runs: Sequence[TrainedVector],
    measure: Measure,
    steps: Sequence[int],
    best: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return what one loss says about the learning rates.

    `best` is the lowest mean loss over seeds of any parametrisation at its last step, `target` lies
    90 % of the way from ln 2 to it (0 where the best is hardly below ln 2: nothing trained),
    `windows` are where every seed reaches it, `shifts` how many decades their ends lie above the
    projection's, `only_projection` and `only_direct` the grid's rates at which one of them reaches
    the target and the other does not, `steps_to_target` the median first step below it at each
    one's best learning rate.
    """
    ends = {name: last_losses(runs, name, measure) for name in PARAMETRISATIONS}
    lowest = min(float(losses.mean(axis=1).min()) for _, losses in ends.values())
    target = CHANCE - SHARE * (CHANCE - lowest)
    if CHANCE - lowest < LEAST:
        target = 0.0  # nothing was learnt, so there is nothing to reach
    windows = {name: window(r, losses.max(axis=1), target) for name, (r, losses) in ends.items()}
    reach = {
        name: {float(rate) for rate, row in zip(*ends[name], strict=True) if row.max() <= target}
        for name in ("projection", "direct")
    }
    return {
        "best": lowest,
        "target": target,
        "windows": windows,
        "shifts": {
            name: _shift(windows[name], windows["projection"])
            for name in ("direct", "small-start", "standardised")
        },
        "only_projection": sorted(reach["projection"] - reach["direct"]),
        "only_direct": sorted(reach["direct"] - reach["projection"]),
        "steps_to_target": {
            name: _arrival(
                [r for r in _of(runs, name) if r["learning_rate"] == best[name]["learning_rate"]],
                measure, steps, target,
            )
            for name in PARAMETRISATIONS
        },
    }  # fmt: skip


def _arrival(
    runs: Sequence[TrainedVector], measure: Measure, steps: Sequence[int], target: float
) -> float | None:
    """Return the median first step at or below the target; None when a seed never gets there."""
    first = [
        next((s for s, y in zip(steps, run[measure], strict=True) if y <= target), None)
        for run in runs
    ]
    reached = [step for step in first if step is not None]
    return float(np.median(reached)) if len(reached) == len(first) else None


def _band(values: Sequence[float]) -> dict[str, float]:
    """Return mean, least and most over seeds."""
    return {
        "value": float(np.mean(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
    }


def window(
    rates: NDArray[np.float64], losses: NDArray[np.float64], target: float
) -> dict[str, Any] | None:
    """Return the learning rates around the best one at which every seed reaches the target.

    Parameters
    ----------
    rates, losses
        Ascending grid, and the highest last loss over seeds on it, shape (n_rates,).
    target
        A loss.

    Returns
    -------
    dict or None
        `low` and `high` (interpolated between grid points in log rate and log loss), `decades`, and
        `open_low`, `open_high`: the window runs off the grid there. None when nothing reaches it.
    """
    at = int(losses.argmin())
    if not losses[at] <= target:
        return None
    first, last = at, at
    while first > 0 and losses[first - 1] <= target:
        first -= 1
    while last < len(rates) - 1 and losses[last + 1] <= target:
        last += 1
    x, y, level = np.log10(rates), np.log(np.maximum(losses, 1e-30)), math.log(target)
    low = (
        x[first]
        if first == 0
        else _cross(x[first - 1 : first + 1], y[first - 1 : first + 1], level)
    )
    high = x[last] if last == len(x) - 1 else _cross(x[last : last + 2], y[last : last + 2], level)
    return {
        "low": float(10**low),
        "high": float(10**high),
        "decades": float(high - low),
        "open_low": first == 0,
        "open_high": last == len(rates) - 1,
    }


def _cross(x: NDArray[np.float64], y: NDArray[np.float64], level: float) -> float:
    return float(x[0] + (level - y[0]) / (y[1] - y[0]) * (x[1] - x[0]))


def _shift(own: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, float | None]:
    """Return how many decades the ends of a window lie above another's; None where one is open."""
    if own is None or other is None:
        return {"low": None, "high": None}
    return {
        end: None
        if own[f"open_{end}"] or other[f"open_{end}"]
        else math.log10(own[end] / other[end])
        for end in ("low", "high")
    }


def _equivalence(runs: Sequence[TrainedVector]) -> dict[str, float | None]:
    """Return how far the predicted curves lie from the projection's, at every step looked at.

    `median` difference of the losses on the fit split in units of ln 2, or of the loss where that is
    larger, over all steps of all runs; `within_1_percent` the share of runs that are never further
    than that; `agree_up_to` the highest learning rate up to which no run is (None: not the lowest
    either); `worst_there` the largest difference up to it.
    """
    other = {
        (run["learning_rate"], run["seed"]): np.array(run["loss"])
        for run in _of(runs, "projection")
    }
    gaps: dict[float, list[NDArray[np.float64]]] = {}
    for run in _of(runs, "rescaled"):
        true = other.get((run["learning_rate"], run["seed"]))
        if true is not None:
            gap = np.abs(np.array(run["loss"]) - true) / np.maximum(true, CHANCE)
            gaps.setdefault(run["learning_rate"], []).append(np.nan_to_num(gap, nan=WORST))
    every = np.array([gap for rate in sorted(gaps) for gap in gaps[rate]])
    agree, worst = None, None
    for rate in sorted(gaps):
        if (largest := float(np.max(gaps[rate]))) > 0.01:
            break
        agree, worst = rate, max(worst or 0.0, largest)
    return {
        "median": float(np.median(every)),
        "within_1_percent": float((every.max(axis=1) <= 0.01).mean()),
        "agree_up_to": agree,
        "worst_there": worst,
    }
