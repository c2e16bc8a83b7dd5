"""The loop on a tiny model: the reference stays, the optimum is found, a run resumes exactly."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from probekit.data.rows import Example, Message
from probekit.errors import DataError, ModelError
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, sample
from probekit.probes import Probe
from probekit.probes.scoring import Scorer
from probekit.rl import Policy, RLConfig, Trainer
from probekit.rl.frozen import Frozen, FrozenReader
from probekit.rl.prompts import PromptSampler, drawn
from tests.steering.conftest import prompts

FAST = RLConfig(
    steps=4, prompts=2, group=4, max_new_tokens=6, eval_every=2, eval_prompts=4, rank=4,
    learning_rate=5e-3, warmup=1,
)  # fmt: skip


@pytest.fixture
def fresh(tiny_llama):
    """A model of one's own: training changes it."""
    return load_model(str(tiny_llama), dtype="float32")


def trainer(fresh, fitted, folder, config=FAST, **options):
    folder.mkdir(exist_ok=True)
    probe = Probe.load(fitted)
    return Trainer(fresh, [probe], prompts(), prompts(), config, folder, **options)


def logits(model):
    with torch.inference_mode():
        found = [model(input_ids=torch.arange(3, 3 + n)[None]).logits[0] for n in (17, 1, 2)]
    return torch.cat(found)


def test_the_reference_is_bit_equal_before_during_and_after_learning(fresh, fitted, tmp_path):
    before = logits(fresh.model)
    weights = [p.detach().clone() for p in fresh.model.parameters()]
    run = trainer(fresh, fitted, tmp_path / "run")
    run.run()
    assert not torch.equal(logits(fresh.model), before)
    with run.policy.reference():
        assert torch.equal(logits(fresh.model), before)
    frozen = [p for p in fresh.model.parameters() if not p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(weights, frozen, strict=True))


def test_merged_computes_what_the_adapter_does_and_leaves_no_rounding(fresh):
    policy = Policy(fresh, rank=4, seed=1)
    with torch.no_grad():
        for parameter in policy.masters.all:
            parameter.normal_(0.0, 0.2)
    plain = logits(fresh.model)
    for _ in range(3):
        with policy.merged():
            torch.testing.assert_close(logits(fresh.model), plain, atol=1e-3, rtol=1e-3)
    assert torch.equal(logits(fresh.model), plain)
    with pytest.raises(RuntimeError, match="inside"), policy.merged():
        raise RuntimeError("inside")
    assert torch.equal(logits(fresh.model), plain)


def test_the_frozen_pass_gives_scores_and_log_probabilities_of_single_passes(
    fresh,
    fitted,
    rendered,
):
    probes = Probe.load_layers(fitted)
    done = sample(fresh, rendered, SamplingConfig(max_new_tokens=9, samples=2))
    rows = [c.rendered(rendered[c.prompt], 2) for c in done]
    n_new = [len(c.ids) for c in done]
    reader = FrozenReader(fresh, probes, batch_tokens=60)
    short, whole = reader.read(rows, n_new), reader.read(rows, n_new, logprobs=True)
    np.testing.assert_allclose(short.scores, whole.scores, atol=1e-4)
    for i, (row, completion) in enumerate(zip(rows, done, strict=True)):
        if row.start < row.stop:
            wanted = Scorer(probes[0], fresh).score([row])[0]
            assert whole.scores[i, 0] == pytest.approx(wanted, abs=1e-4)
        np.testing.assert_allclose(whole.logprobs[i], completion.logprobs, atol=1e-4)


class ShareReader:
    """A reward with a known optimum: the share of one token among the new ones."""

    def __init__(self, token):
        self.token = token

    def read(self, rows, n_new, *, logprobs=False):
        share = [
            np.mean(r.ids[r.start : r.start + n] == self.token)
            for r, n in zip(rows, n_new, strict=True)
        ]
        zeros = [np.zeros(n, dtype=np.float32) for n in n_new]
        return Frozen(np.array(share)[:, None], zeros if logprobs else None, {})


def bandit(fresh, fitted, folder, target, chosen):
    config = RLConfig(
        steps=60, prompts=4, group=16, max_new_tokens=8, eval_every=60, eval_prompts=4, rank=8,
        learning_rate=2e-2, warmup=1, target="max", kl_coeff=0.0, estimator="dr-grpo",
    )  # fmt: skip
    run = trainer(fresh, fitted, folder, config)
    run.reader = ShareReader(fresh.tokenizer.convert_tokens_to_ids("z"))
    run.target._rule = target
    run.target.chosen = {"": chosen}
    scores = []
    for number in range(config.steps):
        scores.append(run.step(number)["score"])
    final = run.engine.writer.write(
        [0, 1, 2, 3], SamplingConfig(max_new_tokens=8, samples=64), seed=99
    )
    return scores, run.reader.read(final.rows, final.n_new).scores[:, 0]


def best_share(loaded):
    """Return the largest probability that any hidden state gives the token.

    The adapter does not reach the output matrix, so a normalised state of 16 numbers is all that
    can be chosen: on this model no policy writes the token more often than this.
    """
    token = loaded.tokenizer.convert_tokens_to_ids("z")
    weight = loaded.model.get_output_embeddings().weight.detach()
    gain = loaded.model.base_model.norm.weight.detach()
    state = weight[token].clone().requires_grad_()
    optimizer = torch.optim.Adam([state], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        normed = state / state.pow(2).mean().sqrt() * gain
        loss = -(weight @ normed).log_softmax(0)[token]
        loss.backward()
        optimizer.step()
    return float((-loss).detach().exp())


def test_a_bandit_is_driven_to_its_optimum_by_max(fresh, fitted, tmp_path):
    scores, final = bandit(fresh, fitted, tmp_path / "run", None, np.empty(0))
    assert np.mean(scores[:3]) < 0.2
    assert final.mean() == pytest.approx(best_share(fresh), abs=0.06)


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_a_run_resumes_exactly_where_it_was_cut(tiny_llama, fitted, tmp_path, estimator):
    import dataclasses

    config = dataclasses.replace(FAST, estimator=estimator, epochs=2)
    whole = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "a", config)
    whole.run()
    cut = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "b", config)

    class Stop(BaseException):
        pass

    def log(row):
        if row.get("step") == 3 and "loss" in row:
            raise Stop

    with pytest.raises(Stop):
        cut.run(log=log)
    again = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "b", config)
    again.run(resume=True)
    assert_same_weights(whole, again)
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        a, b = (rows(tmp_path / folder / name) for folder in ("a", "b"))
        assert a == b
    assert [row["step"] for row in rows(tmp_path / "b" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_an_interrupt_saves_the_last_whole_step(tiny_llama, fitted, tmp_path):
    def log(row):
        if row.get("step") == 3 and "loss" in row:
            raise KeyboardInterrupt

    whole = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "a")
    whole.run()
    cut = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        cut.run(log=log)
    header = json.loads((tmp_path / "b" / "checkpoint" / "checkpoint.json").read_text())
    assert header["step"] == 3  # evaluations, and with them checkpoints, are every second step
    again = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "b")
    again.run(resume=True)
    assert rows(tmp_path / "a" / "metrics.jsonl") == rows(tmp_path / "b" / "metrics.jsonl")
    assert_same_weights(whole, again)


def assert_same_weights(one, other):
    pairs = zip(one.policy.masters.all, other.policy.masters.all, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def rows(path):
    found = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in found]


def test_a_reward_that_is_not_finite_stops_with_the_row(fresh, fitted, tmp_path):
    run = trainer(fresh, fitted, tmp_path / "run")
    run.run()

    class Broken:
        def rewards(self, scores, values):
            return np.full(len(scores), np.nan)

    run.target = Broken()
    with pytest.raises(ModelError, match=r"step 5: the reward of completion 0 is nan"):
        run.step(4)
    assert (tmp_path / "run" / "checkpoint" / "checkpoint.json").exists()


def examples(values):
    return [
        Example(f"p{i}", f"p{i}", (Message("user", str(i)),), tags={"class": v})
        for i, v in enumerate(values)
    ]


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_balanced_steps_draw_every_class_equally_and_every_prompt_once_an_epoch(n):
    some = examples(["a"] * 9 + ["b"] * 3)
    sampler = PromptSampler(some, n, balance="class", seed=0)
    steps = [sampler.step(k) for k in range(60)]
    assert all(len(step) == n for step in steps)
    counts = np.bincount([i for step in steps for i in step], minlength=12)
    of = np.array([counts[:9].sum(), counts[9:].sum()])
    assert abs(of[0] - of[1]) <= 1
    assert np.ptp(counts[:9]) <= 1
    assert np.ptp(counts[9:]) <= 1
    assert steps == [PromptSampler(some, n, balance="class", seed=0).step(k) for k in range(60)]


@pytest.mark.parametrize(("n", "shares"), [(8, "a:3,b:1"), (5, "b:1,a:2"), (3, "a:0.5,b:0.1")])
def test_classes_are_drawn_in_the_shares_asked_for(n, shares):
    sampler = PromptSampler(examples(["a"] * 9 + ["b"] * 3), n, balance=f"class={shares}", seed=0)
    steps = [sampler.step(k) for k in range(60)]
    assert all(len(step) == n for step in steps)
    part = {k: float(v) for k, v in (x.split(":") for x in shares.split(","))}
    wanted = 60 * n * part["a"] / sum(part.values())
    assert sum(i < 9 for step in steps for i in step) == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize("balance", ["class", "class=a:9,b:1"])
def test_evaluations_have_equally_many_prompts_of_every_class(balance):
    some = examples(["a"] * 20 + ["b"] * 6)
    found = drawn(some, 10, seed=1, balance=balance)
    assert [prompt.tags["class"] for prompt in found] == ["a"] * 5 + ["b"] * 5
    assert {prompt.id for prompt in found} == {
        p.id for p in drawn(some, 10, seed=1, balance="class")
    }
    assert found != drawn(some, 10, seed=2, balance=balance)
    # A class that has no more leaves its places to the others; without a balance all are alike.
    found = drawn(some, 20, seed=1, balance=balance)
    assert [prompt.tags["class"] for prompt in found] == ["a"] * 14 + ["b"] * 6
    assert sum(p.tags["class"] == "b" for p in drawn(some, 13, seed=1)) < 6
    assert drawn(some, 26, seed=1, balance=balance) == some


def test_evaluations_ask_once_of_every_group_before_they_ask_again():
    some = [
        dataclasses.replace(row, group=f"g{i % 12}") for i, row in enumerate(examples("a" * 24))
    ]
    for seed in range(5):
        counts = Counter(prompt.group for prompt in drawn(some, 15, seed=seed))
        assert sorted(counts.values()) == [1] * 9 + [2] * 3


@pytest.mark.parametrize(
    "spec", ["class=a", "class=a:0,b:1", "class=a:x,b:1", "class=a:1", "class=a:1,c:1"]
)
def test_shares_that_make_no_sense_are_refused(spec):
    with pytest.raises(DataError, match="balance 'class="):
        PromptSampler(examples(["a", "b"]), 2, balance=spec, seed=0)


@pytest.mark.parametrize(
    ("values", "n", "message"),
    [
        (["a", "a"], 2, "all are 'a'"),
        (["a", ""], 2, "1 prompts have no such tag"),
        (["a", "b"], 1, "has 2 values, a step 1 prompts"),
        ([], 1, "there are none"),
    ],
)
def test_prompts_that_cannot_be_balanced_are_refused(values, n, message):
    with pytest.raises(DataError, match=message):
        PromptSampler(examples(values), n, balance="class", seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 1}, "group: got 1, expected 2 or more"),
        ({"target": "most"}, "target: got 'most', expected max, clip, gaussian, kde or chosen"),
        ({"estimator": "ppo"}, "estimator: got 'ppo', expected grpo, dr-grpo or rloo"),
        ({"steps": 0}, "steps: got 0, expected 1 or more"),
        ({"epochs": 2, "clip": None}, "more than one needs a clip"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        RLConfig(**options)


def test_layers_that_are_not_there_leave_nothing_to_train(fresh):
    with pytest.raises(ModelError, match="LoRA targets 'nothing'"):
        Policy(fresh, targets="nothing")


def test_chosen_lands_on_the_distribution_it_aims_at(fresh, fitted, tmp_path):
    """Spread as wide as eight tosses of a coin, not all on the most likely score."""
    from probekit.rl.target import transport

    chosen = np.random.default_rng(0).binomial(8, 0.5, 120) / 8
    scores, final = bandit(fresh, fitted, tmp_path / "run", transport, chosen)
    assert abs(final.mean() - 0.5) < 0.1
    # All at 0.5 would be 0.37 away.
    assert ks_2samp(final, chosen, method="asymp").statistic < 0.2
    assert final.std() == pytest.approx(chosen.std(), rel=0.35)
