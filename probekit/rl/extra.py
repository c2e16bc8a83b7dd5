"""Further rewards that are added to the head's, each with a weight."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.data.rows import Example
from probekit.errors import ModelError
from probekit.patterns import compiled

Array = NDArray[np.float64]
RewardFunction = Callable[..., Sequence[float | None]]
"""TRL's interface: called with `prompts`, `completions`, `completion_ids` and the prompts' tags."""


class Written(NamedTuple):
    """The completions of a step, for functions that judge them."""

    prompts: Sequence[Example]
    """Prompt of each completion, n of them."""
    texts: Sequence[str]
    ids: Sequence[list[int]]
    """New token ids, the end-of-turn token included."""


@dataclass(frozen=True)
class ExtraReward:
    """A reward with its weight."""

    name: str
    weight: float
    function: Callable[[Written], Array]

    @classmethod
    def parse(cls, spec: str, *, allow_code: bool = False) -> ExtraReward:
        """Read `NAME=WEIGHT`, where NAME is one of::

            length              new tokens, the end of the turn included
            repetition          1 - distinct bigrams / bigrams of tokens, 0 without any
            pattern:REGEX       1 where the expression is found, without regard to case
            module:function     a TRL reward function; None counts as 0; only with `allow_code`

        Raises
        ------
        ModelError
            When the spec is malformed, or the function may not or cannot be imported.
        """
        name, weight = cls.check(spec)
        kind, _, argument = name.partition(":")
        if name in BUILT_IN:
            return cls(name, weight, BUILT_IN[name])
        if kind == "pattern":
            return cls(name, weight, _pattern(argument))
        return cls(name, weight, _function(name, allow_code=allow_code))

    @staticmethod
    def check(spec: str) -> tuple[str, float]:
        """Return name and weight of a spec, and import nothing.

        Raises
        ------
        ModelError
            When the spec is malformed.
        """
        name, equals, number = spec.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = float("nan")
        if not (equals and name and np.isfinite(weight)):
            raise ModelError(f"reward {spec!r}: expected NAME=WEIGHT, for example length=-0.01.")
        kind, _, argument = name.partition(":")
        if name not in BUILT_IN and not argument:
            raise ModelError(
                f"reward {name!r}: unknown. Expected {', '.join(BUILT_IN)}, pattern:REGEX or "
                "module:function."
            )
        if kind == "pattern":
            _pattern(argument)
        return name, weight

    def __call__(self, written: Written) -> Array:
        """Return the reward of every completion, without the weight, shape (n,).

        Raises
        ------
        ModelError
            When a function raises or returns something else than n numbers.
        """
        values = np.asarray(self.function(written), dtype=np.float64)
        if values.shape != (len(written.texts),):
            raise ModelError(
                f"reward {self.name!r}: returned shape {values.shape}, expected one number for each "
                f"of {len(written.texts)} completions."
            )
        return values


def _length(written: Written) -> Array:
    return np.array([float(len(ids)) for ids in written.ids])


def _repetition(written: Written) -> Array:
    return np.array([repetition(ids) for ids in written.ids])


def repetition(ids: Sequence[int]) -> float:
    """Return the share of bigrams that have occurred before; 0 without any bigram."""
    grams = list(zip(ids, ids[1:], strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


BUILT_IN: dict[str, Callable[[Written], Array]] = {"length": _length, "repetition": _repetition}


def _pattern(text: str) -> Callable[[Written], Array]:
    try:
        pattern = compiled(text)
    except ValueError as error:
        raise ModelError(f"reward {error}") from error
    return lambda written: np.array([float(pattern.search(text)) for text in written.texts])


def _function(spec: str, *, allow_code: bool) -> Callable[[Written], Array]:
    if not allow_code:
        raise ModelError(
            f"reward {spec!r}: is code, and is not run unless you say so. Read it, then pass "
            "--allow-code (in Python allow_code=True)."
        )
    module, _, name = spec.partition(":")
    try:
        function: RewardFunction = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing a module runs it, and it may raise anything
        raise ModelError(
            f"reward {spec!r}: cannot be imported ({error}). Expected module:function of an "
            "installed module."
        ) from error

    def call(written: Written) -> Array:
        tags = {tag for prompt in written.prompts for tag in prompt.tags}
        columns: dict[str, Any] = {
            tag: [prompt.tags.get(tag) for prompt in written.prompts] for tag in sorted(tags)
        }
        try:
            values = function(
                prompts=[
                    [{"role": m.role, "content": m.content} for m in prompt.prompt or ()]
                    for prompt in written.prompts
                ],
                completions=[[{"role": "assistant", "content": text}] for text in written.texts],
                completion_ids=[list(ids) for ids in written.ids],
                **columns,
            )
            return np.array([0.0 if v is None else float(v) for v in values])
        except Exception as error:  # whatever a user's function raises
            raise ModelError(f"reward {spec!r}: raised {type(error).__name__}: {error}") from error

    return call
