"""Training on preferences: TRL's numbers by hand, what is measured, and what is left behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import probekit as pk
from probekit.data.open import open_dataset
from probekit.errors import DataError, ModelError, ProbekitError
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.results.dpo import DISPLACEMENT, HELD_OUT, DPORun
from probekit.results.runs import open_run
from probekit.rl import DPOConfig, Policy
from probekit.rl.dpo import DPOWork, run_dpo
from probekit.rl.dpo_engine import learn
from probekit.rl.dpo_rows import check_pairs, read_pairs, sequence_logprobs, split_pairs
from probekit.verify import verify
from tests.cli.test_cli import run as run_command
from tests.tiny import save_tiny

FAST = {
    "steps": 12, "batch": 4, "learning_rate": 2e-2, "rank": 4, "warmup": 0.0, "save_every": 2,
    "max_tokens": 64,
}  # fmt: skip


def planted(n=40):
    """Chosen completions are of one letter, rejected ones of another."""
    return [
        {
            "id": f"r{k}", "prompt": f"say {k}", "chosen": "b" * (2 + k % 3),
            "rejected": "z" * (2 + k % 4), "tags": {"odd": str(k % 2)},
        }
        for k in range(n)
    ]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_hand(model, row):
    """Return the log-probability of a row's completion, one row in one pass."""
    ids = torch.tensor(row.ids[None]).long()
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    return float(logp.gather(1, ids[0, 1:, None])[row.new - 1 :].sum())


@pytest.fixture(scope="module")
def trained(tiny_llama, tmp_path_factory):
    """A run on the planted pairs."""
    folder = tmp_path_factory.mktemp("dpo")
    model = load_model(str(tiny_llama), dtype="float32")
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = pk.train_dpo(model, planted(), folder / "out", **FAST)
    assert torch.equal(state[0], torch.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()
    after = model.model.state_dict()
    assert after.keys() == before.keys()  # the model in memory has no adapter
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    return found


def test_a_planted_preference_is_learnt_by_groups_not_seen(trained):
    measured = trained.measured
    assert tuple(measured["accuracy"][0]) == (0.5, 0.5, 0.5)
    assert tuple(measured["margin"][0]) == (0.0, 0.0, 0.0)
    assert measured["accuracy"][1].value == 1.0 and measured["accuracy"][2].low > 0
    assert measured["chosen"][2].low > 0 > measured["rejected"][2].high
    assert trained.warnings == ["few groups"]
    assert len(trained.rows) == trained.record["n_held_out"] == 10
    assert trained.record["n_train"] == 30 and set(trained.rows["tag:odd"]) <= {"0", "1"}
    assert trained.history["step"].tolist() == list(range(1, 13))
    assert trained.history["loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-5)


def test_what_was_measured_is_what_peft_says_of_the_saved_adapter(trained, tiny_llama):
    """Without padding, shared prompts or an adapter of probekit's own."""
    loaded = load_model(str(tiny_llama), dtype="float32")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    sides = {(unit.id, unit.side): unit for unit in open_dataset(planted()).examples()}
    rows = {key: render(side, loaded.tokenizer) for key, side in sides.items()}
    wanted = {key: [by_hand(base, row)] for key, row in rows.items()}
    tuned = PeftModel.from_pretrained(base, trained.directory / "adapter").eval()
    for key, row in rows.items():
        wanted[key].append(by_hand(tuned, row))
    margins = []
    for row in trained.rows.to_dict("records"):
        for side in ("chosen", "rejected"):
            found = [row[f"{side}_before"], row[f"{side}_after"]]
            assert found == pytest.approx(wanted[row["id"], side], abs=2e-3)
            assert row[f"n_{side}"] == len(rows[row["id"], side].ids) - rows[row["id"], side].new
        (c0, c1), (r0, r1) = (wanted[row["id"], side] for side in ("chosen", "rejected"))
        margins.append(0.1 * ((c1 - c0) - (r1 - r0)))
    assert trained.measured["margin"][1].value == pytest.approx(np.mean(margins), abs=1e-3)
    assert trained.measured["accuracy"][1].value == np.mean(np.array(margins) > 0)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_loss_and_rewards_of_a_step_are_those_of_the_formula(tiny_llama, tmp_path, loss, at_once):
    """Every pair in every step: what a step logs is of the adapter that the step before left."""
    loaded = load_model(str(tiny_llama), dtype="float32")
    pairs, left = read_pairs(open_dataset(planted(6)), loaded, 64)
    config = DPOConfig(
        steps=4, batch=6, at_once=at_once, loss=loss, beta=0.3, learning_rate=1e-2, rank=2, warmup=0.0
    )  # fmt: skip
    policy, hands, rows = Policy(loaded, rank=2), [], []

    def formula(row):
        rows.append(row)
        on = [[by_hand(loaded.model, s) for s in (p.chosen, p.rejected)] for p in pairs]
        with policy.reference():
            off = [[by_hand(loaded.model, s) for s in (p.chosen, p.rejected)] for p in pairs]
        ratio = np.array(on) - np.array(off)
        delta = ratio[:, 0] - ratio[:, 1]
        if loss == "sigmoid":
            value = np.log1p(np.exp(-0.3 * delta))
        else:
            n = [[len(s.ids) - s.new for s in (p.chosen, p.rejected)] for p in pairs]
            per_token = ratio / np.array(n)
            value = (per_token[:, 0] - per_token[:, 1] - 1 / 0.6) ** 2
        hands.append(
            {
                "loss": value.mean(), "margin": 0.3 * delta.mean(), "accuracy": (delta > 0).mean(),
                "chosen": np.array(on)[:, 0].mean(), "rejected": np.array(on)[:, 1].mean(),
            }
        )  # fmt: skip

    history = learn(policy, pairs, config, tmp_path, formula)
    assert not left and [row["step"] for row in history] == [1, 2, 3, 4]
    for hand, row in zip(hands, history[1:], strict=False):
        assert {name: row[name] for name in hand} == pytest.approx(hand, rel=2e-3, abs=2e-3)
    assert abs(history[-1]["margin"]) > 0.1  # the adapter did move


def test_trl_learns_from_the_tokens_that_probes_read(tiny_llama, tmp_path, monkeypatch):
    """The rows of its batches, and which of their tokens count."""
    from trl import DPOTrainer

    seen = []
    inner = DPOTrainer.compute_loss

    def watch(self, model, inputs, **more):
        for ids, there, counts in zip(
            *(inputs[k] for k in ("input_ids", "attention_mask", "completion_mask")), strict=True
        ):
            assert counts[there == 0].sum() == 0
            seen.append((ids[there == 1].tolist(), int((counts == 0).sum() - (there == 0).sum())))
        return inner(self, model, inputs, **more)

    monkeypatch.setattr(DPOTrainer, "compute_loss", watch)
    loaded = load_model(str(tiny_llama), dtype="float32")
    rows = [
        {"prompt": "how?", "chosen": " so ", "rejected": "<|im_start|>"},
        {"prompt": [{"role": "system", "content": "be"}, {"role": "user", "content": "é\u2028"}],
         "chosen": "line\n\n", "rejected": "x" * 90},
        {"chosen": "raw text", "rejected": "another"},
    ]  # fmt: skip
    dataset = open_dataset(rows)
    pairs, _ = read_pairs(dataset, loaded, 64)
    learn(Policy(loaded, rank=2), pairs, DPOConfig(steps=1, batch=3, rank=2), tmp_path, print)
    wanted = []
    for side in dataset.examples():
        row = render(side, loaded.tokenizer)
        wanted.append((row.ids[:64].tolist(), row.new))
    assert sorted(seen) == sorted(wanted)
    assert sum(pair.cut for pair in pairs) == 1


def test_log_probabilities_of_texts_without_a_prompt_leave_out_the_first_token(tiny_llama):
    loaded = load_model(str(tiny_llama), dtype="float32")
    sides = open_dataset([{"chosen": "raw", "rejected": "text"}]).examples()
    rows = [render(side, loaded.tokenizer) for side in sides]
    for row, found in zip(rows, sequence_logprobs(loaded, rows), strict=True):
        ids = torch.tensor(row.ids[None]).long()
        logp = loaded.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        wanted = logp.gather(1, ids[0, 1:, None]).sum()
        assert found == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tiny_llama, tmp_path, dtype):
    """Adapter and history are the same, also where the model rounds what the optimiser keeps."""

    def go(out, log=lambda row: None, **more):
        loaded = load_model(str(tiny_llama), dtype=dtype)
        return run_dpo(loaded, open_dataset(planted(20)), out, DPOConfig(**FAST), log=log, **more)

    def killed(row):
        if row.get("step") == 7:
            raise KeyboardInterrupt

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", killed)
    assert not (tmp_path / "cut").exists() and (tmp_path / "cut.partial").is_dir()
    with pytest.raises(ProbekitError, match="an interrupted run is here. Pass --resume"):
        go(tmp_path / "cut")
    other = DPOConfig(**{**FAST, "beta": 0.2})
    with pytest.raises(ProbekitError, match="was started with beta 0.1, now 0.2"):
        run_dpo(
            load_model(str(tiny_llama), dtype=dtype), open_dataset(planted(20)), tmp_path / "cut",
            other, resume=True,
        )  # fmt: skip
    half = max((tmp_path / "cut.partial").glob("checkpoint-*"), key=lambda path: path.name)
    torn = half.with_name("checkpoint-9")  # a kill came while it was written
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    steps = []
    resumed = go(tmp_path / "cut", lambda row: steps.append(row.get("step")), resume=True)
    assert [step for step in steps if step] == list(range(7, 13))
    assert not (tmp_path / "cut.partial").exists()
    for name in ("held_out.jsonl", "history.jsonl", "adapter/adapter_model.safetensors"):
        assert (whole.directory / name).read_bytes() == (resumed.directory / name).read_bytes()
    with pytest.raises(ProbekitError, match="is whole already"):
        go(tmp_path / "cut", resume=True)


def test_a_damaged_checkpoint_is_one_line(tiny_llama, tmp_path):
    def killed(row):
        if row.get("step") == 3:
            raise KeyboardInterrupt

    loaded, data = load_model(str(tiny_llama), dtype="float32"), open_dataset(planted(8))
    with pytest.raises(KeyboardInterrupt):
        run_dpo(loaded, data, tmp_path / "out", DPOConfig(**FAST), log=killed)
    file = DPOWork.beside(tmp_path / "out").path / "checkpoint-2" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ProbekitError, match=r"optimizer.pt.*Pass --force"):
        again = load_model(str(tiny_llama), dtype="float32")
        run_dpo(again, data, tmp_path / "out", DPOConfig(**FAST), resume=True)


def test_the_adapter_is_taken_by_the_run_or_by_its_folder(trained, tiny_llama, tmp_path):
    prompts = write(tmp_path / "p.jsonl", [{"prompt": f"say {k}"} for k in range(4)])
    texts = {}
    for name, adapter in (("run", trained.directory), ("folder", trained.directory / "adapter")):
        out = tmp_path / f"{name}.jsonl"
        sample = ["sample", "--model", tiny_llama, "--prompts", prompts, "--out", out]
        sample += ["--samples", "1", "--max-new-tokens", "6", "--temperature", "0"]
        assert run_command(*sample, "--dtype", "float32", "--adapter", adapter) == 0
        texts[name] = [json.loads(line)["completion"] for line in out.read_text().splitlines()]
    assert texts["run"] == texts["folder"]
    assert set("".join(texts["run"])) == {"b"}  # what was preferred in training
    found = verify(trained.directory)
    assert not found.problems and not found.unsealed and found.n_files >= 5


def test_the_command_writes_what_the_function_does(tiny_llama, trained, tmp_path, capsys):
    data, out = write(tmp_path / "pairs.jsonl", planted()), tmp_path / "out"
    options = [f"--set={name}={value}" for name, value in FAST.items()]
    command = ["dpo", "--model", tiny_llama, "--data", data, "--dtype", "float32", *options]
    assert run_command(*command, "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    for name in ("held_out.jsonl", "history.jsonl", "adapter/adapter_model.safetensors"):
        assert (out / name).read_bytes() == (trained.directory / name).read_bytes()
    assert told["measures"]["accuracy"]["before"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert told["paths"]["adapter"] == str(out / "adapter") and told["n_held_out"] == 10
    assert open_run(out).metrics.equals(trained.metrics)
    assert run_command(*command, "--out", out) == 1  # it is there
    assert run_command(*command, "--out", out, "--force") == 0
    shown = capsys.readouterr().out
    assert "reward accuracy" in shown and "50 % → 100 % [" in shown.replace("\u202f", " ").replace(
        "\xa0", " "
    )


@pytest.mark.parametrize(("fall", "named"), [(-3.0, True), (0.5, False)])
def test_both_sides_falling_is_a_finding(fall, named):
    """Margins grow all the same: the rejected side falls further."""
    rng = np.random.default_rng()
    noise = rng.normal(0, 0.1, (4, 40))
    rows = [
        {
            "id": f"r{k}", "group": f"g{k // 2}", "tags": {}, "n_chosen": 10, "n_rejected": 20,
            "chosen_before": -20 + noise[0, k], "rejected_before": -30 + noise[1, k],
            "chosen_after": -20 + fall + noise[2, k], "rejected_after": -36 + noise[3, k],
        }
        for k in range(40)
    ]  # fmt: skip
    run = DPORun.in_memory({"settings": {"beta": 0.5}}, rows=HELD_OUT.in_memory(rows))
    assert (DISPLACEMENT in run.warnings) is named
    value = {when: v for when, v in zip(("b", "a", "c"), run.measured["margin"], strict=True)}
    assert value["a"].value == pytest.approx(0.5 * (fall + 6), abs=0.15)
    assert run.measured["preference"][0].value == 1.0  # short ones are likelier
    assert run.measured["preference_per_token"][0].value == 0.0
    keys = {finding.id: finding.key for finding in run.findings}
    assert keys["rejected"] == "below" and keys["margin"] == "above"
    assert keys["chosen"] == ("below" if named else "above")


BAD = {
    "ratings": (
        [{"prompt": "a", "completion": "b", "score": 1}],
        "Make pairs of them first: probekit data pairs",
    ),
    "labels": ([{"text": "a", "label": "b"}], "holds label rows, expected pairs"),
    "alike": (
        [{"id": f"r{k}", "prompt": f"{k}", "chosen": "x", "rejected": "y" if k else "x "} for k in range(3)],
        "chosen and rejected are the same text, in row r0. Expected sides",
    ),
    "many alike": (
        [{"prompt": f"{k}", "chosen": "x", "rejected": "x"} for k in range(7)],
        "in row row-000001, row-000002, row-000003, row-000004, row-000005 and 2 more",
    ),
    "one group": ([{**row, "group": "g"} for row in planted(6)], "1 group in all, expected two or more"),
    "long": (
        [{**row, "prompt": "x" * 80} for row in planted(4)],
        "no pair is left within 64 tokens (4 prompt too long)",
    ),
    "alike where they are cut": (
        [{"prompt": "q", "chosen": "x" * 70 + end, "rejected": "x" * 70} for end in "ab"],
        "(2 alike up to --max-tokens)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_rows_that_teach_nothing_are_one_line(tiny_llama, tmp_path, capsys, name):
    rows, message = BAD[name]
    data, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    command = ["dpo", "--model", tiny_llama, "--data", data, "--out", out, "--max-tokens", "64"]
    assert run_command(*command) == 1
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("error: ") and message in shown
    assert not out.exists() and not out.with_name("out.partial").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out": 0.0}, "held_out: got 0.0, expected more than 0"),
        ({"held_out": 1.0}, "held_out: got 1.0, expected less than 1"),
        ({"beta": float("nan")}, "beta: got nan"),
        ({"loss": "sigmoi"}, "Did you mean sigmoid"),
        ({"loss": "exo_pair"}, "exo_pair needs some"),
        ({"label_smoothing": 0.1}, "sigmoid has none"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ModelError, match=message):
        DPOConfig(**settings)


def test_a_gradient_that_is_not_finite_ends_the_run(tiny_llama, tmp_path):
    loaded = load_model(str(tiny_llama), dtype="float32")
    pairs, _ = read_pairs(open_dataset(planted(8)), loaded, 64)
    policy = Policy(loaded, rank=2)
    policy.masters.set([torch.full_like(weight, float("inf")) for weight in policy.masters.all])
    with pytest.raises(ModelError, match="loss or gradient are not finite"):
        learn(policy, pairs, DPOConfig(steps=1, batch=2), tmp_path, print)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_the_split_keeps_groups_whole_and_no_part_empty(tiny_llama, share):
    loaded = load_model(str(tiny_llama), dtype="float32")
    rows = [{**row, "group": f"g{k % 7}"} for k, row in enumerate(planted(21))]
    dataset = open_dataset(rows)
    check_pairs(dataset)
    pairs, _ = read_pairs(dataset, loaded, 64)
    train, held_out = split_pairs(pairs, share, seed=3)
    groups = [{pair.example.group for pair in part} for part in (train, held_out)]
    assert not groups[0] & groups[1] and all(groups) and len(train) + len(held_out) == 21
    with pytest.raises(DataError, match="1 group in all"):
        split_pairs(pairs[::7], share, seed=3)


def test_a_template_with_a_header_is_trained_on_with_it(tmp_path):
    """An empty think block that the template prints before answers is what the model writes itself."""
    folder = save_tiny(tmp_path / "model")
    loaded = load_model(str(folder), dtype="float32")
    loaded.tokenizer.chat_template = loaded.tokenizer.chat_template.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' %}<think></think>{% endif %}{{ m['content'] }}",
    )
    pairs, _ = read_pairs(open_dataset(planted(4)), loaded, 64)
    for pair in pairs:
        trl = pair.to_trl()
        text = loaded.tokenizer.decode(trl["chosen_ids"])
        assert text == "<think></think>" + (pair.example.completion or "") + "<|im_end|>"
        assert loaded.tokenizer.decode(trl["prompt_ids"]).endswith("assistant\n")


def test_without_trl_one_line_says_how_to_get_it(tiny_llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("probekit.rl.trl_guard.version", lambda name: "1.15.2")
    data = write(tmp_path / "pairs.jsonl", planted(4))
    command = ["dpo", "--model", tiny_llama, "--data", data, "--out", tmp_path / "out"]
    assert run_command(*command) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: dpo: found TRL 1.15.2") and "pip install -e '.[trl]'" in shown
    assert shown.count("\n") == 1 and not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="train_dpo: found TRL 1.15.2"):
        pk.train_dpo(str(tiny_llama), planted(4), tmp_path / "out")


@pytest.mark.parametrize("steps", [1, 10])
def test_every_step_learns_at_the_rate_of_the_schedule(tiny_llama, tmp_path, steps):
    """Up over a share of the steps, then down in a line; a run of one step changes the model too."""
    found = pk.train_dpo(
        str(tiny_llama), planted(12), tmp_path / "out", steps=steps, batch=2, rank=2, warmup=0.2,
        learning_rate=1e-2,
    )  # fmt: skip
    wanted = [1.0] if steps == 1 else [0.5, 1, 1, *(1 - k / 8 for k in range(1, 8))]
    assert found.history["learning_rate"].tolist() == pytest.approx([1e-2 * w for w in wanted])
    rows = found.rows
    assert (rows["chosen_after"] != rows["chosen_before"]).all()
