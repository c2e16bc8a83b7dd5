"""Whole runs on a tiny model: refits, other policies and rewards, and what survives a bad end."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import probekit.rl.checkpoint as checkpoints
from probekit.behaviours import Behaviours, Wanted
from probekit.container import _HOST, write_json
from probekit.errors import BehaviourError, ModelError, OutputError, ProbeError
from probekit.models.load import load_model
from probekit.outputs import endings
from probekit.probes import Probe
from probekit.probes.scoring import Scorer
from probekit.results.rl_files import SAMPLES
from probekit.rl import RLConfig, Trainer
from probekit.rl.checkpoint import Interrupts, Logs
from probekit.rl.head_data import HeadData
from probekit.rl.policy import FullPolicy
from probekit.rl.run import train_run
from tests.rl.test_train import FAST, assert_same_weights, logits, rows
from tests.steering.conftest import prompts
from tests.taken import taken

REFITS = dataclasses.replace(FAST, refit_every=1, refit_keep=12, refit_rate=0.5)


def fresh(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


def trainer(tiny_llama, fitted, folder, config=FAST, **options):
    folder.mkdir(exist_ok=True)
    head = Probe.load(fitted)
    data = [HeadData.open(fitted, head, fitted / "acts.h5")]
    loaded = fresh(tiny_llama)
    return Trainer(loaded, [head], prompts(), prompts(), config, folder, data=data, **options)


def test_refitted_heads_are_used_and_both_scores_logged(tiny_llama, fitted, tmp_path):
    run = trainer(tiny_llama, fitted, tmp_path / "run", REFITS)
    run.run()
    steps = rows(tmp_path / "run" / "metrics.jsonl")
    assert steps[0]["score"] == pytest.approx(steps[0]["score_first"])
    assert [row.get("refit", {}).get("n_outputs") for row in steps] == [None, 8, 12, 12]
    assert all(row["refit"]["cosine"] < 1 for row in steps[1:])
    now = run.refitter.heads[0]
    assert run.reader.heads[0] is now and run.evaluator.reader.heads[0] is now
    last = rows(tmp_path / "run" / "samples.jsonl")[-1]
    assert last["score"] != pytest.approx(last["score_first"])
    chosen = now.distributions["all"]
    assert run.chosen.mean() == pytest.approx(np.mean(chosen["xy"]))


def test_what_a_run_goes_without_where_the_store_is_gone_is_said(tiny_llama, fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "fit")
    (tmp_path / "fit" / "acts.h5").unlink()
    record = json.loads((tmp_path / "fit" / "run.json").read_text())
    record["arguments"]["store"] = str(tmp_path / "fit" / "acts.h5")
    write_json(tmp_path / "fit" / "run.json", record)
    told: list[dict] = []
    config = dataclasses.replace(FAST, steps=1)
    train_run(
        fresh(tiny_llama), [tmp_path / "fit"], prompts(), tmp_path / "run", config, log=told.append
    )
    notes = [row["note"] for row in told if "note" in row]
    assert len(notes) == 1 and "acts.h5: the store that" in notes[0] and "--store" in notes[0]
    (start, *_) = (row["evaluation"]["all"] for row in told if "evaluation" in row)
    assert "mahalanobis" not in start and "score" in start
    with pytest.raises(ProbeError, match="is not there"):
        train_run(
            fresh(tiny_llama), [tmp_path / "fit"], prompts(), tmp_path / "other",
            dataclasses.replace(config, ood_penalty=1.0),
        )  # fmt: skip


def test_the_ood_penalty_is_for_distance_beyond_the_heads_own_rows(tiny_llama, fitted, tmp_path):
    config = dataclasses.replace(FAST, ood_penalty=3.0)
    run = trainer(tiny_llama, fitted, tmp_path / "run", config)
    rollout = run.engine.writer.write([0, 1, 2], config.sampling(), seed=1)
    with run.policy.reference():
        frozen = run.reader.read(rollout.rows, rollout.n_new)
    asked = [run.prompts[int(p)] for p in rollout.prompt]
    found = run._reward(rollout, frozen, asked)
    run.config = FAST
    plain = run._reward(rollout, frozen, asked)
    data, known = run.data[0], np.isfinite(found.score)
    held = data.distance(data.acts[data.task.splits.choose])
    far = data.distance(frozen.acts[run.heads[0].cell])[known] - np.quantile(held, 0.95)
    assert (far > 0).any()
    np.testing.assert_allclose(
        (plain.total - found.total)[known], 3.0 * np.maximum(far, 0.0), atol=1e-9
    )
    np.testing.assert_array_equal(found.score, plain.score)


def test_a_run_with_refits_resumes_exactly(tiny_llama, fitted, tmp_path):
    whole = trainer(tiny_llama, fitted, tmp_path / "a", REFITS)
    whole.run()
    cut = trainer(tiny_llama, fitted, tmp_path / "b", dataclasses.replace(REFITS, steps=2))
    cut.run()
    # A run of two steps evaluates at its end as the longer one does in its middle.
    again = trainer(tiny_llama, fitted, tmp_path / "b", REFITS)
    again.run(resume=True)
    assert_same_weights(whole, again)
    np.testing.assert_array_equal(whole.refitter.heads[0].coef, again.refitter.heads[0].coef)
    assert rows(tmp_path / "a" / "metrics.jsonl") == rows(tmp_path / "b" / "metrics.jsonl")
    assert rows(tmp_path / "a" / "samples.jsonl") == rows(tmp_path / "b" / "samples.jsonl")


def test_refits_without_the_rows_of_the_head_are_refused(tiny_llama, fitted, tmp_path):
    with pytest.raises(ModelError, match=r"refit_every: .*--store"):
        Trainer(
            fresh(tiny_llama), [Probe.load(fitted)], prompts(), prompts(), REFITS, tmp_path
        )  # fmt: skip


def test_independent_readings_say_what_they_are(tiny_llama, fitted, tmp_path):
    run = trainer(tiny_llama, fitted, tmp_path / "run")
    run.run()
    found = rows(tmp_path / "run" / "samples.jsonl")
    start = [row for row in found if row["step"] == 0]
    end = [row for row in found if row["step"] == FAST.steps]
    # The adapter starts at zero: until something is learnt there is no drift.
    assert all(row["drift"] == pytest.approx(0.0, abs=1e-5) for row in start)
    assert any(abs(row["drift"]) > 1e-4 for row in end)
    head = Probe.load(fitted)
    rollout = run.evaluator.writer.write([0, 1], run.config.sampling(), seed=3)
    read = run.evaluator.reader
    with run.policy.reference():
        frozen = read.read(rollout.rows, rollout.n_new)
        by_scorer = Scorer(head, run.loaded).score(rollout.rows)
    columns = run.evaluator.readings.columns(frozen.scores)
    np.testing.assert_allclose(columns["optimised"][:, 0], by_scorer, atol=1e-4)
    np.testing.assert_allclose(
        frozen.acts[head.cell] @ head.coef + head.bias, columns["optimised"][:, 0], atol=1e-3
    )
    assert {"disjoint", "mahalanobis", "score", "kl"} <= end[0].keys()
    # The similarity of activations, by the matrix of all cosines.
    written, frozen = run.evaluator.samples(run.config.sampling(), seed=5)
    metrics = run.evaluator.measure(written, frozen)
    prompt = np.array([row["prompt_id"] for row in written])
    every = range(len(run.evaluator.prompts))
    again = run.evaluator.writer.write(every, run.config.sampling(), seed=5)
    with run.policy.reference():
        acts = read.read(again.rows, again.n_new).acts[head.cell]
    data = run.data[0]
    fit = data.acts[data._examples(data.task.splits.fit)].astype(float)
    z = (acts - fit.mean(axis=0)) / fit.std(axis=0)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    across = prompt[:, None] != prompt
    assert metrics["all"]["alike_acts"]["value"] == pytest.approx((unit @ unit.T)[across].mean())
    assert {"opening", "first_sentences", "alike"} <= metrics["all"].keys()
    assert all(row["mahalanobis"] > 0 for row in end)


def test_all_weights_can_be_trained_and_the_reference_stays(tiny_llama, fitted, tmp_path):
    config = dataclasses.replace(FAST, full_weights=True, learning_rate=1e-3)
    run = trainer(tiny_llama, fitted, tmp_path / "run", config)
    before = logits(fresh(tiny_llama).model)
    assert run.policy.n_trainable == sum(p.numel() for p in run.loaded.model.parameters())
    run.run()
    after = logits(run.loaded.model)
    assert not torch.equal(after, before)
    with run.policy.reference():
        assert torch.equal(logits(run.loaded.model), before)
    assert torch.equal(logits(run.loaded.model), after)
    saved = load_model(str(tmp_path / "run" / "checkpoint" / "adapter"), dtype="float32")
    assert torch.equal(logits(saved.model), after)
    again = trainer(tiny_llama, fitted, tmp_path / "run", dataclasses.replace(config, steps=5))
    again.run(resume=True)
    assert isinstance(again.policy, FullPolicy)
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_divergence_in_the_reward_is_its_sum_over_the_completion(tiny_llama, fitted, tmp_path):
    config = dataclasses.replace(
        FAST, kl_in="reward", kl_coeff=0.5, target="max", rewards=("length=0.25",)
    )
    run = trainer(tiny_llama, fitted, tmp_path / "run", config)
    run.run()
    index = run.sampler.step(9)
    rollout = run.engine.writer.write(index, config.sampling(), seed=3)
    with run.policy.reference():
        frozen = run.reader.read(rollout.rows, rollout.n_new, logprobs=True)
    some = [run.prompts[index[int(p)]] for p in rollout.prompt]
    found = run._reward(rollout, frozen, some)
    gaps = [(a - b).sum() for a, b in zip(rollout.logprobs, frozen.logprobs, strict=True)]
    wanted = frozen.scores[:, 0] - 0.5 * np.array(gaps) + 0.25 * np.array(rollout.n_new)
    np.testing.assert_allclose(found.total, wanted, rtol=1e-6)
    assert max(map(abs, gaps)) > 1e-3


def test_the_best_policy_is_kept_by_what_is_wanted_not_by_the_score(tiny_llama, fitted, tmp_path):
    run = trainer(
        tiny_llama, fitted, tmp_path / "run",
        behaviours=Behaviours.load("sentiment"),
        wanted=Wanted.parse(["positive"], Behaviours.load("sentiment")),
    )  # fmt: skip
    rates = {0: 0.0, 2: 1.0, 4: 0.5}
    inner, states = run.evaluator.samples, {}

    def samples(config, *, seed):
        written, frozen = inner(config, seed=seed)
        rate = rates[run._done]
        for i, row in enumerate(written):
            row["wanted"], row["score"] = i < rate * len(written), float(run._done)
        return written, frozen

    run.evaluator.samples = samples

    def log(row):
        states[row["step"]] = [p.detach().clone() for p in run.policy.masters.all]

    run.run(log=log)
    best = json.loads((tmp_path / "run" / "best" / "best.json").read_text())
    assert best["step"] == 2
    assert run.goodhart().sweet_spot == 2
    run.policy.load(tmp_path / "run" / "best" / "adapter")
    pairs = zip(run.policy.masters.all, states[2], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tiny_llama, fitted, tmp_path, monkeypatch):
    run = trainer(tiny_llama, fitted, tmp_path / "run")
    real = run.policy.save

    def full(folder):
        if run._done == 4:
            folder.mkdir(parents=True)
            (folder / "adapter_model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder)

    monkeypatch.setattr(run.policy, "save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run.run()
    folder = tmp_path / "run"
    assert json.loads((folder / "checkpoint" / "checkpoint.json").read_text())["step"] == 2
    assert sorted(p.name for p in folder.iterdir() if "tmp" in p.name or "partial" in p.name) == []
    whole = trainer(tiny_llama, fitted, tmp_path / "whole")
    whole.run()
    again = trainer(tiny_llama, fitted, folder)
    again.run(resume=True)
    assert_same_weights(whole, again)
    assert rows(folder / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")


CHILD = """
import os, signal, sys
from pathlib import Path
from probekit.data.prompts import open_prompts
from probekit.models.load import load_model
from probekit.rl import RLConfig
from probekit.rl.run import train_run

model, fit, data, out, at = sys.argv[1:]
config = RLConfig(
    steps=4, prompts=2, group=4, max_new_tokens=5, eval_every=2, eval_prompts=4, rank=2,
    learning_rate=5e-3, warmup=1, refit_every=2,
)

def log(row):
    if row["step"] == int(at) and "loss" in row:
        os.kill(os.getpid(), signal.SIGKILL)

train_run(
    load_model(model, dtype="float32"), [fit], open_prompts(data), out, config,
    store=Path(fit) / "acts.h5", resume=Path(out).exists(), log=log,
)
"""


def test_a_killed_run_resumes_to_the_same_end(tiny_llama, fitted, tmp_path):
    data = tmp_path / "prompts.jsonl"
    data.write_text(
        "".join(
            json.dumps({"prompt": f"{'ab' * k} go on", "group": f"g{k}"}) + "\n" for k in range(8)
        )
    )

    def run(out, at):
        argv = [sys.executable, "-c", CHILD, str(tiny_llama), str(fitted), str(data), str(out), at]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(argv, cwd=Path.cwd(), env=env, check=False).returncode

    assert run(tmp_path / "whole", "0") == 0
    assert run(tmp_path / "cut", "1") == -signal.SIGKILL
    assert run(tmp_path / "cut", "3") == -signal.SIGKILL
    assert run(tmp_path / "cut", "0") == 0
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert rows(tmp_path / "cut" / name) == rows(tmp_path / "whole" / name)
    for name in ("adapter_model.safetensors",):
        paths = [tmp_path / k / "checkpoint" / "adapter" / name for k in ("cut", "whole")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_two_processes_do_not_write_one_run(tiny_llama, fitted, tmp_path):
    out, config = tmp_path / "run", dataclasses.replace(FAST, steps=1)

    def again(**how):
        loaded = fresh(tiny_llama)
        train_run(loaded, [fitted], prompts(), out, config, store=fitted / "acts.h5", **how)

    again()
    made = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with taken(out):
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(OutputError, match="another process is writing it"):
                again(**how)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kl_in": "loss,reward"},
            "kl_in: got 'loss,reward', expected loss or reward. Did you mean reward?",
        ),
        ({"refit_rate": 0.0}, "refit_rate: got 0.0, expected more than 0"),
        ({"refit_every": -1}, "refit_every: got -1, expected 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0, expected more than 0"),
        ({"rewards": ("length",)}, "expected NAME=WEIGHT"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        RLConfig(**options)


@pytest.mark.parametrize("full", [False, True])
def test_small_steps_add_up_in_float32_behind_bfloat16(tiny_llama, fitted, tmp_path, full):
    config = dataclasses.replace(FAST, full_weights=full, learning_rate=1e-6, target="max")
    head = Probe.load(fitted)

    def run(folder, config=config):
        folder.mkdir(exist_ok=True)
        loaded = load_model(str(tiny_llama), dtype="bfloat16")
        return Trainer(loaded, [head], prompts(), prompts(), config, folder)

    one = run(tmp_path / "a")
    start = [p.detach().clone() for p in one.policy.masters.all]
    one.run()
    live = [p for p in one.loaded.model.parameters() if p.requires_grad]
    assert {p.dtype for p in live} == {torch.bfloat16}
    assert {p.dtype for p in one.policy.masters.all} == {torch.float32}
    moved = [not torch.equal(a, b) for a, b in zip(start, one.policy.masters.all, strict=True)]
    assert any(moved)
    for rounded, exact in zip(one.policy.masters._live, one.policy.masters.all, strict=True):
        assert torch.equal(rounded, exact.bfloat16())
    cut = run(tmp_path / "b", dataclasses.replace(config, steps=2))
    cut.run()
    again = run(tmp_path / "b")
    again.run(resume=True)
    assert_same_weights(one, again)


def test_what_is_wanted_is_what_the_behaviours_file_says(tiny_llama, fitted, tmp_path):
    known = Behaviours.load("sentiment")
    run = trainer(
        tiny_llama, fitted, tmp_path / "run", behaviours=known,
        wanted=Wanted.parse(["half=1:neutral"], known),
    )  # fmt: skip
    run.run()
    for row in rows(tmp_path / "run" / "samples.jsonl"):
        wanted = None if row["tags"]["half"] == "0" else row["category"] == "neutral"
        assert row["wanted"] == wanted
    with pytest.raises(BehaviourError, match="is wanted of none of the 4 held-out prompts"):
        trainer(
            tiny_llama, fitted, tmp_path / "no", behaviours=known,
            wanted=Wanted.parse(["half=2:neutral"], known),
        )  # fmt: skip


def test_an_interrupt_in_an_evaluation_is_made_up_for(tiny_llama, fitted, tmp_path):
    whole = trainer(tiny_llama, fitted, tmp_path / "a")
    whole.run()
    cut = trainer(tiny_llama, fitted, tmp_path / "b")
    inner = cut.logs.append

    def append(table, lines):
        if table is SAMPLES and cut._done == 4:
            inner(table, lines[:2])
            raise KeyboardInterrupt
        inner(table, lines)

    cut.logs.append = append
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = trainer(tiny_llama, fitted, tmp_path / "b")
    again.run(resume=True)
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert rows(tmp_path / "a" / name) == rows(tmp_path / "b" / name)


def test_an_interrupt_waits_for_the_end_of_a_step_and_a_second_does_not(request):
    told = []
    given = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, given))
    with Interrupts(lambda: told.append(1)) as held:
        held.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert told == [1]
        with pytest.raises(KeyboardInterrupt):
            held.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_checkpoint_caught_between_two_names_is_put_back(tiny_llama, fitted, tmp_path):
    run = trainer(tiny_llama, fitted, tmp_path / "run", dataclasses.replace(FAST, steps=2))
    run.run()
    folder = tmp_path / "run"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()  # temporary files name the process that made them: this one is dead
    old, new = (
        folder / f".checkpoint.probekit-{_HOST}-{gone.pid}-x.{end}" for end in ("old", "tmp")
    )
    old.mkdir()
    (folder / "checkpoint").rename(old / "was")
    new.mkdir()
    again = trainer(tiny_llama, fitted, folder)
    again.run(resume=True)
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []


def test_logs_are_on_disk_before_the_checkpoint_that_tells_their_length(
    tiny_llama, fitted, tmp_path, events
):
    run = trainer(tiny_llama, fitted, tmp_path / "run", dataclasses.replace(FAST, steps=1))
    run.run()
    folder = tmp_path / "run"
    at = next(k for k, e in enumerate(events) if e[0] == "move" and e[2] == folder / "checkpoint")
    sizes = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())["logs"]
    assert all(("sync", folder / name) in events[:at] for name, size in sizes.items() if size)
    assert ("sync", folder) in events[at:]


def test_a_log_shorter_than_its_checkpoint_names_the_remedy(tiny_llama, fitted, tmp_path):
    trainer(tiny_llama, fitted, tmp_path / "run", dataclasses.replace(FAST, steps=1)).run()
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    (tmp_path / "run" / "digests.json").unlink()
    with pytest.raises(
        OutputError, match=r"were written before the checkpoint. Put a whole copy .*--force"
    ):
        trainer(tiny_llama, fitted, tmp_path / "run").run(resume=True)


def test_two_kills_in_a_row_leave_a_run_that_goes_on(tiny_llama, fitted, tmp_path, monkeypatch):
    """The first comes after rows that no checkpoint knows, the second while they are cut off."""
    config = dataclasses.replace(FAST, steps=2)
    trainer(tiny_llama, fitted, tmp_path / "run", config).run()
    folder = tmp_path / "run"
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        with (folder / name).open("a") as log:
            log.write((folder / name).read_text().splitlines()[-1] + "\n")
    Logs(folder).seal()

    class Killed(BaseException):
        pass

    def kill(path, size):
        cut(path, size)
        raise Killed

    cut = checkpoints._cut
    monkeypatch.setattr(checkpoints, "_cut", kill)
    for _ in range(2):
        with pytest.raises(Killed):
            trainer(tiny_llama, fitted, folder).run(resume=True)
    monkeypatch.undo()
    trainer(tiny_llama, fitted, folder).run(resume=True)
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_end_saves_its_step(tiny_llama, fitted, tmp_path, number):
    def ask(row):
        if "loss" in row and row["step"] == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as ended, endings():
        trainer(tiny_llama, fitted, tmp_path / "run").run(log=ask)
    assert ended.value.code == 128 + number
    header = json.loads((tmp_path / "run" / "checkpoint" / "checkpoint.json").read_text())
    assert header["step"] == 2
    trainer(tiny_llama, fitted, tmp_path / "run").run(resume=True)
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_gradient_that_is_not_finite_changes_nothing(tiny_llama, fitted, tmp_path):
    run = trainer(tiny_llama, fitted, tmp_path / "run")
    start = [p.detach().clone() for p in run.policy.masters.all]
    rollout = run.engine.writer.write([0, 1], run.config.sampling(), seed=1)
    advantage = np.full(len(rollout.rows), np.inf)
    with pytest.raises(ModelError, match="step 1: the gradient is not finite"):
        run.learner.step(0, rollout, advantage, None)
    assert all(torch.equal(a, b) for a, b in zip(start, run.policy.masters.all, strict=True))


def test_several_passes_are_clipped_and_a_missing_divergence_is_not_zero(
    tiny_llama, fitted, tmp_path
):
    config = dataclasses.replace(FAST, epochs=5, clip=0.01, kl_coeff=0.0, learning_rate=5e-2)
    run = trainer(tiny_llama, fitted, tmp_path / "run", config)
    run.run()
    found = rows(tmp_path / "run" / "metrics.jsonl")
    assert all(0 < row["clipped"] <= 1 for row in found)
    assert all(row["kl"] is None for row in found)
