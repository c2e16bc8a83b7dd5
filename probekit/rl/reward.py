"""From the heads' scores to rewards: several heads as one, the target, and what else is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ModelError, ProbeError
from probekit.probes.probe import Probe
from probekit.rl.target import Target, good_scores

Array = NDArray[np.float64]


class Rewards(NamedTuple):
    """Rewards of a step and the score behind them, each of shape (n,)."""

    total: Array
    score: Array
    """Score of the ensemble, before the target."""


class Ensemble:
    """Several heads as one pessimistic score: mean - penalty * std.

    The paper (2310.02743, uncertainty-weighted optimisation) subtracts the variance; the standard
    deviation has the unit of the score, so that one penalty serves heads of any scale.

    One head is itself. Several are first put on one scale: the score of each minus the mean of its
    own chosen scores, divided by the standard deviation of all its scores of the choose split.

    Parameters
    ----------
    heads
        At least one; several have to be fitted to the same rows with the same seed.
    penalty
        lambda: what the heads disagree on is not believed.

    Raises
    ------
    ProbeError
        When several heads do not hold scores of the same rows.
    """

    def __init__(self, heads: Sequence[Probe], penalty: float = 0.0) -> None:
        self.penalty = penalty
        parts = [head.distributions for head in heads]
        self._scales = [(0.0, 1.0)] * len(heads)
        if len(heads) > 1:
            self._scales = [_scale(part) for part in parts]
        self.distributions: dict[str, Any] = parts[0] if len(heads) == 1 else self._combined(parts)
        """As `Probe.distributions`, of the ensemble's score."""

    def score(self, scores: Array) -> Array:
        """Return the score of every completion, shape (n,), of those of all heads (n, n_heads)."""
        if scores.shape[1] == 1:
            return np.asarray(scores[:, 0])
        centre, size = np.array(self._scales).T
        scaled = (scores - centre) / size
        return np.asarray(scaled.mean(axis=1) - self.penalty * scaled.std(axis=1))

    def _combined(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        first = parts[0]
        tags = {
            tag: {
                value: self._joined([p["by_tag"].get(tag, {}).get(value, {}) for p in parts])
                for value in values
            }
            for tag, values in first["by_tag"].items()
        }
        return {**first, "all": self._joined([p["all"] for p in parts]), "by_tag": tags}

    def _joined(self, parts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
        shapes = [{name: len(values) for name, values in part.items()} for part in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise ProbeError(
                "ensemble: the heads were fitted to different rows, so what the chosen ones score "
                "together is not known. Fit them to one store with one seed."
            )
        return {
            name: self.score(np.column_stack([part[name] for part in parts])).tolist()
            for name in parts[0]
        }


def _scale(distributions: Mapping[str, Any]) -> tuple[float, float]:
    if not distributions:
        raise ProbeError(
            "ensemble: a head holds no scores of its own rows, so heads cannot be put on one scale."
            " Use the chosen probe of a fit, or --ensemble-layers with the fit's store."
        )
    every = np.concatenate([np.asarray(v, dtype=float) for v in distributions["all"].values()])
    return float(good_scores(distributions["all"]).mean()), float(every.std()) or 1.0


def rewards(
    scores: Array,
    ensemble: Ensemble,
    target: Target,
    values: Sequence[str],
    *,
    extra: Sequence[tuple[float, Array]] = (),
) -> Rewards:
    """Return the reward of every completion.

    A completion that the heads cannot read (an empty one) gets the lowest reward of the step,
    further rewards included, so that falling silent is never worth it.

    Parameters
    ----------
    scores
        Score of each head, shape (n, n_heads).
    ensemble
        From those to one score.
    target
        From score to reward.
    values
        Value of the target's tag for each completion.
    extra
        Further rewards with their weights, each (n,).

    Raises
    ------
    ModelError
        When no completion of the step can be read.
    """
    score = ensemble.score(scores)
    readable = np.isfinite(score)
    if not readable.any():
        raise ModelError(
            "no completion of this step can be read at the head's position: all are empty or too "
            "short. Use more --max-new-tokens, or a head at another position."
        )
    total = np.empty(len(score))
    total[readable] = target.rewards(
        score[readable], [v for v, k in zip(values, readable, strict=True) if k]
    )
    for weight, values_of in extra:
        total[readable] += weight * values_of[readable]
    total[~readable] = total[readable].min()
    return Rewards(total, score)
