"""Scores to rewards: the raw score, a bound on it, or the distribution of the chosen scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ProbeError

Array = NDArray[np.float64]


def raw(scores: Array) -> Array:
    """Return the scores (n,) themselves: r = s. Unbounded: an optimiser goes past all it was fit on."""
    return scores


def clipped(scores: Array, chosen: Array, margin: float = 0.0) -> Array:
    """Return r = min(s, mean + margin * sd of the chosen scores): beyond it nothing is gained.

    Parameters
    ----------
    scores
        Scores of the batch, shape (n,).
    chosen
        Scores of the head's own chosen rows, shape (m,).
    margin
        In standard deviations of the chosen scores.
    """
    return np.asarray(np.minimum(scores, chosen.mean() + margin * chosen.std()))


def gaussian(scores: Array, chosen: Array) -> Array:
    """Return the log-density of a normal distribution fitted to the chosen scores.

    r = -(s - m)^2 / (2 v) - log(2 pi v) / 2, with mean m and variance v of the chosen scores. Its
    maximum is at m: a policy that follows it to the end puts every score there.

    Parameters
    ----------
    scores
        Scores of the batch, shape (n,).
    chosen
        Scores of the head's own chosen rows, shape (m,).

    Returns
    -------
    Array
        Shape (n,), nats.
    """
    mean, variance = chosen.mean(), chosen.var() + 1e-12
    return np.asarray(
        -((scores - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
    )


def kernel_density(scores: Array, chosen: Array) -> Array:
    """Return the log of a Gaussian kernel density estimate of the chosen scores.

    r = log mean_j N(s; c_j, h^2) with Silverman's bandwidth h = 0.9 min(sd, iqr / 1.34) m^(-1/5).

    Parameters
    ----------
    scores
        Scores of the batch, shape (n,).
    chosen
        Scores of the head's own chosen rows, shape (m,).

    Returns
    -------
    Array
        Shape (n,), nats.
    """
    quartiles = np.quantile(chosen, [0.25, 0.75])
    size = min(chosen.std(), float(quartiles[1] - quartiles[0]) / 1.34) or chosen.std()
    width = max(0.9 * size * len(chosen) ** -0.2, 1e-6)
    z = (scores[:, None] - chosen[None]) / width  # (n, m)
    top = (-0.5 * z**2).max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(-0.5 * z**2 - top).sum(axis=1)) + top[:, 0]
    return np.asarray(log_sum - math.log(len(chosen) * width * math.sqrt(2 * math.pi)))


def transport(scores: Array, chosen: Array) -> Array:
    """Return minus the potential of the optimal transport of the batch to the chosen scores.

    In one dimension the optimal map T takes the i-th smallest score to the chosen scores'
    quantile of the same rank. The squared Wasserstein distance of the policy's scores to the
    chosen ones has the first variation phi with phi'(s) = 2 (s - T(s)), so r = -phi(s) makes the
    policy gradient the gradient of that distance: it vanishes when the *distribution* is matched,
    not when every score is the most likely one. Integrated by trapezoids over the sorted batch,
    mean 0; equal scores get equal rewards.

    Parameters
    ----------
    scores
        Scores of the whole batch, shape (n,), n at least 2.
    chosen
        Shape (m,).
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    aim = np.quantile(chosen, (np.arange(len(scores)) + 0.5) / len(scores))
    pull = ranked - aim
    steps = np.diff(ranked) * (pull[:-1] + pull[1:])
    potential = np.concatenate([[0.0], np.cumsum(steps)])
    reward = np.empty(len(scores))
    reward[order] = -potential
    return np.asarray(reward - reward.mean())


def matched(scores: Array, chosen: Array) -> Array:
    """Return `transport` in units of the chosen scores' variance, so that heads of any scale pull alike.

    Shapes are (n,) and (m,); chosen scores that are all equal leave the square of the score's unit.
    """
    variance = float(chosen.var())
    return transport(scores, chosen) / (variance if variance > 1e-12 else 1.0)


def distance_to_chosen(
    scores: Array,
    distributions: Mapping[str, Any],
    *,
    tag: str | None = None,
    values: Sequence[str] = (),
) -> float | None:
    """Return how far completions' scores are from the chosen scores, class by class.

    With W1 the 1-Wasserstein distance between two samples, n_c the readable completions of class c,
    s_c their scores and r_c the chosen scores of that class::

        sum_c n_c W1(s_c, r_c) / sum_c n_c

    which is the mean over completions of the distance of their class. Classes are the values of
    `tag`; without a tag all completions are one class. This is the one definition of
    `distance_to_chosen` in a step's row, in an evaluation and in TRL's log.

    Parameters
    ----------
    scores
        Shape (n,), in units of the score; NaN where a completion could not be read, which leaves it out.
    distributions
        `Probe.distributions` of the head, or `Ensemble.distributions`.
    tag
        Tag whose values are the classes.
    values
        Value of the tag for each completion, n of them; not read without a tag.

    Returns
    -------
    float or None
        None when no readable completion is of a class with chosen scores. Completions of a class
        without chosen scores are left out.
    """
    from scipy.stats import wasserstein_distance

    classes = np.array(list(values) if tag else [""] * len(scores), dtype=object)  # (n,)
    parts = distributions.get("by_tag", {}).get(tag, {}) if tag else distributions
    distances, sizes = [], []
    for value in np.unique(classes):
        read = scores[(classes == value) & np.isfinite(scores)]
        chosen = good_scores(parts.get(str(value) if tag else "all", {}))
        if read.size and chosen.size:
            distances.append(float(wasserstein_distance(read, chosen)))
            sizes.append(read.size)
    return float(np.repeat(distances, sizes).mean()) if sizes else None


TARGETS = {
    "max": None,
    "clip": clipped,
    "gaussian": gaussian,
    "kde": kernel_density,
    "chosen": matched,
}
"""Name to function of scores and chosen scores; `max` needs no chosen scores."""


class Target:
    """One of the targets, with the chosen scores that it aims at, by class where a tag is named.

    Parameters
    ----------
    name
        Name of the target, a key of `TARGETS`.
    distributions
        `Probe.distributions` of the head.
    tag
        Aim at the chosen scores of each value of this tag separately.
    margin
        Margin of `clip`, in standard deviations of the chosen scores.

    Raises
    ------
    ProbeError
        When the target needs chosen scores and the head has none, or not by that tag.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.rl import Target
    >>> chosen = {"all": {"chosen": [1.0, 3.0], "rejected": [-1.0]}}
    >>> Target("clip", chosen).rewards(np.array([0.0, 2.0, 9.0]), ["", "", ""])
    array([0., 2., 2.])
    """

    def __init__(
        self,
        name: str,
        distributions: Mapping[str, Any],
        *,
        tag: str | None = None,
        margin: float = 0.0,
    ) -> None:
        self.name, self.tag = name, tag
        self._rule = TARGETS[name]
        if name == "clip":
            self._rule = functools.partial(clipped, margin=margin)
        self.chosen: dict[str, Array] = {}
        if self._rule is None:
            return
        parts = {"": distributions.get("all", {})}
        if tag is not None:
            parts |= distributions.get("by_tag", {}).get(tag, {})
        self.chosen = {
            value: good_scores(part) for value, part in parts.items() if good_scores(part).size
        }
        if not self.chosen or (tag is not None and not self.chosen.keys() - {""}):
            where = f" by tag {tag!r}" if tag else ""
            raise ProbeError(
                f"target {name!r}: the head holds no chosen scores{where}. Use the chosen probe of "
                "a fit on pairs, labels or ratings, or --target max."
            )

    def rewards(self, scores: Array, values: Sequence[str]) -> Array:
        """Return the reward of every completion of a step.

        Parameters
        ----------
        scores
            Shape (n,).
        values
            Value of the tag of each completion's prompt; ignored without a tag.

        Raises
        ------
        ProbeError
            When the head has no chosen scores of one of the values.
        """
        if self.tag and self._rule is not None:
            self.check(values)
        if self._rule is None:
            return scores
        reward = np.empty(len(scores))
        of = np.array(list(values) if self.tag else [""] * len(scores), dtype=object)
        for value in np.unique(of):
            rows = of == value
            reward[rows] = self._rule(scores[rows], self.chosen[str(value)])
        return reward

    def check(self, values: Sequence[str]) -> None:
        """Check that there are chosen scores of every value of the tag.

        Raises
        ------
        ProbeError
            With the first one that has none.
        """
        if self.tag and self._rule is not None:
            for value in sorted(set(values) - (self.chosen.keys() - {""})):
                listed = ", ".join(sorted(self.chosen.keys() - {""}))
                raise ProbeError(
                    f"target tag {self.tag!r}: the head holds no chosen scores of {value!r}, which a "
                    f"prompt has. It knows {listed}."
                )


def good_scores(parts: Mapping[str, Any]) -> Array:
    """Return the scores (m,) of the good side: chosen, class 1, or rows rated in the upper half."""
    return _side(parts, ("chosen", "upper"), 1)


def bad_scores(parts: Mapping[str, Any]) -> Array:
    """Return the scores (m,) of the other side: rejected, class 0, or rows rated in the lower half."""
    return _side(parts, ("rejected", "lower"), 0)


def _side(parts: Mapping[str, Any], names: tuple[str, ...], label: int) -> Array:
    """Return the scores of a side that has one of these names, else of a class by its number."""
    name = next((name for name in names if name in parts), None)
    if name is None and len(parts) == 2:
        name = list(parts)[label]
    return np.empty(0) if name is None else np.asarray(parts[name], dtype=float)
