"""The weight of the entropy bonus, which holds a policy's entropy at a share of its start."""

from __future__ import annotations

import math
from typing import Any

FIRST = 5
"""Steps whose mean entropy is the start: a single step's differs by its prompts."""
MEMORY = 0.5
"""Share of the mean of earlier steps in the entropy that is compared with the target."""
GAIN = 5.0
"""The weight's logarithm rises by this for each unit that the entropy is below its target,"""
RATE = 0.05
"""and by this in each step that it stays there."""
MOST = 10.0
"""The weight is at most this many times the given one, and at least that part of it."""


class EntropyWeight:
    """Weight of the entropy in the loss, from step to step.

    Soft actor-critic adapts its temperature by dual ascent on its logarithm (Haarnoja et al. 2018,
    1812.05905): a step in proportion to how far the entropy is below its target. A policy's entropy is
    itself near to a sum of what the weight did in the last steps, so that rule alone swings, with a period of
    70 steps in a run of the knowledge-awareness study, from 0.7 to 1.5 of the start. Here the weight follows
    the distance itself and, slowly, its sum: a proportional-integral controller.

    Parameters
    ----------
    weight
        The one to begin with.
    target
        Share of the start's entropy; 0 leaves the weight as it is.
    """

    def __init__(self, weight: float, target: float) -> None:
        self.value, self._given, self._target = weight, weight, target
        self._first: list[float] = []
        self._recent, self._sum = math.nan, 0.0

    def observe(self, entropy: float) -> None:
        """Take in the entropy of a step, nats per token."""
        if not self._target:
            return
        if len(self._first) < FIRST:
            self._first.append(entropy)
            return
        share = entropy / (sum(self._first) / FIRST)
        recent = share if math.isnan(self._recent) else self._recent
        self._recent = MEMORY * recent + (1 - MEMORY) * share
        gap, most = self._target - self._recent, math.log(MOST)
        self._sum = min(max(self._sum + RATE * gap, -most), most)
        self.value = self._given * math.exp(min(max(self._sum + GAIN * gap, -most), most))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        recent = None if math.isnan(self._recent) else self._recent
        return {"weight": self.value, "first": self._first, "recent": recent, "sum": self._sum}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.value, self._first = float(state["weight"]), list(state["first"])
        self._recent = math.nan if state["recent"] is None else float(state["recent"])
        self._sum = float(state["sum"])
