"""Guides: the head's own pairs among a step's completions, learnt from and counted nowhere."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from probekit.activations.gather import pad
from probekit.data.rows import Example, Message
from probekit.errors import DataError, ModelError
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.new_tokens import NewTokens
from probekit.models.sampling import SamplingConfig
from probekit.rl import Policy, RLConfig
from probekit.rl.advantage import advantages
from probekit.rl.guides import MOST, Guides, mixed_advantages
from probekit.rl.learner import Learner
from probekit.rl.rollout import Writer
from tests.cli.test_cli import rows, run
from tests.rl.test_heads import data

ASKED = [Example(f"p{i}", f"g{i}", (Message("user", f"ask {i}"),)) for i in range(60)]


@pytest.fixture
def policy(tiny_llama):
    return Policy(load_model(str(tiny_llama), dtype="float32"), rank=3)


@pytest.fixture
def pairs():
    """A head's pairs, two of each prompt, whose completions say which side they are."""
    found = data("pair", "bradley-terry")
    texts = np.array([f"{s} of {i}" for i, s in enumerate(found.task.examples.side)], dtype=object)
    examples = dataclasses.replace(found.task.examples, completion=texts)
    return dataclasses.replace(found, task=dataclasses.replace(found.task, examples=examples))


def guides(policy, pairs, prompts=ASKED, **options):
    settings = {"n": 2, "steps": 3, "max_new_tokens": 30, "seed": 0, **options}
    return Guides(pairs, prompts, policy.loaded, **settings)


def written(policy, index, samples=4):
    config = SamplingConfig(max_new_tokens=5, samples=samples)
    return Writer(policy, ASKED).write(index, config, seed=1)


def test_each_side_of_a_pair_of_the_same_prompt_ends_a_group_of_the_fit_split(policy, pairs):
    task = pairs.task
    fit = sorted(int(g[1:]) for g in set(task.examples.group[task.rows[task.splits.fit]]))
    report = int(task.examples.group[task.rows[task.splits.report][0]][1:])
    index = [fit[0], report, fit[1]]
    plain = written(policy, index)
    found = guides(policy, pairs).join(plain, index, 0)
    assert found.guides == {2, 3, 10, 11}
    np.testing.assert_array_equal(np.flatnonzero(~found.on_policy), [2, 3, 10, 11])
    for place, i in ((2, fit[0]), (10, fit[1])):
        row = int(np.flatnonzero(task.examples.group == f"g{i}")[0])
        assert found.texts[place : place + 2] == [f"rejected of {row + 1}", f"chosen of {row}"]
    kept = [i for i in range(12) if i not in found.guides]
    assert [found.texts[i] for i in kept] == [plain.texts[i] for i in kept]
    assert found.n_on_policy == sum(plain.n_new[i] for i in kept)
    assert guides(policy, pairs).join(plain, index, 3) is plain


def test_a_guide_is_the_row_of_its_text_and_is_cut_as_the_policy_would_be(policy, pairs):
    index = [int(pairs.task.examples.group[pairs.task.rows[pairs.task.splits.fit[0]]][1:])]
    plain = written(policy, index)
    tokenizer = policy.loaded.tokenizer
    whole = guides(policy, pairs).join(plain, index, 0)
    wanted = render(dataclasses.replace(ASKED[index[0]], completion=whole.texts[3]), tokenizer)
    np.testing.assert_array_equal(whole.rows[3].ids, wanted.ids)
    assert whole.n_new[3] == len(wanted.ids) - wanted.start and whole.finished[3]
    cut = guides(policy, pairs, max_new_tokens=4).join(plain, index, 0)
    row = cut.rows[3]
    np.testing.assert_array_equal(row.ids[:-1], wanted.ids[: wanted.start + 4])
    assert (cut.n_new[3], row.stop, row.turn_end) == (4, row.start + 4, row.start + 4)
    assert row.ids[-1] == wanted.ids[-1] and not cut.finished[3]


def test_guides_have_the_gradient_of_weighted_imitation_and_no_share_in_the_figures(policy, pairs):
    index = [
        int(g[1:]) for g in pairs.task.examples.group[pairs.task.rows[pairs.task.splits.fit[:2]]]
    ]
    rollout = guides(policy, pairs).join(written(policy, index), index, 0)
    model, n_new = policy.loaded.model, rollout.n_new
    ids, mask = pad(rollout.rows, policy.loaded.device)
    tokens = NewTokens(rollout.rows, n_new, ids)
    logprob = tokens.of(tokens.distributions(model, model, ids, mask))
    advantage = np.random.default_rng(0).standard_normal(len(n_new))
    weight = torch.from_numpy(np.repeat(advantage, n_new)).float()
    (-(weight * logprob).sum() / rollout.n_tokens).backward()
    wanted = [p.grad.clone() for p in policy.masters.all]
    reference = [
        piece.detach().numpy() - 0.5 for piece in torch.split(logprob, n_new)
    ]  # wherever it counts, k3 is e^-0.5 + 0.5 - 1

    learner = Learner(policy, RLConfig(max_new_tokens=5, kl_coeff=0.0, max_norm=1e9))
    kept = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: kept.extend(p.grad.clone() for p in policy.masters.all)
    )
    stats = learner.step(0, rollout, advantage, reference)
    for a, b in zip(kept, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()) + 1e-7, rtol=1e-3)
    own = np.repeat(rollout.on_policy, n_new)
    assert stats.kl == pytest.approx(np.exp(-0.5) - 0.5, abs=1e-4)
    assert stats.entropy == pytest.approx(-float(logprob.detach().numpy()[own].mean()), abs=1e-4)
    assert stats.sampler_gap < 1e-3


@pytest.mark.parametrize("estimator", ["grpo", "dr-grpo", "rloo"])
def test_own_completions_are_compared_with_their_own_and_guides_with_them(estimator):
    rewards = torch.tensor([[1.0, 2.0, 3.0, 2.5, 9.0, -4.0], [0.0, 1.0, 0.0, 1.0, 0.0, 2.0]])
    own = np.array([[True] * 3 + [False] * 3, [True] * 6])
    found = mixed_advantages(rewards, own, estimator)
    torch.testing.assert_close(found[0, :3], advantages(rewards[:1, :3], estimator)[0])
    torch.testing.assert_close(found[1], advantages(rewards[1:], estimator)[0])
    # Mean 2 and standard deviation 1: half a deviation above, far above, below.
    torch.testing.assert_close(found[0, 3:], torch.tensor([0.5, MOST, 0.0]), atol=1e-3, rtol=1e-3)


def test_a_run_with_guides_counts_its_own_completions_only(tiny_llama, tmp_path):
    path = rows(tmp_path / "pairs.jsonl", "pair")
    cache = ["cache", "--model", tiny_llama, "--data", path, "--positions", "mean"]
    assert run(*cache, "--out", tmp_path / "acts.h5") == 0
    assert run("fit", tmp_path / "acts.h5", "--out", tmp_path / "fit") == 0
    split = ["data", "split", "--probe", tmp_path / "fit", "--prompts", path]
    asked = [
        {k: row[k] for k in ("prompt", "group", "tags")}
        for row in map(json.loads, path.read_text().splitlines())
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    split[-1] = tmp_path / "asked.jsonl"
    assert run(*split, "--out", tmp_path / "prompts") == 0
    command = [
        "rl", "--probe", tmp_path / "fit", "--prompts", tmp_path / "prompts/train.jsonl",
        "--held-out", tmp_path / "prompts/held_out.jsonl", "--steps", "3", "--group", "4",
        "--prompts-per-step", "2", "--max-new-tokens", "6", "--guides", "2", "--guide-steps", "2",
        "--refit-every", "1",
    ]  # fmt: skip
    assert run(*command, "--out", tmp_path / "run") == 0
    steps = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    added = np.diff([0] + [row["refit"]["n_outputs"] for row in steps[1:]])
    groups = {row["group"] for row in asked}
    assert len(groups) == 60 and added.max() <= 8 and added.min() >= 4
    assert (tmp_path / "run/checkpoint").is_dir()
    assert run(*command, "--out", tmp_path / "other", "--engine", "trl") == 1
    assert run(*command, "--out", tmp_path / "other", "--guides", "3") == 1


@pytest.mark.parametrize("n", [-2, 1, 3, 6])
def test_a_group_keeps_two_of_its_own_and_has_both_sides(n):
    assert [RLConfig(group=7, guides=k).guides for k in (0, 2, 4)] == [0, 2, 4]
    with pytest.raises(ModelError, match=f"guides: got {n}, expected 0 or an even number"):
        RLConfig(group=7, guides=n)


def test_what_cannot_guide_is_refused(policy, pairs):
    with pytest.raises(DataError, match="fitted on label rows. Expected pairs"):
        guides(policy, data("label", "logistic"))
    elsewhere = [dataclasses.replace(ASKED[0], group="elsewhere")]
    with pytest.raises(DataError, match="no pair of a prompt to train on"):
        guides(policy, pairs, elsewhere)
