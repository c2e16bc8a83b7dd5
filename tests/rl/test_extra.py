"""Further rewards: what they count, and the interface they are called by."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.data.rows import Example, Message
from probekit.errors import ModelError
from probekit.rl.extra import ExtraReward, Written, repetition

PROMPTS = [
    Example(f"p{i}", f"p{i}", (Message("user", "say"),), tags={"class": name})
    for i, name in enumerate(["a", "b", "a"])
]
WRITTEN = Written(PROMPTS, ["Certainly!", "no", ""], [[5, 6, 5, 6, 5], [7, 2], [2]])
CALLS = []


def share(prompts, completions, completion_ids, **columns):
    CALLS.append((prompts, completions, completion_ids, columns))
    return [0.5, None, -1]


def broken(**columns):
    raise KeyError("no such thing")


def short(**columns):
    return [1.0]


@pytest.mark.parametrize(
    ("spec", "weight", "values"),
    [
        ("length=-0.01", -0.01, [5, 2, 1]),
        ("repetition=-1", -1.0, [0.5, 0.0, 0.0]),
        ("pattern:^certainly=2", 2.0, [1, 0, 0]),
        ("pattern:a=b|n.t?=1", 1.0, [1, 1, 0]),
        (f"{__name__}:share=0.3", 0.3, [0.5, 0.0, -1.0]),
    ],
)
def test_what_a_reward_counts(spec, weight, values):
    reward = ExtraReward.parse(spec, allow_code=True)
    assert reward.weight == weight
    np.testing.assert_allclose(reward(WRITTEN), values)


def test_a_function_is_called_as_trl_calls_it():
    CALLS.clear()
    ExtraReward.parse(f"{__name__}:share=1", allow_code=True)(WRITTEN)
    prompts, completions, ids, columns = CALLS[0]
    assert prompts[0] == [{"role": "user", "content": "say"}]
    assert completions[1] == [{"role": "assistant", "content": "no"}]
    assert ids == [[5, 6, 5, 6, 5], [7, 2], [2]]
    assert columns == {"class": ["a", "b", "a"]}


def test_repetition_by_hand():
    assert repetition([1, 2, 3, 4]) == 0.0
    assert repetition([1, 1, 1, 1]) == pytest.approx(2 / 3)
    assert repetition([1]) == 0.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("length", "expected NAME=WEIGHT"),
        ("length=much", "expected NAME=WEIGHT"),
        ("length=nan", "expected NAME=WEIGHT"),
        ("=1", "expected NAME=WEIGHT"),
        ("speed=1", "reward 'speed': unknown"),
        ("pattern:(=1", "not a regular expression"),
        ("nowhere:share=1", "cannot be imported"),
    ],
)
def test_what_cannot_be_read_is_refused(spec, message):
    with pytest.raises(ModelError, match=message):
        ExtraReward.parse(spec, allow_code=True)


@pytest.mark.parametrize(
    ("name", "message"), [("broken", "raised KeyError"), ("short", r"returned shape \(1,\)")]
)
def test_a_function_that_fails_is_named(name, message):
    with pytest.raises(ModelError, match=message):
        ExtraReward.parse(f"{__name__}:{name}=1", allow_code=True)(WRITTEN)
