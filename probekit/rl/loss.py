"""The policy-gradient loss on the tokens of a batch, and the divergence that holds it back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """The new tokens of a batch of completions, one after another."""

    logprob: Tensor
    """Under the policy, with gradient, shape (n_tokens,)."""
    old: Tensor
    """Under the policy that wrote them, shape (n_tokens,)."""
    reference: Tensor | None
    """Under the frozen model, shape (n_tokens,); None when no divergence is wanted."""
    entropy: Tensor | None
    """Of the policy at each token, with gradient, shape (n_tokens,)."""
    advantage: Tensor
    """Of the completion each token belongs to, shape (n_tokens,)."""


class Loss(NamedTuple):
    """The loss and what it is made of, each a mean over tokens."""

    total: Tensor
    policy: Tensor
    kl: Tensor
    """Nats per token against the frozen model."""
    clipped: Tensor
    """Share of tokens whose ratio was clipped."""


def policy_loss(
    tokens: Tokens, *, n_tokens: int, clip: float | None, kl_coeff: float, entropy_bonus: float
) -> Loss:
    """Return the loss of some tokens of a step.

    With rho = exp(logprob - old) and A the advantage::

        policy   -A rho                                     REINFORCE where rho = 1 (on-policy)
                 -min(A rho, A clip(rho, 1 - c, 1 + c))     PPO-clip (1707.06347)
        kl       exp(ref - logprob) - (ref - logprob) - 1   k3: unbiased for KL(policy | reference)
                                                            under on-policy tokens, never negative
        total    sum over tokens (policy + kl_coeff kl - entropy_bonus entropy) / n_tokens

    Dividing by the tokens of the whole step, not of a completion, keeps a long completion's tokens
    as heavy as a short one's (2503.14476, 2503.20783).

    Parameters
    ----------
    tokens
        A part of the step, or all of it.
    n_tokens
        Tokens of the whole step, so that parts add up.
    clip
        PPO's c; None does not clip.
    kl_coeff
        Weight of the divergence.
    entropy_bonus
        Weight of the entropy.
    """
    ratio = (tokens.logprob - tokens.old).exp()
    gain = tokens.advantage * ratio
    clipped = torch.zeros_like(gain)
    if clip is not None:
        bounded = tokens.advantage * ratio.clamp(1 - clip, 1 + clip)
        clipped = (bounded < gain).float()
        gain = torch.minimum(gain, bounded)
    kl = torch.zeros_like(gain)
    if tokens.reference is not None:
        kl = k3(tokens.logprob, tokens.reference)
    each = -gain + kl_coeff * kl
    if tokens.entropy is not None:
        each = each - entropy_bonus * tokens.entropy
    return Loss(
        total=each.sum() / n_tokens,
        policy=-gain.detach().sum() / n_tokens,
        kl=kl.detach().sum() / n_tokens,
        clipped=clipped.sum() / n_tokens,
    )


def k3(logprob: Tensor, reference: Tensor) -> Tensor:
    """Return Schulman's k3 estimate of KL(policy | reference) at each token, in nats, never negative.

    Its mean over tokens drawn from the policy is the divergence. Taken as a loss, as GRPO does, its
    expected gradient is that of the reversed divergence KL(reference | policy) instead, because
    the sampling is not differentiated; to second order around the reference the two agree.
    """
    gap = reference - logprob
    return gap.exp() - gap - 1
