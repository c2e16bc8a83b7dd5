"""Batches of rendered rows in, the wanted tokens' activations out: the core of cache and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.backends import Backend
from probekit.activations.backends.base import Place
from probekit.activations.positions import PositionRule
from probekit.activations.table import Cell
from probekit.errors import ModelError
from probekit.models.chat import Rendered


@dataclass(frozen=True)
class Selection:
    """The tokens of one padded batch that a position rule reads."""

    rule: PositionRule
    sequence: Tensor
    """Index of the sequence in the batch, shape (n_read,)."""
    token: Tensor
    """Index of the token in the sequence, shape (n_read,)."""
    lengths: Tensor
    """Tokens read of each sequence, shape (n_sequences,)."""

    @classmethod
    def build(cls, rule: PositionRule, rows: Sequence[Rendered], device: torch.device) -> Selection:
        """Resolve `rule` against every row of a batch."""
        resolved = [rule.resolve(row) for row in rows]
        lengths = np.array([len(tokens) for tokens in resolved])
        return cls(
            rule,
            torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)).to(device),
            torch.from_numpy(np.concatenate(resolved)).to(device),
            torch.from_numpy(lengths).to(device),
        )

    def take(self, acts: Tensor) -> Tensor:
        """Return a copy of the rows read, or their means.

        Means are taken in float32 whatever dtype the model runs in.

        Parameters
        ----------
        acts
            Shape (n_sequences, n_tokens, d_model).

        Returns
        -------
        Tensor
            Shape (n_read, d_model), or (n_sequences, d_model) for a pooled rule.
        """
        read = acts[self.sequence, self.token]  # (n_read, d_model); indexing copies
        if not self.rule.pooled:
            return read
        return torch.segment_reduce(read.float(), "mean", lengths=self.lengths)


def plan_batches(lengths: NDArray[np.integer], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Return batches of row indices, (n_batch,) each, longest first, of `batch_tokens` when padded.

    Sorting by length leaves almost no padding; the longest first shows a lack of memory at once.
    A row longer than the budget gets a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        width = int(lengths[order[start]])
        size = max(1, batch_tokens // max(1, width))
        batches.append(order[start : start + size])
        start += size
    return batches


def pad(rows: Sequence[Rendered], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return right-padded token ids and their mask, both (n_sequences, n_tokens) of int64."""
    width = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        mask[i, : len(row.ids)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def read_batch(
    backend: Backend,
    rows: Sequence[Rendered],
    places: Sequence[Place],
    rules: Sequence[PositionRule],
    device: torch.device,
) -> dict[Cell, NDArray[np.float32]]:
    """Run one batch and return each cell's rows, (n_sequences, d_model), or ragged for `all`.

    The wanted tokens are copied inside the hook, so no more than one block's activations live at
    any time, and everything moves to the CPU once.

    Raises
    ------
    ModelError
        When an activation is not finite, which means the forward dtype overflowed.
    """
    ids, mask = pad(rows, device)
    selections = [Selection.build(rule, rows, device) for rule in rules]
    kept: dict[Cell, Tensor] = {}

    def read(place: Place, acts: Tensor) -> None:
        for selection in selections:
            kept[Cell(*place, selection.rule.name)] = selection.take(acts)

    backend.run(ids, mask, places, read)
    return {cell: _to_numpy(cell, acts) for cell, acts in kept.items()}


def _to_numpy(cell: Cell, acts: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = acts.detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ModelError(
            f"{cell}: the model returned values that are not finite in {acts.dtype}. "
            "Run it with --dtype bfloat16 or float32."
        )
    return values
