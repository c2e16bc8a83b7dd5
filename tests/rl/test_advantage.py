"""Credit of tokens: what of a head's reading is still to come when a token is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probekit.activations.gather import pad
from probekit.errors import ModelError
from probekit.models.load import load_model
from probekit.models.new_tokens import NewTokens
from probekit.models.sampling import SamplingConfig
from probekit.rl import Policy, RLConfig
from probekit.rl.advantage import shares
from probekit.rl.learner import Learner
from probekit.rl.rollout import Writer
from tests.steering.conftest import prompts


def test_shares_are_what_a_mean_still_reads():
    np.testing.assert_allclose(shares("to-go", ["first:4"], 6), [1, 0.75, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(shares("to-go", ["first:8"], 2), [1, 0.5])
    np.testing.assert_allclose(shares("to-go", ["mean"], 5), [1, 0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose(shares("to-go", ["last"], 3), 1)
    np.testing.assert_allclose(shares("to-go", ["first:2", "turn_end"], 3), [1, 0.75, 0.5])
    np.testing.assert_allclose(shares("whole", ["first:4"], 6), 1)


def test_shares_are_the_rewards_to_go_of_a_linear_head_in_expectation():
    # Rewards of tokens that are drawn alike and apart: the mean of those to come, over their number.
    rng, n, read = np.random.default_rng(0), 6, 4
    parts = rng.standard_normal((200_000, n)) + 1.0
    score = parts[:, :read].mean(axis=1)
    to_go = np.stack([parts[:, t:read].sum(axis=1) / read for t in range(n)], axis=1)
    expected = to_go.mean(axis=0) / score.mean()
    np.testing.assert_allclose(shares("to-go", [f"first:{read}"], n), expected, atol=0.01)


@pytest.mark.parametrize("position", ["first:3", "mean", "last"])
def test_the_gradient_is_that_of_weighted_log_probabilities(tiny_llama, position):
    policy = Policy(load_model(str(tiny_llama), dtype="float32"), rank=3)
    generator = torch.Generator().manual_seed(0)
    policy.masters.set(
        [0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all]
    )
    rollout = Writer(policy, prompts()).write(
        [0, 1], SamplingConfig(max_new_tokens=5, samples=2), seed=1
    )
    n_new, model = rollout.n_new, policy.loaded.model
    advantage = np.random.default_rng(0).standard_normal(len(n_new))
    ids, mask = pad(rollout.rows, policy.loaded.device)
    tokens = NewTokens(rollout.rows, n_new, ids)
    logprob = tokens.of(tokens.distributions(model, model, ids, mask))
    read = {"first:3": 3, "mean": max(n_new), "last": None}[position]
    weight = []
    for a, n in zip(advantage, n_new, strict=True):
        of = n if position == "mean" else min(n, read or n)
        weight += [a if read is None else a * max(0, of - t) / of for t in range(n)]
    (-(torch.tensor(weight).float() * logprob).sum() / rollout.n_tokens).backward()
    wanted = [p.grad.clone() for p in policy.masters.all]

    config = RLConfig(max_new_tokens=5, kl_coeff=0.0, max_norm=1e9, credit="to-go")
    learner, kept = Learner(policy, config, [position]), []
    learner.optimizer.register_step_pre_hook(
        lambda *_: kept.extend(p.grad.clone() for p in policy.masters.all)
    )
    learner.step(0, rollout, advantage, None)
    for a, b in zip(kept, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()) + 1e-7, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(credit="some"), "expected whole or to-go"),
        (dict(credit="to-go", rewards=("length=1",)), "of whole completions"),
        (dict(credit="to-go", kl_in="reward"), "of whole completions"),
        (dict(credit="to-go", engine="trl"), "Use the embedded one"),
    ],
)
def test_what_does_not_go_together_is_one_line(options, words):
    with pytest.raises(ModelError, match=words):
        RLConfig(**options)
