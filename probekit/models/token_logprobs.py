"""Log-probabilities of given tokens, and entropies, with gradient, without the vocabulary's in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 32
"""Rows worked on together: few enough to stay in a processor's cache."""


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits / temperature)[token] and its entropy; keeps the logits and two numbers a row."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        logits: Tensor,
        ids: Tensor,
        temperature: float,
        with_entropy: bool,  # noqa: FBT001 - autograd passes by position
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies, each shape (n,); of entropies none unless wanted."""
        ctx.rows = ROWS if logits.device.type == "cpu" else len(logits)
        total, logprobs, entropy = [], [], []
        for at in range(0, len(logits), ctx.rows):
            tokens, scaled = (
                ids[at : at + ctx.rows],
                _scaled(logits[at : at + ctx.rows], temperature),
            )
            total.append(scaled.logsumexp(-1))
            logprobs.append(scaled.gather(1, tokens[:, None])[:, 0] - total[-1])
            if with_entropy:
                logp = scaled - total[-1][:, None]
                entropy.append(-(logp.exp() * logp).sum(-1))
        every = torch.cat(entropy) if with_entropy else logits.new_empty(0, dtype=torch.float32)
        ctx.save_for_backward(logits, ids, torch.cat(total), every)
        ctx.temperature, ctx.with_entropy = temperature, with_entropy
        return torch.cat(logprobs), every

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """Return the gradient of the logits, over the temperature.

        The gradient of log p(token) is 1[token] - p, that of the entropy H is -p (log p + H).
        """
        logits, ids, total, entropy = ctx.saved_tensors
        gradient, of_entropy = (g / ctx.temperature for g in gradients)
        d_logits = torch.empty_like(logits)
        for at in range(0, len(logits), ctx.rows):
            rows = slice(at, at + ctx.rows)
            logp = _scaled(logits[rows], ctx.temperature) - total[rows, None]
            p = logp.exp()
            if ctx.with_entropy:
                weight = logp.add_(entropy[rows, None]).mul_(of_entropy[rows, None])
                p.mul_(weight.add_(gradient[rows, None]).neg_())
            else:
                p.mul_(-gradient[rows, None])
            p.scatter_add_(1, ids[rows, None], gradient[rows, None])
            d_logits[rows] = p
        return d_logits, None, None, None


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of one token a row under softmax(logits / temperature), in nats.

    The same as `log_softmax` and `gather` in float32, in a few rows at a time: the float32 copy of
    all logits, their log-softmax and its gradient would be the largest tensors of a training step.

    Parameters
    ----------
    logits
        Shape (n, n_vocabulary), of any floating dtype.
    ids
        Shape (n,).
    temperature
        More than 0.
    """
    return _apply(logits, ids, temperature, with_entropy=False)[0]


def token_logprobs_and_entropies(
    logits: Tensor, ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `token_logprobs`, and the entropy of every row's distribution in nats, each shape (n,)."""
    return _apply(logits, ids, temperature, with_entropy=True)


def _apply(
    logits: Tensor, ids: Tensor, temperature: float, *, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    if not len(logits):
        nothing = logits.new_zeros(0, dtype=torch.float32)
        return nothing, nothing
    return _TokenLogprobs.apply(logits, ids, temperature, with_entropy)  # type: ignore[no-any-return, no-untyped-call]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    scaled = logits.float()
    return scaled if temperature == 1.0 else scaled / temperature
