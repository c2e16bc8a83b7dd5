"""A linear layer with its adapter merged, whose gradients go to the adapter alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _MergedLinear(torch.autograd.Function):
    """y = x W'^T + c with W' = W + s B A; gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        """Return the layer's output, shape (..., n_out)."""
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of x, A and B.

        dL/dA = s B^T dL/dW' and dL/dB = s dL/dW' A^T with dL/dW' = g^T x, which is never formed: (g B)
        and (x A^T) have only as many columns as the adapter has rank.
        """
        x, weight, a, b = ctx.saved_tensors
        g = gradients[0]
        own = g @ weight if ctx.needs_input_grad[0] else None
        flat, rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        down = (rows @ b).mul_(ctx.scale)
        up = (flat @ a.T).mul_(ctx.scale)
        return own, None, None, down.T @ flat, rows.T @ up, None


def merged_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """Return x W'^T + bias, where W' holds the adapter already, with gradients of x, a and b.

    Forward it costs what the bare layer costs. Backward it costs the gradient of x, and products with
    r columns in place of the gradient of the whole weight.

    Parameters
    ----------
    x
        Shape (..., n_in).
    weight
        W' = W + scale * b a, shape (n_out, n_in).
    bias
        Shape (n_out,).
    a, b
        The adapter, shapes (r, n_in) and (n_out, r).
    scale
        Of the adapter.
    """
    return _MergedLinear.apply(x, weight, bias, a, b, scale)  # type: ignore[no-any-return, no-untyped-call]
