"""What a model keeps between decode steps: keys and values, allocated once, or recurrent states."""

from __future__ import annotations

import functools
import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

from probekit.errors import ModelError

PROBE_IDS = (5, 6, 7, 8, 9, 10)
_PROVEN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx`, shape (n_kept,)."""
        self._buffers = [buffer[beam_idx] for buffer in self._buffers]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values


def cache_name(model: Any) -> str:  # noqa: ANN401 - a transformers model
    """Return the argument by which a model takes its cache.

    Raises
    ------
    ModelError
        When it takes none that can be made here, so that nothing can be sampled from it.
    """
    name = _cache_argument(type(model))  # type: ignore[arg-type] # of any class
    dynamic = getattr(model, "_supports_default_dynamic_cache", lambda: True)
    if name is None or not dynamic():
        raise ModelError(
            f"model type {model.config.model_type!r}: cannot be sampled from, because it keeps a cache "
            "of its own kind. Caching and fitting work with it; write with another model."
        )
    return name


@functools.cache  # asked for at every decode step
def _cache_argument(kind: type) -> str | None:
    taken = inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]
    return next((n for n in ("past_key_values", "cache_params") if n in taken), None)


def new_cache(model: Any) -> DynamicCache:  # noqa: ANN401
    """Return an empty cache of the kind that a model needs, by its configuration."""
    return DynamicCache(config=model.config)


def is_recurrent(model: Any) -> bool:  # noqa: ANN401
    """Return whether layers of a model keep a state in place of keys and values."""
    layers = new_cache(model).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def has_keys(cache: DynamicCache) -> bool:
    """Return whether a layer keeps keys, so that the cache knows how many tokens it has seen."""
    return not all(
        isinstance(layer, LinearAttentionCacheLayerMixin) and not isinstance(layer, DynamicLayer)
        for layer in cache.layers
    )


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Make row i of a cache what row `rows[i]` was, shape (n_kept,); rows may come up repeatedly."""
    for layer in cache.layers:
        layer.reorder_cache(rows)  # unlike the library's other ways, every kind of layer has it


def preallocate(cache: DynamicCache, repeats: int, new_tokens: int) -> None:
    """Repeat every row of a prefilled cache and give its plain layers room for all new tokens.

    Layers of another type (sliding windows, recurrent states) are repeated and grow as they do.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length():
            cache.layers[i] = PreallocatedLayer(layer, repeats, new_tokens)
        elif (n := _n_rows(layer)) is not None:
            layer.reorder_cache(torch.arange(n, device=layer.device).repeat_interleave(repeats))


def check_decoding(model: Any) -> None:  # noqa: ANN401 - a transformers model
    """Prove that a recurrent model can be sampled from: padded prompts, repeated rows, single steps.

    Two prompts of unequal length are decoded by one token and held against a pass over the whole text,
    once for a model. Models that keep keys and values alone are left as they are.

    Raises
    ------
    ModelError
        When its cache is of another kind, or gives other logits than the whole text.
    """
    name = cache_name(model)
    if model not in _PROVEN:
        _PROVEN[model] = not is_recurrent(model) or _decodes(model)
    if not _PROVEN[model]:
        raise ModelError(
            f"model type {model.config.model_type!r}: cannot be sampled from: a step with its {name} fails "
            "or gives other logits than a pass over the whole text. Write with another model."
        )


@torch.inference_mode()
def _decodes(model: Any) -> bool:  # noqa: ANN401
    ids = torch.tensor(PROBE_IDS, device=model.device)
    whole = [model(input_ids=row[None], use_cache=False).logits[0, -1] for row in (ids, ids[3:])]
    padded = torch.stack([ids, torch.cat([ids[:1].expand(3), ids[3:]])])
    mask = torch.ones_like(padded)
    mask[1, :3] = 0
    cache = new_cache(model)
    try:
        model(input_ids=padded[:, :-1], **decode_inputs(model, mask[:, :-1], cache, len(ids) - 1))
        preallocate(cache, 2, 1)
        rows, mask = (columns.repeat_interleave(2, 0) for columns in (padded[:, -1:], mask))
        logits = model(input_ids=rows, **decode_inputs(model, mask, cache, 1)).logits[::2, -1]
    except (LookupError, RuntimeError, TypeError, ValueError, AttributeError):
        return False  # some models of recurrent layers alone ask their cache for its length
    tolerance = 0.1 if model.dtype.itemsize < 4 else 1e-3  # noqa: PLR2004 - bytes of float32
    pairs = zip(whole, logits, strict=True)
    return all(float((got - to).norm()) <= tolerance * float(to.norm()) for to, got in pairs)


def decode_inputs(model: Any, mask: Tensor, cache: DynamicCache, n_new: int) -> dict[str, Any]:  # noqa: ANN401
    """Return what a forward pass of `n_new` more columns needs beside their ids.

    Parameters
    ----------
    model
        A transformers model.
    mask
        Mask of all columns so far, left-padded, shape (n_rows, n_columns).
    cache
        What the columns before left behind.
    n_new
        Columns of this pass.
    """
    name = cache_name(model)
    if name == "cache_params":  # without attention a step has nothing to mask
        return {"attention_mask": mask[:, -n_new:], name: cache, "use_cache": True}
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -n_new:]
    return {
        "attention_mask": mask,
        "position_ids": positions,
        name: cache,
        "use_cache": True,
    }


def _n_rows(layer: Any) -> int | None:  # noqa: ANN401 - a cache layer
    """Return the rows of a layer that has been written, None of one that has not."""
    states = [getattr(layer, "keys", None), *getattr(layer, "conv_states", {}).values()]
    states += getattr(layer, "recurrent_states", {}).values()
    return next((len(s) for s in states if s is not None and s.numel()), None)


def _with_room(states: Tensor, repeats: int, new_tokens: int) -> Tensor:
    n, heads, length, width = states.shape
    buffer = torch.empty(
        (n * repeats, heads, length + new_tokens, width), dtype=states.dtype, device=states.device
    )
    buffer[:, :, :length] = states.repeat_interleave(repeats, dim=0)
    return buffer
