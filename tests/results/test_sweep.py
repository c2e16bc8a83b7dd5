"""A fit read back: frames against the raw files, what is told apart, one line for what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from probekit import open_run
from probekit.container import write_json
from probekit.errors import ProbeError
from tests.reports.factory import Made, write_fit

KINDS = ("label", "rating", "pair")
TAGS = {"source": ("wiki", "books", "news")}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_hold_every_number_of_the_files(tmp_path: Path, kind: str) -> None:
    folder = write_fit(tmp_path / "fit", Made(kind, layers=3, n=20, nulls=True, tags=TAGS))
    record = json.loads((folder / "sweep.json").read_text())
    run = open_run(folder)
    metrics = run.metrics.set_index(
        [*run.metrics.columns[:7], "split", "control", "part", "measure"]
    )
    assert metrics.index.is_unique
    raw = [value for row in record["rows"] for value in row["choose"].values()]
    chosen = run.metrics.query("split == 'choose' and control == ''")
    expected = [[math.nan if end is None else end for end in value.values()] for value in raw]
    np.testing.assert_array_equal(chosen[["value", "low", "high"]], expected)
    for name, control in record["controls"].items():
        assert run.value(name).value == pytest.approx(
            control[record["primary"]]["value"] or math.nan, nan_ok=True
        )
    part = run.chosen["report", "", "source=wiki"]
    assert {k: v.high for k, v in part.items() if v.known} == {
        k: v["high"] for k, v in record["by_tag"]["source"]["wiki"].items() if v["high"] is not None
    }
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert run.rows["score"].tolist() == [row["score"] for row in rows]
    assert run.rows["tag:source"].tolist() == [row["tags"]["source"] for row in rows]


@pytest.mark.parametrize(("kind", "n"), [("pair", 50), ("rating", 30), ("label", 7), ("label", 1)])
def test_examples_are_ranked_by_how_well_they_are_read(tmp_path: Path, kind: str, n: int) -> None:
    folder = write_fit(tmp_path / "fit", Made(kind, layers=2, n=n))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    merit = {}
    for row in rows:
        if kind == "pair":
            sign = 1 if row["side"] == "chosen" else -1
            merit[row["id"]] = merit.get(row["id"], 0.0) + sign * row["score"]
        elif kind == "rating":
            merit[row["id"]] = -abs(row["prediction"] - row["target"])
        else:
            merit[row["id"]] = row["prediction"] if row["target"] else 1 - row["prediction"]
    found = open_run(folder).examples
    assert found["id"].tolist() == sorted(merit, key=lambda key: -merit[key])
    assert found["merit"].tolist() == pytest.approx(sorted(merit.values(), reverse=True))


def test_pairs_with_the_same_id_stay_apart(tmp_path: Path) -> None:
    folder = write_fit(tmp_path / "fit", Made("pair", layers=2, n=6))
    merits = open_run(folder).examples["merit"].tolist()
    for index in range(6):
        _text("predictions.jsonl", lambda text, i=index: text.replace(f"row-{i}", "same"))(folder)
    assert open_run(folder).examples["merit"].tolist() == merits


def _edit(fit: Path, change: object) -> None:
    record = json.loads((fit / "sweep.json").read_text(encoding="utf-8"))
    change(record)  # type: ignore[operator]
    write_json(fit / "sweep.json", record)


def _set(**keys: object) -> object:
    return lambda fit: _edit(fit, lambda record: record.update(keys))


def _text(name: str, change: object) -> object:
    return lambda fit: (fit / name).write_text(change((fit / name).read_text()))  # type: ignore[operator]


BREAKS = {
    "predictions.jsonl: missing": lambda fit: (fit / "predictions.jsonl").unlink(),
    ": not JSON": _text("sweep.json", lambda text: text[: len(text) // 2]),
    "got a list, expected an object": _text("sweep.json", lambda text: "[]"),
    "format is 'other.tool', expected 'probekit.sweep'": _set(format="other.tool"),
    "version is 2, this probekit reads up to 1. Upgrade": _set(format_version=2),
    "format_version is None": _set(format_version=None),
    "did not finish": _set(complete=False),
    "rows holds a value": _set(rows=[]),
    "key 'controls' is missing": lambda fit: _edit(fit, lambda record: record.pop("controls")),
    "wrong type: got 3": _set(rows=3),
    "should be 'label', 'rating' or 'pair'": _set(data_kind="image"),
    "has 21 rows, expected 24": _text("predictions.jsonl", lambda text: text.split("\n", 3)[-1]),
    "predictions.jsonl:24: not a prediction row": _text("predictions.jsonl", lambda text: text[:-40]),
    "key 'id' is missing": _text("predictions.jsonl", lambda text: text.replace('"id"', '"name"', 1)),
    "predictions.jsonl:1: not a prediction row": _text("predictions.jsonl", lambda text: "7\n" + text),
}  # fmt: skip


@pytest.mark.parametrize("message", BREAKS)
def test_a_bad_directory_gives_one_line(tmp_path: Path, message: str) -> None:
    fit = write_fit(tmp_path / "fit", Made("pair", layers=2, positions=("mean",), n=12))
    BREAKS[message](fit)
    with pytest.raises(ProbeError) as caught:
        open_run(fit).rows  # noqa: B018 - read when it is asked for
    assert message in str(caught.value) and "\n" not in str(caught.value)
