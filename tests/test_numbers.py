"""Numbers that users write: what is one, and what Python alone would take."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.numbers import in_order, plain_integer, plain_number


@pytest.mark.parametrize(
    "text",
    ["1_000", "١٢", "１", "²", "nan", "inf", "-Infinity", "0x10", "1e999", " ", "1,5", "1e", "--1"],
)
def test_other_text_is_no_number(text):
    assert plain_number(text) is None and plain_integer(text) is None


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**17), 10**17))
def test_every_number_is_read_as_python_writes_it(value):
    assert plain_number(f" {value}\n") == float(value)
    assert plain_number(f"{value:+}") == float(value)
    if isinstance(value, int) or (abs(value) < 1e15 and value == math.floor(value)):
        assert plain_integer(f"{value:.2f}" if isinstance(value, float) else str(value)) == value


@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), unique=True))
def test_numbers_are_ordered_by_what_they_are(values):
    assert [float(name) for name in in_order(map(str, values))] == sorted(map(float, values))
    names = [*map(str, values), "a"]
    assert in_order(names) == sorted(set(names))
