"""The rated demo rows: their ratings are those of the stated rules."""

from __future__ import annotations

from collections import Counter

from benchmarks.demo_ratings import prompts, rating
from probekit.data import open_dataset


def test_the_shipped_ratings_are_those_of_the_rules():
    asked = {row["prompt"]: row["tags"] for row in prompts()}
    assert len(asked) == 150
    rows = list(open_dataset("demo:ratings").examples())
    assert len(rows) >= 600
    assert Counter(row.group for row in rows).most_common()[-1][1] >= 3
    for row in rows:
        assert row.score == rating(row.completion, asked[row.prompt[-1].content]), row.id


def test_rules_by_hand():
    two = {"topic": "cats", "word": "roof", "sentences": "2"}
    assert rating("A cat sat on the roof. It slept.", two) == 10
    assert rating("A cat sat on the roof.", two) == 9  # one sentence short
    assert rating("Sure! A cat sat. On a roof. It slept. So", two) == 1 + 0 + 2 + 1 + 0 + 0 + 1
    assert rating("Dogs bark a lot here. Dogs bark a lot there.", two) == 1 + 2 + 0 + 0 + 2 + 1 + 0
