"""Every promise of docs/reliability.md names the tests that hold it."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
LINES = (FOLDER.parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
TESTS = {
    name
    for path in FOLDER.parent.rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
}


def test_every_promise_names_its_test():
    promises = [line for line in LINES if line.startswith("- ")]
    assert len(promises) > 20
    for line in promises:
        named = set(re.findall(r"`(test_\w+)`", line))
        assert named and named <= TESTS, line
