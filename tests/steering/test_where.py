"""The same tokens are edited while writing token by token and on the whole text."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.errors import SteeringError
from probekit.models.chat import Rendered
from probekit.steering.where import Where

ROW = Rendered(np.arange(12), start=5, stop=11, turn_end=11)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("both", range(12)),
        ("prompt", range(5)),
        ("generated", range(5, 12)),
        ("all", range(5, 12)),
        ("mean", range(5, 12)),
        ("prompt_end", [4]),
        ("first:3", [5, 6, 7]),
        ("token:0", [5]),
        ("token:2", [7]),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_columns_while_writing_are_the_tokens_of_the_text(name, tokens, padding):
    where = Where.parse(name)
    mask = where.mask([ROW], width=14)[0]
    assert np.flatnonzero(mask).tolist() == list(tokens)
    # Prefill over left padding, then one column a step.
    start = 5 + padding
    steps = [where.columns(start, 0, start)]
    steps += [where.columns(start, start + i, 1) for i in range(7)]
    assert np.concatenate(steps)[padding:].tolist() == mask[:12].tolist()


@pytest.mark.parametrize(("name", "token"), [("last", 10), ("turn_end", 11), ("token:-1", 10)])
def test_rules_from_the_end_need_the_whole_text(name, token):
    where = Where.parse(name)
    assert np.flatnonzero(where.mask([ROW], 12)).tolist() == [token]
    with pytest.raises(SteeringError, match="not known before the completion is whole"):
        where.columns(5, 0, 5)


def test_an_unknown_place_is_refused():
    with pytest.raises(SteeringError, match="where 'everywhere': unknown"):
        Where.parse("everywhere")
