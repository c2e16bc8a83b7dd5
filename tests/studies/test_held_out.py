"""Prompts are divided as a fit was, by group."""

from __future__ import annotations

import json

import numpy as np
import pytest

from probekit.probes import Probe
from probekit.rl.head_data import HeadData
from tests.cli.test_cli import rows, run


@pytest.fixture
def fitted(tiny_llama, tmp_path):
    data = rows(tmp_path / "rows.jsonl", "pair", n=40)
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", tmp_path / "acts.h5"]
    assert run(*cache, "--positions", "mean") == 0
    assert run("fit", tmp_path / "acts.h5", "--out", tmp_path / "fit", "--stratify", "half") == 0
    return tmp_path


def test_held_out_are_the_groups_of_the_report_split(fitted, capsys):
    ask = [{"prompt": f"Q{i}-{k}?", "group": f"g{i}"} for i in range(45) for k in range(2)]
    (fitted / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ask))
    out = fitted / "prompts"
    command = ["data", "split", "--probe", fitted / "fit", "--prompts", fitted / "p.jsonl"]
    assert run(*command, "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    task = HeadData.open(fitted / "fit", Probe.load(fitted / "fit")).task
    report = set(np.unique(task.groups[task.splits.report]).tolist())
    parts = {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "held_out")
    }
    assert {row["group"] for row in parts["held_out"]} == report
    every = set(np.unique(task.groups).tolist())
    assert {row["group"] for row in parts["train"]} == every - report
    assert told["train"] == len(parts["train"]) == 2 * len(every - report)
    assert told["left_out"] == 90 - 2 * len(every) > 0
    assert run(*command, "--out", out) == 1


def test_prompts_of_none_of_its_groups_are_one_line(fitted, capsys):
    (fitted / "p.jsonl").write_text(json.dumps({"prompt": "Who?", "group": "else"}) + "\n")
    command = ["data", "split", "--probe", fitted / "fit", "--prompts", fitted / "p.jsonl"]
    assert run(*command, "--out", fitted / "prompts") == 1
    assert "none is left for train.jsonl" in capsys.readouterr().err
    assert not (fitted / "prompts").exists()
