"""A finding's key follows from the interval and the reference alone."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from probekit.results.findings import against, by_key, standing
from probekit.results.intervals import NO_VALUE, Interval


@pytest.mark.parametrize(
    ("value", "reference", "key"),
    [
        (Interval(0.7, 0.6, 0.8), 0.5, "above"),
        (Interval(0.7, 0.6, 0.8), 0.6, "includes"),
        (Interval(0.7, 0.6, 0.8), 0.81, "below"),
        (Interval(0.7), 0.5, "unknown"),
        (NO_VALUE, 0.5, "unknown"),
        (Interval(0.7, 0.6, 0.8), math.nan, "unknown"),
    ],
)
def test_standing(value: Interval, reference: float, key: str) -> None:
    assert standing(value, reference) == key


def test_findings_are_sorted_by_key_in_their_order() -> None:
    value = Interval(0.7, 0.6, 0.8)
    found = by_key(against(str(at), "auroc", value, at) for at in (0.9, 0.1, 0.7, 0.2))
    assert {key: [item.id for item in items] for key, items in found.items()} == {
        "above": ["0.1", "0.2"], "includes": ["0.7"], "below": ["0.9"], "unknown": [],
    }  # fmt: skip


def test_open_run_is_a_public_name_that_costs_nothing() -> None:
    code = (
        "import sys, probekit; assert 'numpy' not in sys.modules; probekit.open_run; "
        "assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
