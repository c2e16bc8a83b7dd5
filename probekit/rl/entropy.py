"""The weight of the entropy bonus, which rises while a policy's entropy is below its floor."""

from __future__ import annotations

import math
from typing import Any

FIRST = 5
"""Steps whose mean entropy is the start: a single step's differs by its prompts."""
RATE = 0.5
"""Change of the weight's logarithm in a step, for each unit that the entropy is below its floor."""
MOST = 10.0
"""The weight rises to this many times the given one and no further."""


class EntropyWeight:
    """Weight of the entropy in the loss, from step to step.

    The rule is the one that soft actor-critic adapts its temperature by (Haarnoja et al. 2018,
    1812.05905): a dual ascent on the logarithm of the weight, for the constraint that the entropy is
    no lower than a floor. Here the floor is a share of the policy's own entropy at its start, and the
    weight stays between the given one and `MOST` times that, so that texts are not driven apart where the
    constraint can not be met.

    Parameters
    ----------
    weight
        The first and least one.
    floor
        Share of the start's entropy; 0 leaves the weight as it is.
    """

    def __init__(self, weight: float, floor: float) -> None:
        self.value, self._least, self._floor = weight, weight, floor
        self._first: list[float] = []

    def observe(self, entropy: float) -> None:
        """Take in the entropy of a step, nats per token."""
        if not self._floor:
            return
        if len(self._first) < FIRST:
            self._first.append(entropy)
            return
        gap = self._floor - entropy / (sum(self._first) / FIRST)
        moved = self.value * math.exp(RATE * gap)
        self.value = min(max(moved, self._least), MOST * self._least)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"weight": self.value, "first": self._first}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.value, self._first = float(state["weight"]), list(state["first"])
