"""Position rules: one resolver from a rule's name to the token indices of a rendered example."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import DataError
from probekit.models.chat import Rendered

_SIMPLE = ("last", "turn_end", "prompt_end", "mean", "all")
EXPECTED = "last, turn_end, prompt_end, mean, first:K, token:I or all"


@dataclass(frozen=True)
class PositionRule:
    """A named rule for which tokens of an example are read.

    `last` is the last content token of the completion, `turn_end` the token that closes it,
    `prompt_end` the last token before it, `token:I` its I-th token (negative from the end), `mean`
    the mean over its content tokens, `first:K` the mean over its first K, and `all` every one.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> PositionRule:
        """Read a rule, or raise `DataError` with what was expected."""
        name = text.strip()
        if name in _SIMPLE or re.fullmatch(r"first:[1-9][0-9]{0,8}|token:-?[0-9]{1,9}", name):
            return cls(name)
        raise DataError(f"position {text!r}: unknown. Expected {EXPECTED}.")

    @property
    def pooled(self) -> bool:
        """Whether the rule averages tokens into one row."""
        return self.name == "mean" or self.name.startswith("first:")

    @property
    def ragged(self) -> bool:
        """Whether the rule keeps several rows for each example."""
        return self.name == "all"

    def resolve(self, row: Rendered) -> NDArray[np.int64]:
        """Return the indices of the tokens that the rule reads, shape (n_read,), never empty.

        Raises
        ------
        DataError
            When the example has no such token; the message leaves the row to the caller.
        """
        if self.name == "prompt_end":
            if row.start == 0 or not row.has_prompt:
                raise DataError("raw text has no prompt before it, so no prompt_end")
            return np.array([row.start - 1])
        if row.start == row.stop:
            raise DataError(f"the row ends with its prompt, so only prompt_end, not {self.name}")
        if self.name == "turn_end":
            if row.turn_end is None:
                raise DataError("no token closes the completion, so no turn_end")
            return np.array([row.turn_end])
        return self._content(row)

    def _content(self, row: Rendered) -> NDArray[np.int64]:
        content = np.arange(row.start, row.stop)
        if self.name == "last":
            return content[-1:]
        if self.name.startswith("token:"):
            index = int(self.name.removeprefix("token:"))
            if not -len(content) <= index < len(content):
                raise DataError(f"the completion has {len(content)} tokens, so no {self.name}")
            return content[index : index + 1 or None]
        if self.pooled and row.start == 0 and len(content) > 1:
            # Token 0 is an attention sink whose residual is orders of magnitude larger than any
            # other: one such row would be the mean.
            content = content[1:]
        if self.name.startswith("first:"):
            content = content[: int(self.name.removeprefix("first:"))]
        return content


def parse_positions(text: str) -> tuple[PositionRule, ...]:
    """Read a comma-separated list of rules; repeated ones are kept once, in order."""
    rules = [PositionRule.parse(part) for part in text.split(",") if part.strip()]
    if not rules:
        raise DataError(f"positions {text!r}: names no position. Expected {EXPECTED}.")
    return tuple(dict.fromkeys(rules))
