"""Which tokens an intervention touches, while a model writes and on whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.activations.positions import PositionRule
from probekit.errors import DataError, SteeringError
from probekit.models.chat import Rendered

EXPECTED = "both, prompt, generated, prompt_end, all, mean, first:K or token:I"


@dataclass(frozen=True)
class Where:
    """The tokens to edit: `prompt`, `generated`, `both`, or those that a position rule reads.

    `all` and `mean` read every completion token, so they edit what `generated` edits. Rules that
    count from the end of the completion (`last`,
    `turn_end`, `token:-1`) are known only once a text is whole.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> Where:
        """Read a place, or raise `SteeringError` with what was expected."""
        name = text.strip()
        if name in ("both", "prompt", "generated"):
            return cls(name)
        try:
            return cls(PositionRule.parse(name).name)
        except DataError as error:
            raise SteeringError(f"where {text!r}: unknown. Expected {EXPECTED}.") from error

    @property
    def from_the_end(self) -> bool:
        """Whether the tokens are known only once the completion is whole."""
        return self.name in ("last", "turn_end") or self.name.startswith("token:-")

    def columns(self, start: int, offset: int, n: int) -> NDArray[np.bool_]:
        """Return which of the columns offset .. offset + n - 1 are edited, shape (n,).

        Parameters
        ----------
        start
            Column of the first generated token; prompts are left-padded up to it.
        offset
            Columns that the key-value cache holds already.
        n
            Columns of this forward pass.

        Raises
        ------
        SteeringError
            When the place counts from the end of a completion that is still being written.
        """
        if self.from_the_end:
            raise SteeringError(
                f"where {self.name!r}: is not known before the completion is whole. Expected "
                f"{EXPECTED} while generating."
            )
        new: NDArray[np.int64] = np.arange(offset, offset + n) - start  # first generated: 0
        if self.name == "both":
            return np.ones(n, dtype=bool)
        if self.name == "prompt":
            return np.asarray(new < 0)
        if self.name == "prompt_end":
            return np.asarray(new == -1)
        if self.name.startswith("first:"):
            return np.asarray((new >= 0) & (new < int(self.name.removeprefix("first:"))))
        if self.name.startswith("token:"):
            return np.asarray(new == int(self.name.removeprefix("token:")))
        return np.asarray(new >= 0)

    def mask(self, rows: Sequence[Rendered], width: int) -> NDArray[np.bool_]:
        """Return which tokens of whole, right-padded texts are edited, shape (n_rows, width)."""
        edited = np.zeros((len(rows), width), dtype=bool)
        for i, row in enumerate(rows):
            if self.from_the_end:
                edited[i, PositionRule(self.name).resolve(row)] = True
            else:
                edited[i, : len(row.ids)] = self.columns(row.new, 0, len(row.ids))
        return edited
