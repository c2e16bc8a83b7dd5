"""The page of `probekit dynamics`, and the run as frames, against the raw files."""

from __future__ import annotations

import json
import math

import pytest

from probekit import open_run
from probekit.reports import write_dynamics_report
from probekit.reports.dynamics import dynamics_words
from tests.reports.dynamics_factory import STEPS, write_dynamics
from tests.reports.words import figures_of, jsonl, plain

FINDINGS = (
    "step", "step and start", "neither", "off the grid", "not reproduced", "nothing trains", "start",
    "scale of the features", "only the projection trains", "only the direct vector trains",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write_dynamics(tmp_path / "run", "adamw", "sgd")


def raw(folder, **keys):
    """Rows of runs.jsonl with these values."""
    return [
        row
        for row in jsonl(folder / "runs.jsonl")
        if all(row[key] == value for key, value in keys.items())
    ]


def test_frames_are_the_files_numbers(folder):
    run = open_run(folder)
    rows = raw(folder)
    assert len(run.rows) == len(rows) == 2 * 5 * 8 * 3
    assert run.rows["choose_loss"][7] == rows[7]["choose_loss"]
    assert run.record == json.loads((folder / "dynamics.json").read_text())
    keys = {"optimizer": "sgd", "parametrisation": "direct", "learning_rate": 0.1}
    losses = [row["choose_loss"][-1] for row in raw(folder, **keys)]
    metrics = run.metrics.set_index([*keys, "step", "measure"])
    found = metrics.loc[(*keys.values(), STEPS[-1], "choose_loss")]
    assert found["value"] == pytest.approx(sum(losses) / 3)
    assert (found["low"], found["high"]) == (min(losses), max(losses))
    broken = metrics.loc[("sgd", "direct", 100.0, STEPS[-1], "loss"), "value"]
    [written, *_] = raw(folder, **keys | {"learning_rate": 100.0})
    assert broken == math.inf and written["loss"][-1] is None


def test_figures_and_tables_show_the_runs(folder):
    page = write_dynamics_report(folder)
    figures = figures_of(page)
    assert list(figures) == ["dynamics-rates", "dynamics-same", "dynamics-steps"]
    best = json.loads((folder / "dynamics.json").read_text())["findings"]["sgd"]["parametrisations"]
    rate = best["projection"]["learning_rate"]
    runs = raw(folder, optimizer="sgd", parametrisation="projection", learning_rate=rate)
    means = [sum(values) / 3 for values in zip(*(run["choose_loss"] for run in runs), strict=True)]
    drawn = [t for t in figures["dynamics-steps"]["data"] if t.get("name") == "projection"]
    assert drawn[-1]["x"] == STEPS and drawn[-1]["y"] == pytest.approx(means)
    lines = plain(page).split("SGD. Best rate")[1].splitlines()
    row = next(line for line in lines if "Projection" in line)
    assert f"{means[-1]:.3f} [{min(r['choose_loss'][-1] for r in runs):.3f}," in row


def test_every_finding_has_its_words(tmp_path):
    record = json.loads((write_dynamics(tmp_path, "adamw") / "dynamics.json").read_text())
    assert record["conclusion"]["by_optimizer"]["adamw"]["finding"] == "step"
    seen = set()
    for key in FINDINGS:
        record["conclusion"]["by_optimizer"]["adamw"]["finding"] = key
        run = open_run(write_dynamics(tmp_path, "adamw", conclusion=record["conclusion"]))
        words = dynamics_words(run)
        assert "adamw" in words["headline"].lower() and "&" not in str(words)
        seen.add(words["headline"])
    assert len(seen) == len(FINDINGS)
