"""Coefficients as people write them, and the conditions they make."""

from __future__ import annotations

import pytest

from probekit.errors import SteeringError
from probekit.results.steer import BASELINE, Condition
from probekit.steering import SteerConfig
from probekit.steering.grid import conditions, parse_coeffs


@pytest.mark.parametrize(
    ("text", "coeffs"),
    [
        ("-8:8:2", [-8, -6, -4, -2, 0, 2, 4, 6, 8]),
        ("-0.3:0.3:0.1", [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        ("0.5", [0, 0.5]),
        (" 0.4, -0.4 ", [-0.4, 0, 0.4]),
        ("1:3:1.5,7", [0, 1, 2.5, 7]),
        ("-1e-1,.5,+2.", [-0.1, 0, 0.5, 2]),
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_ranges_hold_both_ends_and_exact_decimals_and_always_0(text, coeffs):
    assert parse_coeffs(text) == coeffs
    assert "-0.0" not in map(str, parse_coeffs(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" , ", "is empty"),
        ("0", "names no strength but 0"),
        ("strong", "'strong' is not a finite number"),
        ("-8:8", "'-8:8' has no step"),
        ("8:-8:2", "low first and the step above 0"),
        ("-1:1:0", "the step above 0"),
        ("-1:1:-0.5", "the step above 0"),
        ("nan", "'nan' is not a finite number"),
        ("1e999", "all finite"),
        ("-1:1:0.001", "Take a larger step"),
        ("-1:1e999:1", "Take a larger step"),
    ],
)
def test_a_malformed_grid_is_one_line(text, message):
    with pytest.raises(SteeringError, match=message) as error:
        SteerConfig(coeffs=text)
    assert "\n" not in str(error.value)


def test_every_direction_is_taken_through_every_strength_and_ablated():
    found = conditions("add", [-1.0, 0.0, 1.0, 2.0], ["random-01", "random-02"])
    assert found[0] == BASELINE
    for direction in ("probe", "random-01", "random-02"):
        own = [c for c in found if c.direction == direction]
        assert [c.coeff for c in own] == [-1.0, 1.0, 2.0, None]
        assert own[-1] == Condition(direction, "ablate", None)
    assert len({c.name for c in found}) == len(found) == 13


def test_clamping_to_0_is_a_strength_and_ablating_has_none():
    assert Condition("probe", "clamp", 0.0) in conditions("clamp", [0.0, 1.0], [])
    assert conditions("ablate", [0.0], ["random-01"])[1:] == [
        Condition("probe", "ablate", None),
        Condition("random-01", "ablate", None),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "twist"}, "mode: got 'twist', expected add, ablate or clamp"),
        ({"where": "last"}, "not known while the model still writes"),
        ({"random_controls": -1}, "random_controls: got -1, expected 0 or more"),
        ({"damage_bound": 1.0}, "damage_bound: got 1.0, expected more than 1"),
        ({"rerank_coeff": 0.0}, "rerank_coeff: got 0.0, expected more than 0"),
        ({"rerank_prompts": 0}, "rerank_prompts: got 0, expected 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SteeringError, match=message):
        SteerConfig(**options)
