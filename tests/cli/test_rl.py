"""`probekit rl` as a user meets it."""

from __future__ import annotations

import json
import shutil

import pytest

from probekit.container import write_json
from tests.cli.test_cli import rows, run
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def pairs(tiny_llama, tmp_path_factory):
    """A fit of pairs with a tag, through the command line."""
    folder = tmp_path_factory.mktemp("pairs")
    data = rows(folder / "rows.jsonl", "pair")
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", folder / "a.h5"]
    assert run(*cache, "--positions", "mean", "--dtype", "float32") == 0
    assert run("fit", folder / "a.h5", "--out", folder / "sweep") == 0
    return folder


def rl(folder, out, *more):
    return [
        "rl", "--probe", folder / "sweep", "--prompts", folder / "rows.jsonl", "--out", out,
        "--steps", "2", "--prompts-per-step", "2", "--group", "4", "--max-new-tokens", "5",
        "--eval-every", "1", "--eval-prompts", "6", "--rank", "2", *more,
    ]  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_run_leaves_its_record_metrics_and_adapter(pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        run(
            *rl(
                pairs,
                out,
                "--balance",
                "half",
                "--behaviours",
                "sentiment",
                "--behaviour",
                "positive",
                "--json",
            )
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [found["first"]["step"], found["last"]["step"]] == [0, 2]
    by_tag = found["last"]["evaluation"]
    assert {"all", "half=True", "half=False"} == set(by_tag)
    assert {"value", "low", "high"} == set(by_tag["all"]["rate:positive"])
    assert [row["step"] for row in lines(out / "metrics.jsonl")] == [1, 2]
    assert [row["step"] for row in lines(out / "evaluations.jsonl")] == [0, 1, 2]
    assert found["goodhart"]["verdict"] in (
        "behaviour followed", "score only", "undecided", "nothing moved", "score fell"
    )  # fmt: skip
    assert [point["step"] for point in found["goodhart"]["points"]] == [0, 1, 2]
    record = json.loads((out / "run.json").read_text())
    assert record["n_train"] + record["n_held_out"] == 60
    assert record["settings"]["balance"] == "half"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (out / "checkpoint" / "adapter" / name).exists()


def test_a_longer_run_is_the_continuation_of_a_shorter_one(pairs, tmp_path, capsys):
    assert run(*rl(pairs, tmp_path / "whole", "--steps", "4")) == 0
    assert run(*rl(pairs, tmp_path / "cut")) == 0
    assert run(*rl(pairs, tmp_path / "cut", "--steps", "4", "--resume")) == 0
    keep = {"step", "score", "reward", "loss", "kl", "grad_norm"}
    a, b = (lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    assert [{k: row[k] for k in keep} for row in a] == [{k: row[k] for k in keep} for row in b]
    assert run(*rl(pairs, tmp_path / "cut", "--rank", "3", "--resume")) == 1
    assert "was started with rank 2, now 3" in capsys.readouterr().err


def test_bad_input_is_one_line_and_leaves_nothing(pairs, tiny_llama, tmp_path, capsys):
    other = save_tiny(tmp_path / "other", "llama", seed=5)
    (tmp_path / "there").mkdir()
    out = tmp_path / "new"
    cases = {
        "is not a probe": rl(pairs, out, "--probe", tmp_path / "there"),
        "weights_fingerprint is": rl(pairs, out, "--model", other),
        "--group: got 1": rl(pairs, out, "--group", "1"),
        "balance 'side'": rl(pairs, out, "--balance", "side"),
        "--target: got 'best'": rl(pairs, out, "--target", "best"),
        "LoRA targets": rl(pairs, out, "--lora-targets", "nowhere"),
        "holds no chosen scores by tag 'x'": rl(pairs, out, "--target-tag", "x"),
        "no such file": rl(pairs, out, "--prompts", tmp_path / "none.jsonl"),
        "already exists": rl(pairs, tmp_path / "there"),
        "behaviour 'lies': is no category": rl(
            pairs, out, "--behaviours", "sentiment", "--behaviour", "lies"
        ),
        "two or more": rl(pairs, out, "--limit", "1"),
        "--max-new-tokens: got 0": rl(pairs, out, "--max-new-tokens", "0"),
        "knows none": rl(pairs, out, "--toward", "ab"),
        "expected NAME=WEIGHT": rl(pairs, out, "--reward", "length"),
        "layer 9": rl(pairs, out, "--ensemble-layers", "9"),
    }
    capsys.readouterr()
    for match, argv in cases.items():
        assert run(*argv) == 1, match
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown.err
        assert match in shown.err, (match, shown.err)
        assert not out.exists(), match
    assert run(*rl(pairs, out, "--force", "--resume")) == 2


def test_a_report_is_drawn_of_a_run(pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*rl(pairs, out)) == 0
    assert run("report", out, "--out", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    assert "<script" in text and "Evaluations after 0 and 2 steps" in text
    assert "2 of 2 steps" in text and "The run is not finished" not in text


def test_an_ensemble_is_refitted_and_evaluated_on_other_prompts(pairs, tmp_path, capsys):
    out, other = tmp_path / "run", tmp_path / "held.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"{'z' * k} now"}) + "\n" for k in range(1, 5)))
    more = ["--ensemble-layers", "0,1", "--ensemble-penalty", "0.5", "--refit-every", "1"]
    more += ["--reward", "length=-0.01", "--held-out", other, "--engine", "embedded"]
    assert run(*rl(pairs, out, *more)) == 0
    record = json.loads((out / "run.json").read_text())
    assert len(record["optimised"]) == 3
    assert record["n_train"] == 60 and record["n_held_out"] == 4
    assert len(record["target"]["chosen"][""]) > 3
    steps = lines(out / "metrics.jsonl")
    assert "refit" not in steps[0] and steps[1]["refit"]["n_outputs"] == 8
    last = lines(out / "evaluations.jsonl")[-1]["evaluation"]["all"]
    assert {"score", "score_first", "disjoint", "drift", "mahalanobis"} <= last.keys()
    page = (out / "report.html").read_text()
    assert "Goodhart" in page
    shown = capsys.readouterr()
    assert "report   " in shown.out and "refit on 8 outputs" in shown.err
    assert run("report", out, "--out", tmp_path / "both.html", "--with", out) in (0, 1)


def test_a_fit_whose_store_is_gone_can_still_be_optimised(pairs, tmp_path, capsys):
    copy = tmp_path / "sweep"
    shutil.copytree(pairs / "sweep", copy)
    record = json.loads((copy / "run.json").read_text())
    record["arguments"]["store"] = str(tmp_path / "gone.h5")
    write_json(copy / "run.json", record)
    command = ["--probe", copy]
    argv = [x for x in rl(pairs, tmp_path / "run") if x not in ("--probe", pairs / "sweep")]
    assert run(*argv, *command) == 0
    last = lines(tmp_path / "run" / "evaluations.jsonl")[-1]["evaluation"]["all"]
    assert "drift" in last and "disjoint" not in last
    capsys.readouterr()
    assert run(*argv, *command, "--refit-every", "1", "--force") == 1
    assert "gone.h5: the store that" in capsys.readouterr().err
