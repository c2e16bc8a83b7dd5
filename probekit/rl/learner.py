"""One step of learning: log-probabilities with gradient, the loss, the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.activations.gather import pad
from probekit.errors import ModelError
from probekit.models.grouped_attention import grouped_attention
from probekit.models.new_tokens import NewTokens, logit_tokens
from probekit.models.prefix import SharedPrefix, plan_shared
from probekit.rl.advantage import shares
from probekit.rl.config import RLConfig
from probekit.rl.loss import EntropyWeight, Tokens, policy_loss
from probekit.rl.policy import AnyPolicy
from probekit.rl.rollout import Rollout


class StepStats(NamedTuple):
    """What one step of learning did, means over the policy's new tokens in its first pass.

    `loss` and `clipped` are over all that was learnt from, guides too.
    """

    loss: float
    kl: float
    """NaN where no divergence is measured."""
    entropy: float
    """Entropy of the policy, nats per token; without an entropy bonus the mean of -logprob drawn."""
    clipped: float
    """Share of tokens whose ratio was clipped, over all passes."""
    grad_norm: float
    """Before clipping, the largest of the passes."""
    sampler_gap: float
    """Mean absolute difference of log-probabilities between writing and learning, nats: rounding in
    batches of other shapes."""
    entropy_bonus: float
    """Weight of the entropy in this step."""


def adamw(policy: AnyPolicy, learning_rate: float) -> torch.optim.AdamW:
    """Return AdamW on a policy's float32 weights; whoever calls it trains the model that computes."""
    masters = policy.masters
    optimizer = torch.optim.AdamW(
        masters.all, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    optimizer.register_step_pre_hook(lambda *_: masters.collect())
    optimizer.register_step_post_hook(lambda *_: masters.publish())
    return optimizer


class Learner:
    """AdamW on the policy's trainable weights.

    Parameters
    ----------
    policy
        Who learns.
    config
        Settings.
    positions
        Position rules of the heads, for the credit of tokens.
    """

    def __init__(
        self, policy: AnyPolicy, config: RLConfig, positions: Sequence[str] = ("last",)
    ) -> None:
        self.policy, self.config, self._positions = policy, config, tuple(positions)
        self.entropy_weight = EntropyWeight(config.entropy_bonus, config.entropy_target)
        self.optimizer = adamw(policy, config.learning_rate)
        self._temperature = config.temperature or 1.0
        self._budget = logit_tokens(policy.loaded, config.batch_tokens)

    def step(
        self,
        number: int,
        rollout: Rollout,
        advantage: NDArray[np.float64],
        reference: list[NDArray[np.float32]] | None,
    ) -> StepStats:
        """Learn from a step's completions, in parts whose gradients add up to the whole step's.

        Parameters
        ----------
        number
            0-based, for the learning rate.
        rollout
            What was written.
        advantage
            Advantage of each completion, shape (n,).
        reference
            The frozen model's log-probabilities of the new tokens; None without divergence.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.config.rate(number)
        # Written in batches of other shapes, so learning starts from its own log-probabilities.
        old: dict[int, torch.Tensor] = {}
        stats: list[StepStats] = []
        for _ in range(self.config.epochs):
            self.optimizer.zero_grad(set_to_none=True)
            sums = np.zeros(5)
            with grouped_attention(self.policy.loaded):
                for batch in plan_shared(rollout.rows, self._budget, self.policy.loaded.model):
                    sums += self._part([int(i) for i in batch], rollout, advantage, reference, old)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.masters.all, self.config.max_norm)
            if not bool(torch.isfinite(norm)):
                raise ModelError(
                    f"step {number + 1}: the gradient is not finite, so nothing was changed. The last "
                    "checkpoint is kept; use a smaller --learning-rate, or --dtype float32."
                )
            self.optimizer.step()
            m, n = rollout.n_on_policy, rollout.n_tokens
            loss, kl, entropy, clipped, gap = (sums / [n, m, m, n, m]).tolist()
            kl = kl if reference is not None else float("nan")
            weight = self.entropy_weight.value
            stats.append(StepStats(loss, kl, entropy, clipped, float(norm), gap, weight))
        self.entropy_weight.observe(stats[0].entropy)
        clipped = float(np.mean([item.clipped for item in stats]))
        return stats[0]._replace(clipped=clipped, grad_norm=max(item.grad_norm for item in stats))

    def _weights(self, advantage: NDArray[np.float64], n_new: Sequence[int]) -> NDArray[np.float64]:
        """Return the advantages of the new tokens of some completions, one after another."""
        credit = self.config.credit
        parts = [
            a * shares(credit, self._positions, n) for a, n in zip(advantage, n_new, strict=True)
        ]
        return np.concatenate(parts)

    def _part(
        self,
        index: list[int],
        rollout: Rollout,
        advantage: NDArray[np.float64],
        reference: list[NDArray[np.float32]] | None,
        old: dict[int, torch.Tensor],
    ) -> NDArray[np.float64]:
        """Add the gradient of some completions; return sums over their tokens."""
        device, model = self.policy.loaded.device, self.policy.loaded.model
        shared = SharedPrefix([rollout.rows[i] for i in index], model)
        n_new = [rollout.n_new[i] for i in index]
        ids, mask = pad(shared.rows, device)
        tokens = NewTokens(shared.rows, n_new, ids)
        bonus = self.entropy_weight.value > 0
        inputs = {"temperature": self._temperature, **shared.inputs(mask)}
        if bonus:
            logprob, entropy = tokens.logprobs_and_entropies(model, model, ids, mask, **inputs)
        else:
            logprob = tokens.logprobs(model, model, ids, mask, **inputs)
            entropy = -logprob.detach()  # unbiased; the exact one reads the vocabulary again
        pieces = torch.split(logprob, n_new)
        for i, piece in zip(index, pieces, strict=True):
            old.setdefault(i, piece.detach())
        weight = torch.from_numpy(self._weights(advantage[index], n_new)).float().to(device)
        on_policy = torch.from_numpy(np.repeat(rollout.on_policy[index], n_new)).to(device)
        frozen = None
        if reference is not None:
            frozen = torch.from_numpy(np.concatenate([reference[i] for i in index])).to(device)
            # k3 is the divergence on tokens of the policy only.
            frozen = torch.where(on_policy, frozen, logprob.detach())
        loss = policy_loss(
            Tokens(
                logprob=logprob,
                old=torch.cat([old[i] for i in index]),
                reference=frozen,
                entropy=entropy if bonus else None,
                advantage=weight,
            ),
            n_tokens=rollout.n_tokens,
            clip=self.config.clip,
            kl_coeff=self.config.kl_coeff if self.config.kl_in == "loss" else 0.0,
            entropy_bonus=self.entropy_weight.value,
        )
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.policy.masters.collect()
        drawn = torch.from_numpy(np.concatenate([rollout.logprobs[i] for i in index])).to(device)
        gap = ((logprob.detach() - drawn).abs() * on_policy).sum()
        n = rollout.n_tokens
        return np.array(
            [
                float(loss.total.detach()) * n,
                float(loss.kl) * n,
                float((entropy.detach() * on_policy).sum()),
                float(loss.clipped) * n,
                float(gap),
            ]
        )
