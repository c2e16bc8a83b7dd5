"""TRL: the same reward for the same token ids, and the same run by its GRPOTrainer."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import random
import shutil
import threading

import numpy as np
import pytest
import torch

from probekit.data.rows import Example, Message
from probekit.errors import DataError, ModelError, ProbeError
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.sampling import Completion, SamplingConfig, closing_id, sample
from probekit.probes import Probe
from probekit.probes.scoring import Scorer
from probekit.rl import RLConfig, Target, Trainer, trl_reward
from probekit.rl.advantage import advantages
from probekit.rl.frozen import FrozenReader
from probekit.rl.reward import Ensemble, rewards
from probekit.rl.run import train_run
from probekit.rl.trl import prompt_row
from probekit.rl.trl_engine import check_trl, grpo_settings
from tests.cli.test_cli import rows as data_rows
from tests.cli.test_cli import run as run_command
from tests.steering.conftest import prompts
from tests.tiny import save_tiny, tiny_tokenizer

CONFIG = RLConfig(
    steps=2, prompts=2, group=4, max_new_tokens=6, eval_every=1, eval_prompts=4, rank=4,
    learning_rate=5e-3, warmup=2, engine="trl", kl_coeff=0.05,
)  # fmt: skip


@pytest.fixture
def fresh(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


def messages(example):
    return [{"role": turn.role, "content": turn.content} for turn in example.prompt]


@pytest.fixture(scope="module")
def written(loaded, rendered):
    """Prompts and completion ids: unequal prompts, cut, finished, and one that is empty."""
    done = sample(loaded, rendered, SamplingConfig(max_new_tokens=7, samples=3))
    end = loaded.tokenizer.eos_token_id
    several = [[c.prompt, c.ids.tolist(), c.finished] for c in done]
    for at, length in ((0, 3), (4, 5)):  # a random model rarely ends a turn by itself
        several[at][1:] = [[*several[at][1][:length], end], True]
    several[7][1:] = [[end], True]
    assert {c[2] for c in several} == {True, False}
    return several


def embedded(loaded, heads, rendered, written, name, values=(), *, penalty=0.0, tag=None):
    """Return the embedded loop's reward, along its own path."""
    rows = [
        Completion(p, 0, np.array(ids, dtype=np.int32), np.empty(0), finished).rendered(
            rendered[p], closing_id(loaded)
        )
        for p, ids, finished in written
    ]
    frozen = FrozenReader(loaded, heads).read(rows, [len(ids) for _, ids, _ in written])
    ensemble = Ensemble(heads, penalty)
    target = Target(name, ensemble.distributions, tag=tag)
    return rows, rewards(frozen.scores, ensemble, target, values or [""] * len(rows))


@pytest.mark.parametrize("target", ["max", "clip", "gaussian", "kde", "chosen"])
@pytest.mark.parametrize("several", [False, True])
def test_the_reward_is_the_embedded_loops_to_the_bit(
    loaded, fitted, rendered, written, target, several
):
    heads = [Probe.load(fitted)]
    if several:
        chosen = heads[0]
        heads += [
            dataclasses.replace(head, distributions=chosen.distributions)
            for head in Probe.load_layers(fitted)
            if head.cell != chosen.cell
        ]
    penalty = 0.7 if several else 0.0
    _, wanted = embedded(loaded, heads, rendered, written, target, penalty=penalty)
    given = prompts()
    reward = trl_reward(heads, loaded, target=target, ensemble_penalty=penalty)
    logged = {}
    found = reward(
        prompts=[messages(given[p]) for p, *_ in written],
        completions=["a text that has nothing to do with it"] * len(written),
        completion_ids=[ids for _, ids, _ in written],
        half=["0"] * len(written),
        trainer_state=None,
        log_extra=None,
        log_metric=logged.__setitem__,
    )
    assert found == wanted.total.tolist()
    assert all(type(value) is float for value in found)
    assert found[7] == min(found) and np.isnan(reward.last.score[7])
    known = wanted.score[np.isfinite(wanted.score)]
    assert logged["probe_reward/score"] == known.mean()
    assert logged["probe_reward/unreadable"] == pytest.approx(1 / len(written))
    assert reward.__name__ == "probe_reward"


def test_the_score_is_the_scoring_cores(loaded, fitted, rendered, written):
    probe = Probe.load(fitted)
    rows, _ = embedded(loaded, [probe], rendered, written, "max")
    given, reward = prompts(), trl_reward(fitted, loaded, name="mine")
    reward([messages(given[p]) for p, *_ in written], completion_ids=[w[1] for w in written])
    readable = [i for i, row in enumerate(rows) if row.start < row.stop]
    wanted = Scorer(probe, loaded).score([rows[i] for i in readable])
    # float32 forward passes in batches of other widths
    np.testing.assert_allclose(reward.last.score[readable], wanted, atol=1e-4)
    assert reward.__name__ == "mine"


def test_a_copy_of_its_own_has_no_blocks_behind_the_head_and_reads_the_same(
    loaded, fitted, written
):
    probe = Probe.load(fitted, layer=1)
    given = [messages(prompts()[p]) for p, *_ in written]
    ids = [w[1] for w in written]
    alone = trl_reward(probe)
    assert alone(given, completion_ids=ids) == trl_reward(probe, loaded)(given, completion_ids=ids)
    assert len(alone.reader.loaded.model.model.layers) == 2
    assert len(loaded.model.model.layers) == 3


def test_plain_text_prompts_are_read_with_one_bos(loaded, fitted):
    text = "tell me more now"
    chat = render(Example("a", "a", (Message("user", text),)), loaded.tokenizer)
    templated = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    assert templated.startswith(loaded.tokenizer.bos_token)
    assert prompt_row(templated, loaded.tokenizer).ids.tolist() == chat.ids.tolist()
    reward, ids = trl_reward(fitted, loaded), [[70, 71, 72, 2]]
    as_text = reward([templated], completion_ids=ids)
    assert as_text == reward([[{"role": "user", "content": text}]], completion_ids=ids)


class AddsBos:
    """A tokenizer that writes a BOS when it is asked for special tokens, as Llama's does."""

    def __init__(self, tokenizer):
        self.inner, self.bos_token = tokenizer, tokenizer.bos_token

    def __call__(self, text, *, add_special_tokens, verbose):
        found = self.inner(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [self.inner.bos_token_id, *found] if add_special_tokens else found}


@pytest.mark.parametrize("text", ["hello", "<|im_start|>hello"])
def test_no_prompt_has_two_bos(text):
    row = prompt_row(text, AddsBos(tiny_tokenizer()))
    assert (row.ids == tiny_tokenizer().bos_token_id).sum() == 1
    assert row.start == row.stop == len(row.ids) == 6


@pytest.mark.parametrize("tagged", [True, False])
def test_the_target_tag_is_a_dataset_column(loaded, fitted, rendered, written, tagged):
    probe = Probe.load(fitted)
    parts = probe.distributions["all"]
    moved = {name: (np.array(scores) + 3.0).tolist() for name, scores in parts.items()}
    by_tag = {"all": parts, "by_tag": {"half": {"0": parts, "1": moved}}}
    probe = dataclasses.replace(probe, distributions=by_tag)
    values = [prompts()[p].tags["half"] for p, *_ in written]
    _, wanted = embedded(loaded, [probe], rendered, written, "chosen", values, tag="half")
    reward = trl_reward(probe, loaded, target="chosen", target_tag="half")
    given = [messages(prompts()[p]) for p, *_ in written]
    ids = [w[1] for w in written]
    if tagged:
        columns = {"half": [int(value) for value in values]}
        assert reward(given, completion_ids=ids, **columns) == wanted.total.tolist()
    else:
        with pytest.raises(DataError, match="target tag 'half': the training data has no"):
            reward(given, completion_ids=ids)


def test_what_cannot_be_rewarded_is_said(fresh, fitted, tmp_path):
    reward = trl_reward(fitted, fresh)
    prompt = [{"role": "user", "content": "hi"}]
    with pytest.raises(ModelError, match="got no completion_ids"):
        reward(prompts=[prompt], completions=["x"])
    with pytest.raises(ModelError, match="no completion of this step can be read"):
        reward(prompts=[prompt] * 2, completion_ids=[[2], []])
    with pytest.raises(DataError, match="has a turn"):
        reward(prompts=[[{"role": "user", "content": [{"type": "image"}]}]], completion_ids=[[9]])
    with pytest.raises(DataError, match="there are none"):
        trl_reward([])
    with pytest.raises(ModelError, match="target 'best': unknown"):
        trl_reward(fitted, fresh, target="best")
    with pytest.raises(ProbeError, match="weights_fingerprint"):
        trl_reward(fitted, str(save_tiny(tmp_path / "other", seed=5)))
    from peft import LoraConfig, get_peft_model

    get_peft_model(fresh.model, LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(ModelError, match="not frozen. Give trl_reward a model of its own"):
        reward(prompts=[prompt], completion_ids=[[70, 71, 2]])


def grpo_trainer(tiny_llama, reward, folder, **changes):
    import datasets
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    policy = load_model(str(tiny_llama), dtype="float32")
    policy.model.requires_grad_(True)
    rows = [{"prompt": messages(p), **p.tags} for p in prompts()]
    settings = {
        "max_steps": 2, "per_device_train_batch_size": 4, "num_generations": 2, "use_cpu": True,
        "max_completion_length": 5, "bf16": False, "gradient_checkpointing": False,
        "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
        "dataloader_pin_memory": False, **changes,
    }  # fmt: skip
    return GRPOTrainer(
        model=policy.model,
        reward_funcs=[reward],
        args=GRPOConfig(output_dir=str(folder), **settings),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def test_a_script_of_ones_own_trains_with_it(tiny_llama, fitted, tmp_path):
    seen = []
    reward = trl_reward(fitted, target="chosen")
    plain = reward.__call__

    def spy(**columns):
        found = plain(**columns)
        seen.append((columns, found))
        return found

    trainer = grpo_trainer(tiny_llama, spy, tmp_path)
    with torch.random.fork_rng():
        trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logs) == 2
    for row, (columns, found) in zip(logs, seen, strict=True):
        assert row["reward"] == pytest.approx(np.mean(found), abs=1e-5)
        assert "probe_reward/score" in row and "probe_reward/distance_to_chosen" in row
        # what TRL fed to the policy is what the head read
        prompt = columns["prompts"][0]
        ids = trainer.processing_class.apply_chat_template(
            [prompt], add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0]
        assert list(ids) == prompt_row(prompt, reward.reader.loaded.tokenizer).ids.tolist()


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_run_with_trl_writes_what_the_embedded_loop_writes(tiny_llama, fitted, tmp_path):
    some = [dataclasses.replace(p, id=f"{p.id}-{k}", group=f"{p.id}-{k}")
            for k in range(2) for p in prompts()]  # fmt: skip
    seed, state = torch.random.initial_seed(), (random.getstate(), torch.get_rng_state())
    for engine in ("embedded", "trl"):
        loaded = load_model(str(tiny_llama), dtype="float32")
        before = [p.detach().clone() for p in loaded.model.parameters()]
        config = dataclasses.replace(CONFIG, engine=engine, rewards=("length=-0.1",))
        run = train_run(loaded, [fitted], some, tmp_path / engine, config)
        frozen = [p for p in loaded.model.parameters() if not p.requires_grad]
        assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
        assert "forward" not in vars(loaded.model)
        assert not loaded.model.training
    assert (seed, state[0]) == (torch.random.initial_seed(), random.getstate())
    assert torch.equal(state[1], torch.get_rng_state())
    ours, trls = tmp_path / "embedded", tmp_path / "trl"
    names = {str(p.relative_to(ours)) for p in ours.rglob("*")}
    assert names == {str(p.relative_to(trls)) for p in trls.rglob("*")}
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        a, b = lines(ours / name), lines(trls / name)
        assert [list(row) for row in a] == [list(row) for row in b]
    metrics = lines(trls / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(np.isfinite([row["score"], row["loss"], row["grad_norm"]]).all() for row in metrics)
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-6) and metrics[1]["kl"] > 0
    # the policies start alike, so the first evaluation is the same one; then they have moved
    first = [lines(tmp_path / e / "samples.jsonl")[:3] for e in ("embedded", "trl")]
    assert first[0] == first[1]
    assert json.loads((trls / "run.json").read_text())["settings"]["engine"] == "trl"
    assert (run.policy.masters.all[-1] != 0).any()  # B of LoRA, which starts at 0


def test_a_models_own_rules_of_generation_do_not_change_what_is_drawn(tiny_llama, fitted, tmp_path):
    """Completions come from the model's distribution, as in the embedded loop."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    rules = {"suppress_tokens": list(range(3, 264)), "repetition_penalty": 9.0}
    (folder / "generation_config.json").write_text(json.dumps(rules))
    config = dataclasses.replace(CONFIG, steps=1, eval_every=9)
    drawn = []
    for model in (tiny_llama, folder):
        run = trl_run(model, fitted, tmp_path / f"run-{len(drawn)}", config)
        rollout = run.engine.write(0, run.sampler.step(0))
        run.engine.close()
        drawn.append([row.ids.tolist() for row in rollout.rows])
        assert run.loaded.model.generation_config.repetition_penalty in (None, 1.0, 9.0)
    assert drawn[0] == drawn[1]


TOOLS = (
    "{% for t in tools or [] %}<tool>{{ t['name'] if t is mapping else t }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}[{{ c['function']['name'] }}]{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if brief %}Short: {% endif %}{% endif %}"
)


def test_a_prompt_with_tools_is_read_as_the_trainer_renders_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TOOLS
    call = {"type": "function", "function": {"name": "mul", "arguments": {}}}
    prompt = [
        {"role": "user", "content": "2*3?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "6"},
    ]
    for given in ({}, {"brief": True}, {"tools": [{"name": "mul"}]}):
        seen = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=True, **given
        )["input_ids"]
        assert prompt_row(prompt, tokenizer, **given).ids.tolist() == seen
        assert prompt_row(prompt[:1], tokenizer, **given).ids.tolist() == (
            tokenizer.apply_chat_template(
                prompt[:1], add_generation_prompt=True, return_dict=False, **given
            )
        )


def test_completions_that_call_tools_are_refused(loaded, fitted):
    reward = trl_reward(fitted, loaded)
    prompts = [[{"role": "user", "content": "2*3?"}]]
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "mul"}}]}
    for turns in ([call], [call, {"role": "tool", "content": "6"}]):
        with pytest.raises(DataError, match="calls tools"):
            reward(prompts, [turns], completion_ids=[[70, 71]])
    assert (
        len(reward(prompts, [[{"role": "assistant", "content": "a"}]], completion_ids=[[70]])) == 1
    )


class Caught(BaseException):
    """Ends a run where a test wants it."""


def grpo_threads():
    """GRPOTrainer's threads by their name: others (progress bars', earlier tests') come and go."""
    return [thread for thread in threading.enumerate() if thread.name == "GRPOTrainer"]


def trl_run(tiny_llama, fitted, folder, config):
    folder.mkdir(exist_ok=True)
    loaded = load_model(str(tiny_llama), dtype="float32")
    return Trainer(loaded, [Probe.load(fitted)], prompts(), prompts(), config, folder)


@pytest.mark.parametrize("end", [Caught, KeyboardInterrupt])
def test_a_run_with_trl_resumes_where_it_was_cut(tiny_llama, fitted, tmp_path, end):
    config = dataclasses.replace(CONFIG, steps=4, eval_every=2, epochs=2)
    whole = trl_run(tiny_llama, fitted, tmp_path / "a", config)
    whole.run()
    cut = trl_run(tiny_llama, fitted, tmp_path / "b", config)

    def log(row):
        if row.get("step") == 3 and "loss" in row:
            raise end

    with pytest.raises(end):
        cut.run(log=log)
    assert not grpo_threads()
    header = json.loads((tmp_path / "b" / "checkpoint" / "checkpoint.json").read_text())
    assert header["step"] == (3 if end is KeyboardInterrupt else 2)
    again = trl_run(tiny_llama, fitted, tmp_path / "b", config)
    again.run(resume=True)
    a, b = (lines(tmp_path / name / "metrics.jsonl") for name in "ab")
    assert [row["step"] for row in b] == [1, 2, 3, 4]
    assert [row["score"] for row in a] == [row["score"] for row in b]
    pairs = zip(whole.policy.masters.all, again.policy.masters.all, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def noise(policy):
    """Return weights away from the fresh adapter, where the divergence has no gradient."""
    generator = torch.Generator().manual_seed(0)
    return [
        p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all
    ]


@torch.no_grad()
def start_at(policy, weights):
    for parameter, weight in zip(policy.masters.all, weights, strict=True):
        parameter.copy_(weight)


@pytest.mark.parametrize(
    ("estimator", "changes"),
    [
        ("grpo", {"kl_coeff": 0.5}),
        ("dr-grpo", {"kl_coeff": 0.5}),
        ("rloo", {"kl_coeff": 0.5}),
        ("grpo", {"kl_coeff": 0.5, "temperature": 0.8}),
        ("grpo", {"kl_coeff": 0.1, "epochs": 2, "clip": 0.01}),
    ],
)
def test_trl_learns_from_a_step_what_the_embedded_learner_learns(
    tiny_llama, fitted, tmp_path, estimator, changes
):
    """The same completions give the same update: advantage, loss, divergence, clip, optimiser."""
    config = dataclasses.replace(
        CONFIG, estimator=estimator, target="max", eval_every=9, batch=4, warmup=1, steps=1,
        **changes,
    )  # fmt: skip
    run = trl_run(tiny_llama, fitted, tmp_path / "trl", config)
    start = noise(run.policy)
    start_at(run.policy, start)
    seen, inner = {}, run.engine.reward

    def reward(**columns):
        seen.update(columns)
        return inner(**columns)

    run.engine.reward = reward
    run.run()
    ours = trl_run(tiny_llama, fitted, tmp_path / "ours", config)
    start_at(ours.policy, start)
    rollout = rollout_of(ours, seen)
    with ours.policy.reference():
        frozen = ours.reader.read(rollout.rows, rollout.n_new, logprobs=True)
    values = [""] * len(rollout.rows)
    total = rewards(frozen.scores, ours.ensemble, ours.target, values).total
    groups = torch.from_numpy(total).reshape(-1, config.group)
    weights = advantages(groups, estimator).reshape(-1).numpy()
    reference = frozen.logprobs if config.kl_coeff else None
    stats = ours.learner.step(0, rollout, weights, reference)
    row = lines(tmp_path / "trl" / "metrics.jsonl")[0]
    assert row["reward"] == pytest.approx(total.mean(), rel=1e-6)
    # float32 sums over other batches
    assert row["grad_norm"] == pytest.approx(stats.grad_norm, rel=1e-3)
    for name in ("loss", "kl", "clipped", "entropy_bonus"):
        assert row[name] == pytest.approx(getattr(stats, name), rel=1e-4)
    for a, b, c in zip(run.policy.masters.all, ours.policy.masters.all, start, strict=True):
        # A gradient near AdamW's epsilon is rounding, and its step anything up to the learning rate.
        assert torch.isclose(a, b, atol=1e-4, rtol=1e-3).float().mean() > 0.98
        torch.testing.assert_close(a, b, atol=config.learning_rate * config.epochs, rtol=1e-3)
        assert not torch.equal(a, c)


def rollout_of(run, seen):
    """Return completions as a rollout of a trainer's own."""
    from probekit.rl.rollout import Rollout

    stops = run.loaded.tokenizer.eos_token_id
    done = [
        Completion(i, 0, np.array(ids, np.int32), np.zeros(len(ids), np.float32), ids[-1] == stops)
        for i, ids in enumerate(seen["completion_ids"])
    ]
    given = [prompt_row(p, run.loaded.tokenizer) for p in seen["prompts"]]
    return Rollout(
        prompt=np.arange(len(done)),
        rows=[c.rendered(given[c.prompt], closing_id(run.loaded)) for c in done],
        n_new=[len(c.ids) for c in done],
        logprobs=[c.logprobs for c in done],
        texts=[""] * len(done),
        finished=np.array([c.finished for c in done]),
    )


@pytest.mark.parametrize(("batch", "part"), [(64, 24), (8, 8), (5, 4), (1, 1)])
def test_a_step_is_split_evenly(batch, part):
    config = RLConfig(prompts=3, group=8, batch=batch)
    found = grpo_settings(config, steps=7)
    assert found["per_device_train_batch_size"] == part
    assert part * found["gradient_accumulation_steps"] == 24
    assert found["max_steps"] == 7


@pytest.fixture(scope="module")
def swept(tiny_llama, tmp_path_factory):
    """A fit of pairs with its store, through the command line."""
    folder = tmp_path_factory.mktemp("pairs")
    data = data_rows(folder / "rows.jsonl", "pair")
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", folder / "a.h5"]
    assert run_command(*cache, "--positions", "mean", "--dtype", "float32") == 0
    assert run_command("fit", folder / "a.h5", "--out", folder / "sweep") == 0
    return folder


def command(swept, out, *more):
    return [
        "rl", "--probe", swept / "sweep", "--prompts", swept / "rows.jsonl", "--out", out,
        "--engine", "trl", "--steps", "2", "--prompts-per-step", "2", "--group", "4",
        "--max-new-tokens", "5", "--eval-every", "1", "--eval-prompts", "4", "--rank", "2",
        "--warmup", "0", *more,
    ]  # fmt: skip


def test_the_command_prints_its_own_words_only(swept, tmp_path, capsys):
    out = tmp_path / "run"
    more = [
        "--reward",
        "length=-0.1",
        "--behaviours",
        "sentiment",
        "--behaviour",
        "positive",
        "--json",
    ]
    assert run_command(*command(swept, out, *more)) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["last"]["step"] == 2
    progress = [line for line in shown.err.splitlines() if line.startswith("step ")]
    assert len(progress) == 2
    assert "train_runtime" not in shown.out + shown.err
    assert all("wanted" in row for row in lines(out / "metrics.jsonl"))


def test_heads_are_refitted_between_the_steps_of_trl(tiny_llama, fitted, tmp_path):
    loaded = load_model(str(tiny_llama), dtype="float32")
    config = dataclasses.replace(CONFIG, steps=3, refit_every=2)
    run = train_run(loaded, [fitted], prompts(), tmp_path / "run", config, store=fitted / "acts.h5")
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert ["refit" in row for row in metrics] == [False, False, True]
    assert metrics[2]["refit"]["n_outputs"] == 16  # all completions of the two steps before
    assert metrics[0]["score"] == metrics[0]["score_first"]
    assert metrics[2]["score"] != metrics[2]["score_first"]
    assert (tmp_path / "run" / "checkpoint" / "heads.safetensors").exists()
    assert run.reader.heads[0] is run.refitter.heads[0]


def test_without_trl_one_line_says_how_to_get_it(monkeypatch, swept, tmp_path, capsys):
    def version(found):
        def ask(name):
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        return ask

    check_trl(CONFIG)
    for found in (None, "1.15.2", "2.0.0"):
        monkeypatch.setattr("probekit.rl.trl_guard.version", version(found))
        with pytest.raises(
            ModelError, match=r"checkout of probekit run: pip install -e '.\[trl\]'"
        ):
            check_trl(CONFIG)
        assert run_command(*command(swept, tmp_path / "run")) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("error: engine trl: ") and shown.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_settings_that_trl_cannot_follow_are_refused(tiny_llama, fitted, tmp_path):
    with pytest.raises(ModelError, match="engine: got 'vllm', expected embedded or trl"):
        RLConfig(engine="vllm")
    for name, value in (("temperature", 0.0), ("kl_in", "reward"), ("full_weights", True)):
        config = dataclasses.replace(CONFIG, **{name: value})
        with pytest.raises(ModelError, match=f"{name} {value}: does not go with --engine trl"):
            trl_run(tiny_llama, fitted, tmp_path / "run", config)


def test_what_goes_wrong_on_either_side_ends_both(tiny_llama, fitted, tmp_path):
    run = trl_run(tiny_llama, fitted, tmp_path / "loop", dataclasses.replace(CONFIG, kl_coeff=0.0))

    class Broken:
        def rewards(self, scores, values):
            return np.full(len(scores), np.nan)

    aim, run.target = run.target, Broken()
    with pytest.raises(ModelError, match="step 1: the reward of completion 0 is nan"):
        run.run()
    assert not grpo_threads()
    assert not run.loaded.model.training and "forward" not in vars(run.loaded.model)
    run.target = aim
    run.run()  # begins anew
    rows = lines(tmp_path / "loop" / "metrics.jsonl")
    assert [row["kl"] for row in rows] == [None, None]
    assert all(0 < row["seconds_writing"] < row["seconds"] for row in rows)

    def reward(**columns):
        raise ValueError("TRL's side")

    run = trl_run(tiny_llama, fitted, tmp_path / "trl", CONFIG)
    run.engine.reward = reward
    with pytest.raises(ValueError, match="TRL's side"):
        run.run()
    assert not grpo_threads()
