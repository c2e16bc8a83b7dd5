"""Prompts padded on the left, so that what is written next to each starts in the same column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def left_pad(
    rows: Sequence[NDArray[np.int32]], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return left-padded token ids and their mask, both (n_rows, n_tokens) of int64."""
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def token_positions(mask: Tensor) -> Tensor:
    """Return every token's position among the real ones, shape of `mask`."""
    return (mask.cumsum(-1) - 1).clamp_min(0)
