"""Directories that are no output of a fit, partial, damaged or newer: one clear line each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from probekit.errors import OutputError, ProbeError
from probekit.reports import load_sweep, write_sweep_report
from tests.reports.factory import Made, make_sweep, write_fit

SMALL = Made("pair", layers=2, positions=("mean",), n=12)


@pytest.fixture
def fit(tmp_path: Path) -> Path:
    return write_fit(tmp_path / "fit", SMALL)


@pytest.mark.parametrize("kind", ["label", "rating", "pair"])
def test_reads_back_every_number(tmp_path: Path, kind: str) -> None:
    made = Made(kind, layers=3, n=20, nulls=True, tags={"source": ("a", "b")})
    value, predictions = make_sweep(made)
    sweep = load_sweep(write_fit(tmp_path / "fit", made))
    assert sweep.best.value == value["report"][sweep.primary]["value"]
    assert [row.layer for row in sweep.rows] == [row["layer"] for row in value["rows"]]
    for row, raw in zip(sweep.rows, value["rows"], strict=True):
        for name, metric in row.choose.items():
            expected = raw["choose"][name]["value"]
            assert metric.value == expected or (math.isnan(metric.value) and expected is None)
    assert [row.score for row in sweep.predictions] == [row["score"] for row in predictions]
    assert sum(math.isnan(row.choose[sweep.primary].value) for row in sweep.rows) > 0


def _edit(key: str, value: object) -> Callable[[Path], None]:
    def change(fit: Path) -> None:
        path = fit / "sweep.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        if value is KeyError:
            del whole[key]
        else:
            whole[key] = value
        path.write_text(json.dumps(whole), encoding="utf-8")

    return change


def _text(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(fit: Path) -> None:
        path = fit / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return apply


BREAKS = {
    "no sweep.json": (lambda fit: (fit / "sweep.json").unlink(), "has no sweep.json"),
    "no predictions": (lambda fit: (fit / "predictions.jsonl").unlink(), "predictions.jsonl: miss"),
    "cut json": (
        _text("sweep.json", lambda text: text[: len(text) // 2]),
        "sweep.json:1: not JSON",
    ),
    "list": (_text("sweep.json", lambda text: "[]"), "got a list, expected an object"),
    "foreign": (_edit("format", "other.tool"), "format is 'other.tool', expected 'probekit.sweep'"),
    "newer": (_edit("format_version", 2), "version is 2, this probekit reads up to 1. Upgrade"),
    "no version": (_edit("format_version", None), "format_version is None"),
    "not complete": (_edit("complete", False), "did not finish"),
    "no rows": (_edit("rows", []), "has no rows"),
    "missing key": (_edit("controls", KeyError), "key 'controls' is missing"),
    "wrong type": (_edit("rows", 3), "wrong type"),
    "wrong kind": (_edit("data_kind", "image"), "expected label, rating or pair"),
    "lost rows": (
        _text("predictions.jsonl", lambda text: text.split("\n", 3)[-1]),
        "has 21 rows, sweep.json says 24",
    ),
    "cut row": (_text("predictions.jsonl", lambda text: text[:-40]), "predictions.jsonl:24: not a"),
    "row without id": (
        _text("predictions.jsonl", lambda text: text.replace('"id"', '"name"', 1)),
        "predictions.jsonl:1: key 'id' is missing",
    ),
    "row of another type": (
        _text("predictions.jsonl", lambda text: "7\n" + text),
        "predictions.jsonl:1: not a prediction row",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_bad_directory_gives_one_line_and_no_file(fit: Path, name: str) -> None:
    change, message = BREAKS[name]
    change(fit)
    before = sorted(fit.iterdir())
    with pytest.raises(ProbeError) as caught:
        write_sweep_report(fit)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(fit.iterdir()) == before


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="no such directory"):
        write_sweep_report(tmp_path / "nothing")


def test_existing_report_is_kept_unless_forced(fit: Path) -> None:
    path = write_sweep_report(fit)
    assert path == fit / "report.html"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="already exists"):
        write_sweep_report(fit)
    assert path.read_text(encoding="utf-8") == "mine"
    write_sweep_report(fit, force=True)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_out_names_another_file(fit: Path, tmp_path: Path) -> None:
    path = write_sweep_report(fit, out=tmp_path / "deep" / "page.html")
    assert path == tmp_path / "deep" / "page.html"
    assert not (fit / "report.html").exists()
    assert [item.name for item in path.parent.iterdir()] == ["page.html"]


def test_unwritable_places_give_one_line(fit: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="can not be written"):
        write_sweep_report(fit, out=tmp_path / "file" / "deep" / "page.html")
    with pytest.raises(OutputError, match="is a directory"):
        write_sweep_report(fit, out=tmp_path, force=True)


def test_the_run_record_is_optional(fit: Path) -> None:
    (fit / "run.json").unlink()
    assert load_sweep(fit).run == {}
    write_sweep_report(fit)
