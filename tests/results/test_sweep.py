"""A fit read back: frames against the raw files, and what is told apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from probekit import open_run
from tests.reports.factory import Made, write_fit
from tests.reports.words import jsonl

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
    rows = jsonl(folder / "predictions.jsonl")
    assert run.rows["score"].tolist() == [row["score"] for row in rows]
    assert run.rows["tag:source"].tolist() == [row["tags"]["source"] for row in rows]


@pytest.mark.parametrize(("kind", "n"), [("pair", 50), ("rating", 30), ("label", 7), ("label", 1)])
def test_examples_are_ranked_by_how_well_they_are_read(tmp_path: Path, kind: str, n: int) -> None:
    folder = write_fit(tmp_path / "fit", Made(kind, layers=2, n=n))
    rows = jsonl(folder / "predictions.jsonl")
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
        path = folder / "predictions.jsonl"
        path.write_text(path.read_text().replace(f"row-{index}", "same"))
    assert open_run(folder).examples["merit"].tolist() == merits
