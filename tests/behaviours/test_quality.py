"""Precision and recall against scikit-learn's, and the labelled completions of the project."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from probekit.behaviours import Behaviours, measure_quality
from probekit.behaviours.quality import read_labelled
from probekit.errors import BehaviourError

LABELLED = resources.files("probekit.behaviours") / "labelled_knowledge_awareness.jsonl"


def rows(split=None):
    found = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    return [row for row in found if split in (None, row["split"])]


def test_there_are_enough_labels_and_each_completion_is_in_one_split():
    assert len(rows("test")) >= 200
    assert len({(row["prompt"], row["completion"]) for row in rows()}) == len(rows())
    assert {row["label"] for row in rows("test")} == {"hedges", "refuses", "answers", "other"}


def test_figures_are_those_of_scikit_learn():
    behaviours = Behaviours.load("knowledge-awareness")
    own = rows("test")
    truth = [row["label"] for row in own]
    found = [behaviours.classify(row["prompt"], row["completion"]) for row in own]
    accuracy, table = measure_quality(behaviours, own)
    assert accuracy.value == pytest.approx(accuracy_score(truth, found))
    precision, recall, _, support = precision_recall_fscore_support(
        truth, found, labels=behaviours.names
    )
    for i, name in enumerate(behaviours.names):
        assert table[name].precision.value == pytest.approx(precision[i])
        assert table[name].recall.value == pytest.approx(recall[i])
        assert table[name].recall.n == support[i]
        assert table[name].recall.low < table[name].recall.value < table[name].recall.high


def test_the_rates_that_matter_can_be_told_apart():
    """The figures themselves stand in docs/behaviours.md, where a test compares them."""
    _, table = measure_quality(Behaviours.load("knowledge-awareness"), rows("test"))
    assert table["hedges"].recall.value > 0.8
    assert table["answers"].precision.value > 0.8


def test_rows_that_cannot_be_judged_are_refused(tmp_path):
    behaviours = Behaviours.load("knowledge-awareness")
    with pytest.raises(BehaviourError, match="label 'lies': is no category"):
        measure_quality(behaviours, [{"prompt": "a", "completion": "b", "label": "lies"}])
    with pytest.raises(BehaviourError, match="there are none"):
        measure_quality(behaviours, [])
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(BehaviourError, match="rows.jsonl:1: has no label"):
        read_labelled(str(tmp_path / "rows.jsonl"))


def test_the_docs_state_what_is_measured():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "behaviours.md").read_text(encoding="utf-8")
    accuracy, table = measure_quality(Behaviours.load("knowledge-awareness"), rows("test"))

    def words(share):
        return f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}], n = {share.n}"

    for name, quality in table.items():
        assert f"| `{name}` | {words(quality.precision)} | {words(quality.recall)} |" in page
    assert words(accuracy) in page
