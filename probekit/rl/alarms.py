"""What a careful reader of a run's log would want to be told at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LOW_ENTROPY = 0.5
"""Share of the first step's entropy below which a run is told of it."""
DRIFT = 1.5
"""Factor of the first step's length, either way."""
FAR = 1.5
"""Mahalanobis distance, in units of that of new rows of the head's own data."""


class Start(NamedTuple):
    """The first step of a run, which later ones are compared with."""

    entropy: float
    n_tokens: float


def step_alarms(
    row: dict[str, Any],
    *,
    start: Start,
    finished: NDArray[np.bool_],
    scores: NDArray[np.float64],
    chosen: NDArray[np.float64],
) -> list[str]:
    """Return the alarms of a step of learning.

    Parameters
    ----------
    row
        The step's metrics.
    start
        The first step's.
    finished
        Whether each completion ended its turn, shape (n,).
    scores
        Scores of the completions that could be read, shape (n_read,).
    chosen
        Scores of the chosen rows; may be empty.
    """
    alarms = []
    if row["flat_groups"] == 1.0:
        alarms.append("every group's rewards are equal: nothing is learnt from this step")
    if not finished.any():
        alarms.append("every completion was cut at the length limit")
    if chosen.size and scores.mean() > chosen.max():
        alarms.append("the mean score is past every chosen one")
    if row["entropy"] < LOW_ENTROPY * start.entropy:
        share = row["entropy"] / start.entropy
        alarms.append(f"entropy is at {share:.0%} of the start: the policy collapses")
    change = row["n_tokens"] / max(start.n_tokens, 1e-9)
    if not 1 / DRIFT <= change <= DRIFT:
        alarms.append(f"completions are {change:.1f} times as long as at the start")
    return alarms


def evaluation_alarms(metrics: dict[str, Any]) -> list[str]:
    """Return the alarms of an evaluation's metrics over all held-out prompts."""
    alarms, far = [], metrics.get("mahalanobis")
    if far and far["value"] > FAR:
        alarms.append(
            f"activations are {far['value']:.1f} times as far from the head's data as its own rows"
        )
    return alarms
