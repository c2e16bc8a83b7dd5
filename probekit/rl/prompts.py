"""Which prompts a step uses: every prompt once an epoch, in given numbers of every class."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from probekit.data.rows import Example
from probekit.errors import DataError
from probekit.numbers import plain_number


class Balance(NamedTuple):
    """Shares in which the values of a tag are drawn."""

    tag: str
    shares: Mapping[str, float]
    """Empty: all alike."""

    @classmethod
    def parse(cls, spec: str | None) -> Balance | None:
        """Read `TAG`, or `TAG=VALUE:SHARE,VALUE:SHARE`; None for None.

        Raises
        ------
        DataError
            When a share is no positive number.
        """
        if not spec:
            return None
        tag, _, rest = spec.partition("=")
        shares = {}
        for part in filter(None, rest.split(",")):
            value, _, number = part.rpartition(":")
            shares[value] = plain_number(number) or 0.0
            if not shares[value] > 0:
                raise DataError(
                    f"balance {spec!r}: {part!r} is no share. Expected TAG, or "
                    "TAG=VALUE:NUMBER,VALUE:NUMBER with numbers above 0."
                )
        return cls(tag, shares)


class PromptSampler:
    """Draws the prompts of every step, the same ones for the same seed and step.

    Parameters
    ----------
    prompts
        What can be drawn.
    n_prompts
        Prompts of a step.
    balance
        A tag whose values are drawn in given shares, equal ones unless it says so; None draws from
        all prompts alike.
    seed
        Seed of the order.

    Raises
    ------
    DataError
        When there are no prompts, the tag is absent or has one value only, or a value has no share.
    """

    def __init__(
        self, prompts: Sequence[Example], n_prompts: int, *, balance: str | None, seed: int
    ) -> None:
        if not prompts:
            raise DataError("prompts: there are none. Expected at least one.")
        self._n, self._seed = n_prompts, seed
        wanted = Balance.parse(balance)
        values = _values(prompts, wanted)
        names = sorted(set(values))
        if wanted and ("" in values or len(names) < 2):
            missing = values.count("")
            reason = f"{missing} prompts have no such tag" if missing else f"all are {values[0]!r}"
            raise DataError(
                f"balance {balance!r}: {reason}. Expected a tag with two values or more on every "
                "prompt, or no --balance."
            )
        shares = (wanted.shares if wanted else {}) or dict.fromkeys(names, 1.0)
        if set(shares) != set(names):
            raise DataError(
                f"balance {balance!r}: the prompts' values are {', '.join(names)}. Expected a share for "
                "each of them and for no other."
            )
        self._classes = [[i for i, v in enumerate(values) if v == value] for value in names]
        if n_prompts < len(self._classes):
            raise DataError(
                f"balance {balance!r}: has {len(self._classes)} values, a step {n_prompts} prompts. "
                "Expected one prompt of each at least."
            )
        self._bounds = np.cumsum([0.0, *(shares[name] for name in names)]) / sum(shares.values())

    def step(self, number: int) -> list[int]:
        """Return the indices of the prompts of step `number` (0-based), one class after another."""
        before, after = self._drawn(number), self._drawn(number + 1)
        return [
            self._at(place, members, k)
            for place, members in enumerate(self._classes)
            for k in range(before[place], after[place])
        ]

    def _drawn(self, steps: int) -> list[int]:
        """Return how many prompts of each class are drawn in the first `steps` steps."""
        # Bounds between classes are rounded, not shares, so that the numbers add up to n a step.
        edges = np.floor(steps * self._n * self._bounds + 1e-6).astype(int)
        return [int(n) for n in np.diff(edges)]

    def _at(self, place: int, members: list[int], index: int) -> int:
        """Return the index-th prompt of a class in an endless sequence of shuffled epochs."""
        epoch, at = divmod(index, len(members))
        order = np.random.default_rng([self._seed, place, epoch]).permutation(len(members))
        return members[int(order[at])]


def drawn(
    prompts: Sequence[Example], n: int, *, seed: int, balance: str | None = None
) -> list[Example]:
    """Return n prompts, drawn by seed where there are more, in their order.

    Where training balances a tag, its values take turns, whatever their shares in training: every class
    gets an interval of its own. A group has a second prompt when all have one, since prompts of one group
    are alike and intervals are over prompts.
    """
    if len(prompts) <= n:
        return list(prompts)
    values = _values(prompts, Balance.parse(balance))
    before: Counter[str] = Counter()
    order = []
    for i in map(int, np.random.default_rng([seed, 7]).permutation(len(prompts))):
        order.append((before[prompts[i].group], i))
        before[prompts[i].group] += 1
    queues: dict[str, list[int]] = {}
    for _, i in sorted(order, key=lambda item: item[0]):
        queues.setdefault(values[i], []).append(i)
    turns = (queue[k] for k in range(len(prompts)) for queue in queues.values() if k < len(queue))
    return [prompts[i] for i in sorted(itertools.islice(turns, n))]


def _values(prompts: Sequence[Example], balance: Balance | None) -> list[str]:
    """Return each prompt's value of the tag that is balanced; empty where it has none or none is."""
    return [prompt.tags.get(balance.tag, "") if balance else "" for prompt in prompts]
