"""From completions to rewards: several heads as one, the target, and what else is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ModelError
from probekit.rl.target import Target

Array = NDArray[np.float64]
RewardFunction = Callable[..., Sequence[float | None]]
"""TRL's interface: called with `prompts`, `completions`, `completion_ids` by keyword."""


class Rewards(NamedTuple):
    """Rewards of a step and the score behind them, each of shape (n,)."""

    total: Array
    score: Array
    """Pessimistic score of the heads, before the target."""


def ensemble(scores: Array, penalty: float) -> Array:
    """Return mean - penalty * std over heads: what the heads disagree on is not believed.

    Parameters
    ----------
    scores
        Shape (n, n_heads).
    penalty
        lambda; without effect for one head.
    """
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0])
    return np.asarray(scores.mean(axis=1) - penalty * scores.std(axis=1))


def rewards(
    scores: Array,
    target: Target,
    values: Sequence[str],
    *,
    penalty: float = 0.0,
    extra: Sequence[tuple[float, Array]] = (),
) -> Rewards:
    """Return the reward of every completion.

    A completion that the heads can not read (an empty one) gets the lowest reward of the step, so
    that falling silent is never worth it.

    Parameters
    ----------
    scores
        Of every head, shape (n, n_heads).
    target
        From score to reward.
    values
        Value of the target's tag for each completion.
    penalty
        Of the ensemble.
    extra
        Further rewards with their weights, each (n,).

    Raises
    ------
    ModelError
        When no completion of the step can be read.
    """
    score = ensemble(scores, penalty)
    known = np.isfinite(score)
    if not known.any():
        raise ModelError(
            "no completion of this step can be read at the head's position: all are empty or too "
            "short. Use more --max-new-tokens, or a head at another position."
        )
    filled = np.where(known, score, score[known].min())
    total = target.rewards(filled, values)
    total = np.where(known, total, total[known].min())
    for weight, values_of in extra:
        total = total + weight * values_of
    return Rewards(total, score)


def length_reward(n_new: Sequence[int]) -> Array:
    """Return the completion's new tokens; a negative weight makes long ones cost."""
    return np.asarray(n_new, dtype=float)


BUILT_IN: Mapping[str, Callable[[Sequence[int]], Array]] = {"length": length_reward}
