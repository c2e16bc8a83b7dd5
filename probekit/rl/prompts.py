"""Which prompts a step uses: every prompt once an epoch, in equal numbers of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probekit.data.rows import Example
from probekit.errors import DataError


class PromptSampler:
    """Draws the prompts of every step, the same ones for the same seed and step.

    Parameters
    ----------
    prompts
        What can be drawn.
    n_prompts
        Prompts of a step.
    balance
        A tag whose values are drawn equally often; None draws from all prompts alike.
    seed
        Of the order.

    Raises
    ------
    DataError
        When there are no prompts, or the tag is absent or has one value only.
    """

    def __init__(
        self, prompts: Sequence[Example], n_prompts: int, *, balance: str | None, seed: int
    ) -> None:
        if not prompts:
            raise DataError("prompts: there are none. Expected at least one.")
        self._n, self._seed = n_prompts, seed
        values = [prompt.tags.get(balance, "") if balance else "" for prompt in prompts]
        if balance and ("" in values or len(set(values)) < 2):
            missing = values.count("")
            found = f"{missing} prompts have no such tag" if missing else f"all are {values[0]!r}"
            raise DataError(
                f"balance {balance!r}: {found}. Expected a tag with two values or more on every "
                "prompt, or no --balance."
            )
        self._classes = [
            [i for i, v in enumerate(values) if v == value] for value in sorted(set(values))
        ]
        if n_prompts < len(self._classes):
            raise DataError(
                f"balance {balance!r}: has {len(self._classes)} values, a step {n_prompts} prompts. "
                "Expected one prompt of each at least."
            )

    def step(self, number: int) -> list[int]:
        """Return the indices of the prompts of step `number` (0-based), one class after another."""
        share, rest = divmod(self._n, len(self._classes))
        found = []
        for place, members in enumerate(self._classes):
            # The odd ones go round the classes, so that over the run they are even too.
            extra = (place - number) % len(self._classes) < rest
            first = number * share + _extras(number, place, len(self._classes), rest)
            found += [self._at(place, members, first + k) for k in range(share + extra)]
        return found

    def _at(self, place: int, members: list[int], index: int) -> int:
        """Return the index-th prompt of a class in an endless sequence of shuffled epochs."""
        epoch, at = divmod(index, len(members))
        order = np.random.default_rng([self._seed, place, epoch]).permutation(len(members))
        return members[int(order[at])]


def _extras(number: int, place: int, n: int, rest: int) -> int:
    """Return how many odd prompts a class has had before step `number`."""
    return sum((place - step) % n < rest for step in range(number % n)) + (number // n) * rest
