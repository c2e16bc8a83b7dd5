"""`check` counts what is there and warns of what would spoil a probe."""

from __future__ import annotations

import json

from probekit.data import check, open_dataset


def report(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return check(open_dataset(path))


def test_counts_and_statistics_by_hand(tmp_path):
    rows = [
        {"prompt": f"q{i}", "completion": "x" * (i + 1), "label": i % 2, "tags": {"t": "ab"[i % 2]}}
        for i in range(40)
    ]
    found = report(tmp_path, rows)
    assert (found.kind, found.rows, found.groups) == ("label", 40, 40)
    assert found.classes == {"0": 20, "1": 20}
    assert found.tags == {"t": {"a": 20, "b": 20}}
    assert found.length["all"] == {"mean": 20.5, "median": 20.5, "p95": 38.05, "max": 40.0}
    # Class 1 has lengths 2, 4 .. 40 and class 0 1, 3 .. 39: 210 of 400 pairs are longer.
    assert found.length_auc == 210 / 400
    assert found.warnings == []


def test_every_lint(tmp_path):
    def warned(rows):
        return " | ".join(report(tmp_path, rows).warnings)

    pairs = [{"prompt": f"q{i}", "chosen": "long " * 9, "rejected": "a"} for i in range(30)]
    assert "the chosen side with AUC 1.00" in warned(pairs)
    assert "1 pairs have the same text" in warned(
        [*pairs, {"prompt": "z", "chosen": "a", "rejected": "a"}]
    )
    assert "duplicates: 1 rows" in warned([*pairs, pairs[0]])
    labels = [{"text": f"t{i}", "label": "a"} for i in range(30)]
    assert "every label is 'a'" in warned(labels)
    same = [{"text": "same", "label": i % 2, "group": f"g{i}"} for i in range(30)]
    assert "leaking groups: 1 prompts or texts" in warned(same)
    assert "class '1' with AUC" not in warned(same)
    ratings = [{"text": f"t{i}", "score": 3} for i in range(5)]
    assert "every score is 3" in warned(ratings) and "few groups: 5" in warned(ratings)
