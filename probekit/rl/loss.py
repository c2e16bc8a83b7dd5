"""The policy-gradient loss on the tokens of a batch, its divergence, and the weight of its entropy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """The new tokens of a batch of completions, one after another."""

    logprob: Tensor
    """Log-probability under the policy, with gradient, shape (n_tokens,)."""
    old: Tensor
    """Log-probability under the policy that wrote them, shape (n_tokens,)."""
    reference: Tensor | None
    """Log-probability under the frozen model, shape (n_tokens,); None when no divergence is wanted."""
    entropy: Tensor | None
    """Entropy of the policy at each token, with gradient, shape (n_tokens,); None without a bonus."""
    advantage: Tensor
    """Advantage of the completion that each token belongs to, shape (n_tokens,)."""


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

    Parameters
    ----------
    logprob, reference
        Log-probabilities of the tokens under the policy and the reference, shape (n_tokens,) each.

    Returns
    -------
    Tensor
        Shape (n_tokens,).
    """
    gap = reference - logprob
    return gap.exp() - gap - 1


FIRST = 5
"""Steps whose mean entropy is the start: a single step's differs by its prompts."""
MEMORY = 0.5
"""Share of the mean of earlier steps in the entropy that is compared with the target."""
GAIN = 5.0
"""The weight's logarithm rises by this for each unit that the entropy is below its target,"""
RATE = 0.05
"""and by this in each step that it stays there."""
MOST = 10.0
"""The weight is at most this many times the given one, and at least that part of it."""


class EntropyWeight:
    """Weight of the entropy in the loss, from step to step.

    Soft actor-critic adapts its temperature by dual ascent on its logarithm (Haarnoja et al. 2018,
    1812.05905): a step in proportion to how far the entropy is below its target. A policy's entropy is
    itself near to a sum of what the weight did in the last steps, so that rule alone swings, with a period of
    70 steps in a run of the knowledge-awareness study, from 0.7 to 1.5 of the start. Here the weight follows
    the distance itself and, slowly, its sum: a proportional-integral controller.

    Parameters
    ----------
    weight
        The one to begin with.
    target
        Share of the start's entropy; 0 leaves the weight as it is.
    """

    def __init__(self, weight: float, target: float) -> None:
        self.value, self._given, self._target = weight, weight, target
        self._first: list[float] = []
        self._recent, self._sum = math.nan, 0.0

    def observe(self, entropy: float) -> None:
        """Take in the entropy of a step, nats per token."""
        if not self._target:
            return
        if len(self._first) < FIRST:
            self._first.append(entropy)
            return
        share = entropy / (sum(self._first) / FIRST)
        recent = share if math.isnan(self._recent) else self._recent
        self._recent = MEMORY * recent + (1 - MEMORY) * share
        gap, most = self._target - self._recent, math.log(MOST)
        self._sum = min(max(self._sum + RATE * gap, -most), most)
        self.value = self._given * math.exp(min(max(self._sum + GAIN * gap, -most), most))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        recent = None if math.isnan(self._recent) else self._recent
        return {"weight": self.value, "first": self._first, "recent": recent, "sum": self._sum}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.value, self._first = float(state["weight"]), list(state["first"])
        self._recent = math.nan if state["recent"] is None else float(state["recent"])
        self._sum = float(state["sum"])
