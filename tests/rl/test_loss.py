"""Advantages in closed form, the loss by finite differences, the divergence and the entropy held."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from probekit.activations.gather import pad
from probekit.errors import ModelError
from probekit.models.load import load_model
from probekit.models.new_tokens import NewTokens
from probekit.models.sampling import SamplingConfig
from probekit.rl import RLConfig
from probekit.rl.advantage import advantages, flat_groups
from probekit.rl.learner import Learner
from probekit.rl.loss import FIRST, GAIN, MEMORY, MOST, RATE, EntropyWeight, Tokens, k3, policy_loss
from probekit.rl.policy import Policy
from probekit.rl.rollout import Writer
from tests.rl.test_run import trainer
from tests.rl.test_train import FAST, assert_same_weights, rows
from tests.steering.conftest import prompts


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


def test_the_weight_follows_the_distance_and_its_sum_between_its_bounds():
    weight = EntropyWeight(0.01, 0.9)
    for entropy in (1.0, 2.0, 1.5, 1.5, 1.5):
        weight.observe(entropy)
    assert weight.value == 0.01  # the start: 1.5 nats
    weight.observe(0.75)
    assert weight.value == pytest.approx(0.01 * math.exp((RATE + GAIN) * 0.4))
    weight.observe(1.5)
    recent = MEMORY * 0.5 + (1 - MEMORY) * 1.0
    total = RATE * (0.4 + 0.9 - recent)
    assert weight.value == pytest.approx(0.01 * math.exp(total + GAIN * (0.9 - recent)))
    for _ in range(40):
        weight.observe(6.0)
    assert weight.value == pytest.approx(0.01 / MOST)
    for _ in range(200):
        weight.observe(0.0)
    assert weight.value == pytest.approx(MOST * 0.01)


def test_an_entropy_that_sums_up_what_the_weight_does_is_held():
    # As a policy's does: its change, in a momentum of ten steps, is log(weight / 0.023) / 25.
    weight, share, speed, found = EntropyWeight(0.01, 0.95), 1.0, 0.0, []
    noise = np.random.default_rng(0).normal(0.0, 0.08, 400)
    for step in range(400):
        weight.observe(share * (1.0 + noise[step]))
        speed = 0.9 * speed + 0.1 * math.log(weight.value / 0.023) / 25
        share += speed
        found.append(share)
    assert np.mean(found[100:]) == pytest.approx(0.95, abs=0.03)
    assert 0.75 < min(found[100:]) and max(found[100:]) < 1.15


def test_without_a_target_the_weight_stays():
    weight = EntropyWeight(0.02, 0.0)
    for _ in range(FIRST + 5):
        weight.observe(0.1)
    assert weight.value == 0.02


def test_a_weight_goes_on_from_its_state():
    one, other = EntropyWeight(0.01, 0.9), EntropyWeight(0.01, 0.9)
    for entropy in np.random.default_rng(0).uniform(0.2, 1.4, 8):
        one.observe(float(entropy))
    other.load_state(one.state())
    for weight in (one, other):
        weight.observe(0.3)
    assert one.state() == other.state()


def test_the_gradient_of_a_step_is_that_of_the_entropy_over_the_vocabulary(tiny_llama):
    policy = Policy(load_model(str(tiny_llama), dtype="float32"), rank=3)
    generator = torch.Generator().manual_seed(0)
    policy.masters.set(
        [0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all]
    )
    sampling = SamplingConfig(max_new_tokens=5, samples=2, temperature=0.7)
    rollout = Writer(policy, prompts()).write([0, 1], sampling, seed=1)
    model = policy.loaded.model
    ids, mask = pad(rollout.rows, policy.loaded.device)
    tokens = NewTokens(rollout.rows, rollout.n_new, ids)
    every = (tokens.distributions(model, model, ids, mask) / 0.7).log_softmax(-1)
    entropy = -(every.exp() * every).sum(-1)
    (-0.3 * entropy.sum() / rollout.n_tokens).backward()
    wanted = [p.grad.clone() for p in policy.masters.all]

    config = RLConfig(temperature=0.7, kl_coeff=0.0, max_norm=1e9, entropy_bonus=0.3)
    learner, kept = Learner(policy, config), []
    learner.optimizer.register_step_pre_hook(
        lambda *_: kept.extend(p.grad.clone() for p in policy.masters.all)
    )
    stats = learner.step(0, rollout, np.zeros(len(rollout.rows)), None)
    assert stats.entropy == pytest.approx(float(entropy.detach().mean()), rel=1e-5)
    assert stats.entropy_bonus == 0.3
    for a, b in zip(kept, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()) + 1e-7, rtol=1e-3)


def test_a_run_below_its_target_raises_the_bonus_and_resumes_exactly(tiny_llama, fitted, tmp_path):
    # A target above what a policy can have, so that the weight has to rise.
    config = dataclasses.replace(
        FAST, steps=8, eval_every=4, entropy_bonus=0.01, entropy_target=2.0
    )
    whole = trainer(tiny_llama, fitted, tmp_path / "a", config)
    whole.run()
    steps = rows(tmp_path / "a" / "metrics.jsonl")
    weight = EntropyWeight(0.01, 2.0)
    for row in steps:
        assert row["entropy_bonus"] == weight.value
        weight.observe(row["entropy"])
    assert steps[-1]["entropy_bonus"] > 0.05

    cut = trainer(tiny_llama, fitted, tmp_path / "b", dataclasses.replace(config, steps=4))
    cut.run()
    again = trainer(tiny_llama, fitted, tmp_path / "b", config)
    again.run(resume=True)
    assert_same_weights(whole, again)
    assert steps == rows(tmp_path / "b" / "metrics.jsonl")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(entropy_target=0.9), "needs an entropy bonus to move. Pass --entropy-bonus"),
        (
            dict(entropy_target=-1.0, entropy_bonus=0.1),
            "entropy_target: got -1.0, expected 0 or more",
        ),
        (dict(entropy_target=0.9, entropy_bonus=0.1, engine="trl"), "Use the embedded one"),
    ],
)
def test_what_does_not_go_together_is_one_line(options, words):
    with pytest.raises(ModelError, match=words):
        RLConfig(**options)
