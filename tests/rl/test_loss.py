"""Advantages in closed form, the loss by finite differences, the divergence against the exact one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probekit.errors import ModelError
from probekit.rl.advantage import advantages, flat_groups
from probekit.rl.config import RLConfig
from probekit.rl.loss import Tokens, k3, policy_loss


def test_advantages_in_closed_form():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    np.testing.assert_allclose(advantages(rewards, "dr-grpo")[0], [-2, -1, 3])
    std = np.std([1, 2, 6], ddof=1)
    np.testing.assert_allclose(
        advantages(rewards, "grpo")[0], np.array([-2, -1, 3]) / (std + 1e-4), rtol=1e-6
    )
    others = [1 - 4.0, 2 - 3.5, 6 - 1.5]  # each less the mean of the other two
    np.testing.assert_allclose(advantages(rewards, "rloo")[0], others, rtol=1e-6)
    for estimator in ("grpo", "dr-grpo", "rloo"):
        assert torch.equal(advantages(rewards, estimator)[1], torch.zeros(3))
    assert flat_groups(rewards, np.ones((2, 3), dtype=bool)) == 0.5
    # A guide's reward tells the policy's own completions nothing apart.
    own = np.array([[True, True, True], [True, True, False]])
    assert flat_groups(torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 9.0]]), own) == 0.5


def tokens(logits, ids, old, reference, advantage, *, entropy=False):
    every = logits.log_softmax(-1)
    logprob = every.gather(1, ids[:, None])[:, 0]
    own = -(every.exp() * every).sum(-1) if entropy else None
    return Tokens(logprob, old, reference, own, advantage)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
@pytest.mark.parametrize("bonus", [0.0, 0.1])
def test_the_gradient_is_that_of_finite_differences(clip, kl_coeff, bonus):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((6, 5), generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(5, (6,), generator=generator)
    old = logits.detach().log_softmax(-1).gather(1, ids[:, None])[:, 0] + 0.15
    reference = torch.randn((6, 5), generator=generator, dtype=torch.float64).log_softmax(-1)
    reference = reference.gather(1, ids[:, None])[:, 0]
    advantage = torch.randn(6, generator=generator, dtype=torch.float64)

    def loss(values):
        parts = tokens(values, ids, old, reference, advantage, entropy=True)
        return policy_loss(
            parts, n_tokens=6, clip=clip, kl_coeff=kl_coeff, entropy_bonus=bonus
        ).total

    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-6, atol=1e-6)


def test_parts_of_a_step_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(10, generator=generator) for _ in range(4)]

    def total(at):
        parts = Tokens(values[0][at], values[1][at], values[2][at], None, values[3][at])
        return policy_loss(parts, n_tokens=10, clip=0.2, kl_coeff=0.1, entropy_bonus=0.0).total

    whole = total(slice(None))
    torch.testing.assert_close(total(slice(0, 3)) + total(slice(3, 10)), whole)


def test_on_policy_the_gradient_is_reinforce():
    logits = torch.randn((4, 3), requires_grad=True)
    ids, advantage = torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, -2.0, 0.5, 3.0])
    logprob = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    parts = Tokens(logprob, logprob.detach(), None, None, advantage)
    policy_loss(parts, n_tokens=4, clip=0.2, kl_coeff=0.0, entropy_bonus=0.0).total.backward()
    found, logits.grad = logits.grad.clone(), None
    (-(advantage * logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]).sum() / 4).backward()
    torch.testing.assert_close(found, logits.grad)


def test_k3_is_an_unbiased_estimate_that_is_never_negative():
    generator = torch.Generator().manual_seed(3)
    policy = torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(-1)
    reference = torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(-1)
    each = k3(policy, reference)
    assert (each >= 0).all()
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * each).sum(), exact)  # over the whole vocabulary
    assert float(k3(policy, policy).abs().max()) == 0.0


def test_the_gradient_of_k3_is_that_of_the_reversed_divergence():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    (policy.exp().detach() * k3(policy, reference)).sum().backward()
    found, logits.grad = logits.grad.clone(), None
    (reference.exp() * (reference - logits.log_softmax(-1))).sum().backward()
    torch.testing.assert_close(found, logits.grad)


def test_the_learning_rate_rises_and_falls():
    made = {
        decay: RLConfig(steps=25, warmup=5, decay=decay)
        for decay in ("constant", "linear", "cosine")
    }
    for config in made.values():
        assert [config.rate(step) for step in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    at = [made[decay].rate(15) for decay in ("constant", "linear", "cosine")]
    assert at == pytest.approx([1.0, 0.5, 0.5])
    assert made["linear"].rate(20) == pytest.approx(0.25)
    assert made["cosine"].rate(20) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 4))
    assert made["linear"].rate(25) == made["cosine"].rate(25) == 0.0
    assert RLConfig(steps=3, warmup=0, decay="linear").rate(0) == 1.0
    with pytest.raises(ModelError, match="decay: got 'steps', expected constant, linear or cosine"):
        RLConfig(decay="steps")
