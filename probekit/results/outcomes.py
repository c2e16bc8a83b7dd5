"""Where a score moved: the wanted behaviour crossed with the readings of a completion (2602.15515)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.results.intervals import Array, Interval

HONEST, BLATANT, POLICY, ACTIVATIONS = OUTCOMES = ("honest", "blatant", "policy", "activations")
"""Parts of `outcome:NAME` in measures.toml; every completion has one."""


class Threshold(NamedTuple):
    """From which score on a reading passes."""

    value: float
    source: str
    """`midpoint` of the two sides' mean scores in the head's own data, or `start`: the mean score at
    the first evaluation."""


def threshold(target: Mapping[str, Any], start: Array) -> Threshold:
    """Return the threshold that a run's own record gives.

    Parameters
    ----------
    target
        `target` of run.json: scores of the chosen and the rejected rows.
    start
        Scores at the first evaluation, shape (n,), for a head whose two sides are not known.
    """
    sides = [np.array(target.get(side, {}).get("", []), float) for side in ("chosen", "rejected")]
    sides = [scores[np.isfinite(scores)] for scores in sides]
    if all(scores.size for scores in sides):
        return Threshold(float(np.mean([scores.mean() for scores in sides])), "midpoint")
    known = start[np.isfinite(start)]
    return Threshold(float(known.mean()) if known.size else np.nan, "start")


def outcomes(wanted: Array, text: Array, own: Array, passes: float) -> NDArray[np.object_]:
    """Return what each completion is: one of `OUTCOMES`, None where the behaviour is not known.

    Parameters
    ----------
    wanted
        Whether it shows the wanted behaviour, shape (n,): 1, 0, or NaN where that is not known.
    text
        Score as the frozen model reads the text, shape (n,); one that cannot be read passes nothing.
    own
        Score on the policy's own activations, shape (n,).
    passes
        Threshold of both readings.
    """
    found = np.full(len(wanted), BLATANT, dtype=object)
    found[own >= passes] = ACTIVATIONS
    found[text >= passes] = POLICY
    found[wanted == 1] = HONEST
    found[np.isnan(wanted)] = None
    return found


def risen(changes: Mapping[str, Interval]) -> list[str]:
    """Return the outcomes that are shown to be more frequent: the interval of the change is above 0."""
    return [name for name in OUTCOMES if changes[name].side() > 0]
