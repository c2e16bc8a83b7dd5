"""A key-value cache that is allocated once: a decode step writes one column and copies nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in buffers that already have room for all new tokens.

    The buffers start as the prefilled keys and values, every row repeated `repeats` times.
    """

    def __init__(self, prefilled: DynamicLayer, repeats: int, new_tokens: int) -> None:
        super().__init__()
        assert prefilled.keys is not None
        assert prefilled.values is not None
        self.lazy_initialization(prefilled.keys, prefilled.values)
        self.length = prefilled.get_seq_length()
        self._buffers = [
            _with_room(states, repeats, new_tokens) for states in (prefilled.keys, prefilled.values)
        ]
        self._show()

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ANN401 - what the base class passes on
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Write the new columns, each state (n, n_heads, n_new, d_head); return views of all."""
        end = self.length + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : end] = states
        self.length = end
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, shape (n_kept,)."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values


def preallocate(cache: DynamicCache, repeats: int, new_tokens: int) -> None:
    """Repeat every row of a prefilled cache and give its plain layers room for all new tokens.

    Layers of another type (sliding windows, recurrent states) are repeated and grow as they do.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = PreallocatedLayer(layer, repeats, new_tokens)
        else:
            layer.batch_repeat_interleave(repeats)


def _with_room(states: Tensor, repeats: int, new_tokens: int) -> Tensor:
    n, heads, length, width = states.shape
    buffer = torch.empty(
        (n * repeats, heads, length + new_tokens, width), dtype=states.dtype, device=states.device
    )
    buffer[:, :, :length] = states.repeat_interleave(repeats, dim=0)
    return buffer
