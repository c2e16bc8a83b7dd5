"""A LoRA adapter computed beside the weights, so that bfloat16 rounds none of it away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ADAPTER = "default"
"""peft's name of the adapter."""


def parts(layer: Any) -> tuple[Any, Tensor, Tensor, float]:  # noqa: ANN401 - peft's LoRA layer
    """Return a layer without its adapter, the adapter's A (r, n_in) and B (n_out, r), and its scale."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return layer.get_base_layer(), a, b, layer.scaling[ADAPTER]


def compute_unrounded(model: Any) -> None:  # noqa: ANN401 - a model with peft's layers in it
    """Give every LoRA layer of a linear one the forward of `low_rank_linear`, in place.

    Variants of LoRA (DoRA, a bias of its own, weights of experts) keep peft's.
    """
    for layer in model.modules():
        if hasattr(layer, "parameter_name"):  # peft's wrapper of a single weight
            continue
        if getattr(layer, "lora_A", None) and layer.get_base_layer().weight.ndim == 2:
            if ADAPTER in layer.lora_variant or layer.lora_B[ADAPTER].bias is not None:
                continue
            layer.forward = _low_rank_forward(layer)


def refuse_steered_by_prompt(model: Any) -> None:  # noqa: ANN401 - peft's model
    """Raise `ValueError` for an adapter that peft's own model applies, and no layer below it.

    Learned prompts and prefixes, and LoRA that is on only after certain tokens.
    """
    for config in model.peft_config.values():
        if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
            kind = "aLoRA" if not config.is_prompt_learning else str(config.peft_type.value)
            raise ValueError(f"{kind} changes prompts and not layers, expected LoRA")


@torch.no_grad()
def _low_rank_forward(layer: Any) -> Callable[..., Tensor]:  # noqa: ANN401
    """Return a forward for a peft layer, whose W and B become parts of one matrix.

    peft's own is used while the adapter is off or another one is on.
    """
    own, (base, a, b, scale) = layer.forward, parts(layer)
    if layer.fan_in_fan_out:
        stacked = torch.cat([base.weight, b.T]).T
    else:
        stacked = torch.cat([base.weight, b], dim=1)
    weight, b.data = stacked[:, : a.shape[1]], stacked[:, a.shape[1] :]
    # One copy of W, but in float32, where a processor's sums may depend on where a weight begins.
    if weight.dtype != torch.float32:
        base.weight.data = weight.T if layer.fan_in_fan_out else weight

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        if layer.disable_adapters and not layer.fan_in_fan_out:
            # In the layout of the bare model: a product over longer rows may differ in the last bit.
            return torch.nn.functional.linear(x, base.weight.contiguous(), base.bias)
        if layer.disable_adapters or layer.active_adapters != [ADAPTER]:
            return own(x, *args, **kwargs)  # type: ignore[no-any-return]
        return low_rank_linear(x, stacked, base.bias, a, b, scale)

    return forward


class _LowRankLinear(torch.autograd.Function):
    """y = x W^T + c + s (x A^T) B^T; gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        stacked: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        """Return the layer's output, shape (..., n_out)."""
        y, inner = _low_rank(x, stacked, bias, a, scale)
        ctx.save_for_backward(x, stacked, a, inner)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return dx = g W + s (g B) A, dA = s (g B)^T x and dB = s g^T (x A^T)."""
        x, stacked, a, inner = ctx.saved_tensors
        n_in, rows = x.shape[-1], gradients[0].reshape(-1, len(stacked))
        both = rows @ stacked  # (n, n_in + r)
        down = both[:, n_in:] * ctx.scale
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.addmm(both[:, :n_in], down, a).view_as(x)
        da, db = down.T @ x.reshape(-1, n_in), rows.T @ inner.reshape(len(rows), -1)
        return dx, None, None, da, db, None


def _low_rank(
    x: Tensor, stacked: Tensor, bias: Tensor | None, a: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Return x W^T + bias + s (x A^T) B^T, and s x A^T."""
    inner = torch.nn.functional.linear(x, a).mul_(scale)
    return torch.nn.functional.linear(torch.cat([x, inner], dim=-1), stacked, bias), inner


def low_rank_linear(
    x: Tensor, stacked: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """Return x W^T + bias + scale (x a^T) b^T, with gradients of x, a and b.

    One product, [x, scale x a^T] [W, b]^T, whose sums are rounded once. Added to an output already rounded
    to bfloat16, what is smaller than half its last digit would be lost, as it is in a merged weight.

    Parameters
    ----------
    x
        Shape (..., n_in).
    stacked
        [W, b], shape (n_out, n_in + r); W has no gradient.
    bias
        Shape (n_out,).
    a, b
        The adapter, shapes (r, n_in) and (n_out, r).
    scale
        Factor of the adapter, alpha / rank.
    """
    if torch.is_grad_enabled():
        return _LowRankLinear.apply(x, stacked, bias, a, b, scale)  # type: ignore[no-any-return, no-untyped-call]
    return _low_rank(x, stacked, bias, a, scale)[0]
