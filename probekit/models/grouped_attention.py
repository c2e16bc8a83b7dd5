"""Attention for learning on a CPU: batched matrix products, whose gradients are batched products too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from probekit.models.load import LoadedModel

NAME = "probekit_grouped"
MOST_SCORES = 1 << 26
"""Attention scores of a layer and batch: beyond it the fused kernel, which does not hold them."""


@contextlib.contextmanager
def grouped_attention(loaded: LoadedModel) -> Iterator[None]:
    """Use `attend` in place of the fused kernel while the block lasts.

    On a CPU the backward pass of torch's fused kernel takes several times as long as the matrix products
    it stands for. Models and devices that do not use that kernel are left as they are.

    Parameters
    ----------
    loaded
        The model; its attention is put back at the end, after an exception too.
    """
    model = loaded.model
    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu":  # noqa: SLF001
        yield
        return
    _register()
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def attend(
    module: Any,  # noqa: ANN401 - an attention layer
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Return softmax(q k^T scaling + mask) v as transformers asks it of an attention function.

    Query heads that share a key head are one longer query to it, so keys and values are not repeated.

    Parameters
    ----------
    module
        The layer; its other settings are in `kwargs`.
    query
        Shape (n, n_heads, n_query, d_head).
    key, value
        Shape (n, n_key_heads, n_key, d_head).
    attention_mask
        True where a key may be seen, or what is added to the scores; shape (n or 1, 1, n_query, n_key).

    Returns
    -------
    tuple[Tensor, None]
        Shape (n, n_query, n_heads, d_head).
    """
    n, heads, length, width = query.shape
    shared, seen = key.shape[1], key.shape[2]
    plain = not dropout and not any(
        kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "cache")
    )
    padding_only = attention_mask is not None and attention_mask.shape[1] == 1
    if not plain or not padding_only or n * heads * length * seen > MOST_SCORES:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert attention_mask is not None
    group = heads // shared
    scale = width**-0.5 if scaling is None else scaling
    rows = (query * scale).reshape(n * shared, group * length, width)
    scores = torch.bmm(rows, key.reshape(n * shared, seen, width).transpose(1, 2))
    scores = scores.view(n, shared, group, length, seen)
    mask = attention_mask[:, :, None]
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    weights = scores.softmax(-1).view(n * shared, group * length, seen)
    attended = torch.bmm(weights, value.reshape(n * shared, seen, -1))
    return attended.view(n, heads, length, -1).transpose(1, 2).contiguous(), None


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
