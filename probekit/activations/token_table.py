"""The token ids and spans of a store's rows, read one row at a time."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.models.chat import Rendered


class TokenTable:
    """Rows of an examples group by index; spans are in memory, token ids stay in the file."""

    def __init__(self, group: h5py.Group) -> None:
        self._ids = group["token_ids"]
        self._offsets = group["token_offsets"][()]
        self._span = group["span"][()]
        self._turn_end = group["turn_end"][()]
        self._has_prompt = group["has_prompt"][()]
        self.lengths: NDArray[np.int64] = np.diff(self._offsets)
        """Tokens of each row, shape (n_examples,)."""
        counts = self._span[:, 1] - self._span[:, 0]
        self.ragged: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """Offsets of each row's completion tokens in a ragged matrix, shape (n_examples + 1,)."""

    def row(self, index: int) -> Rendered:
        """Return one row's token ids and spans."""
        turn_end = int(self._turn_end[index])
        return Rendered(
            self._ids[self._offsets[index] : self._offsets[index + 1]],
            int(self._span[index, 0]),
            int(self._span[index, 1]),
            turn_end if turn_end >= 0 else None,
            bool(self._has_prompt[index]),
        )

    def ragged_rows(self, index: int) -> NDArray[np.int64]:
        """Return where one row's completion tokens lie in a ragged matrix."""
        return np.arange(self.ragged[index], self.ragged[index + 1])
