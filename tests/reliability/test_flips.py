"""Flipped and cut artefacts of every kind: the same numbers or one line, never others (short, seeded)."""

from __future__ import annotations

from tests.reliability.flips import OUTCOMES, run


def test_no_flip_and_no_cut_gives_other_numbers_or_a_traceback(tmp_path):
    seen: list[str] = []
    found = run(tmp_path, trials=24, cuts=8, seed=20, seconds=4, tell=seen.append)
    assert len(found) == 12
    assert not [line for line in seen if not line.startswith("|")]
    for name, counts in found.items():
        assert counts["wrong"] == counts["traceback"] == 0, name
        assert sum(counts[key] for key in OUTCOMES) == counts["flips"] + counts["cuts"] > 0
        assert counts["detected"], name
