"""`probekit study`: a chain of commands that runs once, goes on, and overwrites only its own."""

from __future__ import annotations

import json

import pytest

from probekit.studies import knowledge_awareness
from probekit.studies.stages import Stage
from tests.cli.test_cli import rows, run


@pytest.fixture
def small(tiny_llama, tmp_path, monkeypatch):
    """The study cut down to two commands on a tiny model."""
    data = rows(tmp_path / "rows.jsonl", "pair")

    def plan(out, *, model, seed, quick, samples, extra):
        cache = ["cache", "--data", str(data), "--positions", "mean", "--model", model, *extra]
        fit = ["fit", str(out / "acts.h5"), "--seed", str(seed)]
        return [
            Stage("cache", lambda: [*cache, "--out", str(out / "acts.h5")], out / "acts.h5", resumes=True),
            Stage("fit", lambda: [*fit, "--out", str(out / "fit")], out / "fit", "sweep.json"),
        ]  # fmt: skip

    def report(folder, *, force):
        (folder / "report.html").write_text("<html></html>")
        return folder / "report.html"

    monkeypatch.setattr(knowledge_awareness, "plan", plan)
    monkeypatch.setattr("probekit.reports.write_study_report", report, raising=False)
    return ["study", "knowledge-awareness", "--model", tiny_llama, "--out", tmp_path / "study"]


def test_stages_run_in_order_and_are_skipped_when_done(small, capsys):
    out = small[-1]
    assert run(*small, "--device", "cpu") == 0
    shown = capsys.readouterr().err
    assert f"[1/2] probekit cache --data {out.parent}/rows.jsonl" in shown
    stages = json.loads((out / "study.json").read_text())["stages"]
    assert [(s["name"], s["state"]) for s in stages] == [("cache", "done"), ("fit", "done")]
    assert "--device" in stages[0]["argv"] and stages[0]["seconds"] > 0
    made = (out / "acts.h5").stat().st_mtime_ns, (out / "fit/sweep.json").stat().st_mtime_ns
    assert run(*small, "--device", "cpu", "--json") == 0
    shown = capsys.readouterr()
    assert shown.err.count("is done") == 2 and json.loads(shown.out)["stages"] == ["cache", "fit"]
    assert made == (
        (out / "acts.h5").stat().st_mtime_ns,
        (out / "fit/sweep.json").stat().st_mtime_ns,
    )


def test_another_study_is_not_begun_in_its_place(small, capsys, monkeypatch, tmp_path):
    out = small[-1]
    assert run(*small, "--json") == 0
    assert json.loads(capsys.readouterr().out)["stages"] == ["cache", "fit"]
    known = (out / "study.json").read_bytes()
    for more, said in (
        (["--seed", "1"], "is a study with seed 0, now 1"),
        (["--quick"], "is a study with quick False, now True"),
        (["--samples", "2"], "is a study with samples None, now 2"),
        (["--model", "other"], "now 'other'. Choose another --out, or pass --force"),
    ):
        assert run(*small, *more) == 1
        assert said in capsys.readouterr().err
    assert (out / "study.json").read_bytes() == known
    # The same directory by another path, on as many threads as there are now.
    monkeypatch.chdir(tmp_path)
    assert run(*small[:-1], "study", "--threads", "1") == 0
    assert capsys.readouterr().err.count("is done") == 2
    (out / "study.json").write_text("{")
    assert run(*small) == 1
    assert "study.json: can not be read" in capsys.readouterr().err


def test_a_failed_stage_is_named_and_the_next_run_goes_on_there(small, capsys, monkeypatch):
    out = small[-1]
    with monkeypatch.context() as patch:
        patch.setattr("probekit.probes.fit_sweep", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*small)
    stages = json.loads((out / "study.json").read_text())["stages"]
    assert [(s["name"], s["state"]) for s in stages] == [("cache", "done"), ("fit", "failed")]
    assert run(*small) == 0
    assert capsys.readouterr().err.count("is done") == 1


def test_bad_input_is_one_line_and_foreign_directories_stay(small, capsys):
    out = small[-1]
    assert run("study", "nothing", *small[2:]) == 1
    assert "study 'nothing': unknown. Expected knowledge-awareness." in capsys.readouterr().err
    out.mkdir()
    (out / "mine").write_text("mine")
    for more in ([], ["--force"]):
        assert run(*small, *more) == 1
        assert (out / "mine").read_text() == "mine"
    assert "already exists" in capsys.readouterr().err
