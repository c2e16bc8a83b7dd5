"""A second study, of one module and one template, run on the real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probekit.results.runs import open_run
from probekit.studies import STUDIES
from tests.cli.test_cli import run
from tests.reports.golden import page_text

HERE = Path(__file__).parent


def test_a_study_is_small():
    files = (HERE / "praise.py", HERE / "praise.html.j2")
    assert sum(len(file.read_text().splitlines()) for file in files) < 120


@pytest.mark.real_model
def test_another_study_runs_and_has_a_page(real_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(STUDIES, "praise", "tests.studies.praise")
    out = tmp_path / "out"
    command = ["study", "praise", "--quick", "--model", real_model, "--out", out, "--json"]
    assert run(*command) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["stages"] == ["cache", "fit", "steer"] and done["path"] == str(out / "report.html")
    said = page_text((out / "report.html").read_text()).replace("\N{MINUS SIGN}", "-")
    sweep = json.loads((out / "fit/sweep.json").read_text())
    auroc = sweep["report"]["auroc"]
    assert f"AUROC {auroc['value']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}]" in said
    steer = json.loads((out / "steer/steer.json").read_text())
    slope = steer["doses"]["score"]["slope"]
    assert f"{slope['value']:+.2f} [{slope['low']:+.2f}, {slope['high']:+.2f}]" in said
    rates = [
        row["values"]["rate:positive"]["value"]
        for row in sorted(steer["conditions"], key=lambda row: row["coeff"] or 0)
        if row["direction"] in ("none", "probe") and row["mode"] in ("none", "add")
    ]
    (drawn,) = [
        json.loads(line) for line in said.splitlines()
        if line.startswith("{") and json.loads(line).get("name") == "positive"
        and json.loads(line).get("customdata")
    ]  # fmt: skip
    assert drawn["y"] == pytest.approx(rates, rel=1e-3) and drawn["x"] == [-0.1, 0.0, 0.1]
    assert "A quick run: it shows that every stage works" in said
    assert "probekit steer --probe" in said and str(out) not in said  # no folder of the user's
    # Nothing runs twice, and the directory opens as data and draws again.
    assert run(*command) == 0
    assert capsys.readouterr().err.count("is done") == 3
    opened = open_run(out)
    assert opened.stages["name"].tolist() == ["cache", "fit", "steer"]
    metrics = opened.metrics.query("stage == 'fit' and measure == 'auroc' and split == 'report'")
    assert metrics["value"].iloc[0] == pytest.approx(auroc["value"])
    assert run("report", out, "--out", tmp_path / "again.html") == 0
    links = 'href="out/fit/report.html"', 'href="out/steer/report.html"'
    assert all(link in (tmp_path / "again.html").read_text() for link in links)
