"""`probekit study`: a chain of commands that runs once, goes on, and overwrites only its own."""

from __future__ import annotations

import dataclasses
import json

import pytest

import probekit.studies.knowledge_awareness as declared
from probekit.container import write_json
from probekit.studies import STUDIES, Study
from tests.cli.test_cli import rows, run

TEMPLATE = """{% extends "study.html.j2" %}
{% block title %}Two stages{% endblock %}
{% block verdict %}{{ answer }}{% endblock %}
"""


@pytest.fixture
def small(tiny_llama, tmp_path, monkeypatch):
    """The study cut down to two commands on a tiny model."""
    data = rows(tmp_path / "rows.jsonl", "pair")
    template = tmp_path / "small.html.j2"
    template.write_text(TEMPLATE)

    def stages(s):
        cache = s.stage(
            "cache", "cache", "--data", data, "--positions", "mean", *s.with_model, output="acts.h5"
        )
        s.stage("fit", "fit", cache, *s.with_seed)

    study = Study(
        "knowledge-awareness", stages, declared.FULL, declared.QUICK, template,
        lambda run: {"answer": f"<{len(run.stages)} stages>"},
    )  # fmt: skip
    monkeypatch.setattr(declared, "STUDY", study)
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
    assert "study.json: not JSON" in capsys.readouterr().err


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
    assert f"study 'nothing': unknown. Expected {', '.join(STUDIES)}." in capsys.readouterr().err
    out.mkdir()
    (out / "mine").write_text("mine")
    for more in ([], ["--force"]):
        assert run(*small, *more) == 1
        assert (out / "mine").read_text() == "mine"
    assert "already exists" in capsys.readouterr().err


def test_force_through_a_link_begins_the_study_again_and_keeps_what_others_put_there(
    small, tmp_path, capsys
):
    out = small[-1]
    assert run(*small) == 0
    (out / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(out)
    made = (out / "acts.h5").stat().st_mtime_ns
    capsys.readouterr()
    assert run(*small[:-1], tmp_path / "link", "--force") == 0
    assert "is done" not in capsys.readouterr().err
    assert (out / "acts.h5").stat().st_mtime_ns > made and (tmp_path / "link").is_symlink()
    assert (out / "notes.txt").read_text() == "mine"


def test_the_page_is_the_studys_own_template_and_links_its_stages(small, capsys, tmp_path):
    out = small[-1]
    assert run(*small) == 0
    page = (out / "report.html").read_text()
    assert "<h1><bdi>Two stages</bdi></h1>" in page and "&lt;2 stages&gt;" in page
    assert '<a href="fit/report.html">fit</a>' in page and (out / "fit/report.html").is_file()
    assert "<code>probekit fit acts.h5 --seed 0 --out fit</code>" in page
    assert "A quick run" not in page
    capsys.readouterr()
    (tmp_path / "pages").mkdir()
    assert run("report", out, "--out", tmp_path / "pages/page.html") == 0
    assert 'href="../study/fit/report.html"' in (tmp_path / "pages/page.html").read_text()
    # Another study is not begun in its place, and one that this probekit lacks has no page.
    record = json.loads((out / "study.json").read_text())
    write_json(out / "study.json", {**record, "study": "gone"})
    assert run(*small) == 1
    assert "is a study with study 'gone', now 'knowledge-awareness'" in capsys.readouterr().err
    assert run("report", out, "--force") == 1
    assert "study 'gone': unknown" in capsys.readouterr().err


def test_samples_are_refused_where_a_study_draws_none(small, capsys, monkeypatch):
    study = dataclasses.replace(declared.STUDY, full=None, quick=None)
    monkeypatch.setattr(declared, "STUDY", study)
    assert run(*small, "--samples", "2") == 1
    assert "got --samples 2, expected none" in capsys.readouterr().err and not small[-1].exists()


def test_help_names_every_study(capsys):
    assert run("study", "--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in STUDIES)
