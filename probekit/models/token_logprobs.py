"""Log-probabilities of given tokens, with gradient, without the vocabulary's in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 32
"""Rows worked on together: few enough to stay in a processor's cache."""


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits / temperature)[token]; keeps the logits and one number a row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:  # noqa: ANN401
        """Return the log-probabilities, shape (n,)."""
        rows = ROWS if logits.device.type == "cpu" else len(logits)
        total, found = [], []
        for at in range(0, len(logits), rows):
            own, scaled = ids[at : at + rows], logits[at : at + rows].float()
            if temperature != 1.0:
                scaled = scaled / temperature
            total.append(scaled.logsumexp(-1))
            found.append(scaled.gather(1, own[:, None])[:, 0] - total[-1])
        ctx.save_for_backward(logits, ids, torch.cat(total))
        ctx.temperature, ctx.rows = temperature, rows
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        """Return the gradient of the logits: of log p(token) it is (1[token] - p) / temperature."""
        logits, ids, total = ctx.saved_tensors
        (gradient,) = gradients
        gradient = gradient / ctx.temperature
        found = torch.empty_like(logits)
        for at in range(0, len(logits), ctx.rows):
            rows = slice(at, at + ctx.rows)
            scaled = logits[rows].float()
            if ctx.temperature != 1.0:
                scaled = scaled / ctx.temperature
            p = (scaled - total[rows, None]).exp_().mul_(-gradient[rows, None])
            p.scatter_add_(1, ids[rows, None], gradient[rows, None])
            found[rows] = p
        return found, None, None


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
    if not len(logits):
        return logits.new_zeros(0, dtype=torch.float32)
    return _TokenLogprobs.apply(logits, ids, temperature)  # type: ignore[no-any-return, no-untyped-call]
