"""`probekit rl` as a user meets it."""

from __future__ import annotations

import json

import pytest

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
        "behaviour followed", "score only", "nothing moved", "score fell"
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
        "group 1": rl(pairs, out, "--group", "1"),
        "balance 'side'": rl(pairs, out, "--balance", "side"),
        "target 'best'": rl(pairs, out, "--target", "best"),
        "LoRA targets": rl(pairs, out, "--lora-targets", "nowhere"),
        "holds no chosen scores by tag 'x'": rl(pairs, out, "--target-tag", "x"),
        "no such file": rl(pairs, out, "--prompts", tmp_path / "none.jsonl"),
        "already exists": rl(pairs, tmp_path / "there"),
        "behaviour 'lies': is no category": rl(
            pairs, out, "--behaviours", "sentiment", "--behaviour", "lies"
        ),
        "two or more": rl(pairs, out, "--limit", "1"),
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
    assert "<script" in text and "Last, step 2" in text
    assert "2 of 2 steps" in text and "The run is not finished" not in text
