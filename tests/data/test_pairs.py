"""Pairs of ratings: the best against the worst of each prompt."""

from __future__ import annotations

import json

import numpy as np
import pytest

from probekit.data.open import open_dataset
from probekit.data.pairs import pairs_of_ratings
from probekit.errors import DataError
from probekit.verify import verify
from tests.cli.test_cli import run


def rating(prompt, completion, score, **more):
    return {"prompt": prompt, "completion": completion, "score": score, **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_ends_of_every_prompt_are_paired(rng):
    """Against a table of all ratings, in any order of the rows."""
    scores = {p: rng.choice(1000, size=int(rng.integers(2, 6)), replace=False) for p in "abcdefgh"}
    rows = [
        rating(f"q {p}", f"{p}{k}", float(s), group=f"g {p}", tags={"kind": p, "k": str(k)})
        for p, several in scores.items()
        for k, s in enumerate(several)
    ]
    rng.shuffle(rows)
    made = pairs_of_ratings(open_dataset(rows))
    found = {row["group"]: row for row in made.rows}
    assert made.n_prompts == len(found) == 8 and not made.without
    for p, several in scores.items():
        row = found[f"g {p}"]
        assert row["chosen"] == f"{p}{np.argmax(several)}"
        assert row["rejected"] == f"{p}{np.argmin(several)}"
        assert row["prompt"] == [{"role": "user", "content": f"q {p}"}]
        assert row["tags"] == {"kind": p}  # of the two rows' tags the one that both have
    sides = list(open_dataset(made.rows).examples())
    assert [side.group for side in sides[::2]] == [row["group"] for row in made.rows]


def test_two_prompts_of_a_group_are_not_compared():
    """A group keeps what belongs together out of two splits; it is not one question."""
    rows = [rating(p, f"{p}{k}", k + 10 * (p == "b"), group="g") for p in "ab" for k in range(3)]
    made = pairs_of_ratings(open_dataset(rows))
    assert [(row["chosen"], row["rejected"]) for row in made.rows] == [("a2", "a0"), ("b2", "b0")]
    assert {row["group"] for row in made.rows} == {"g"}


def test_prompts_without_a_pair_are_counted_by_reason(tmp_path, capsys):
    rows = [
        rating("one", "x", 1), rating("tie", "x", 2), rating("tie", "y", 2),
        rating("near", "x", 2), rating("near", "y", 2.4), rating("far", "x", -1), rating("far", "y", 7),
        rating("same", "x", 1), rating("same", "x ", 5),
    ]  # fmt: skip
    data, out = write(tmp_path / "r.jsonl", rows), tmp_path / "pairs.jsonl"
    assert run("data", "pairs", "--data", data, "--out", out, "--min-gap", "0.5", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_pairs"] == 1 and told["n_prompts"] == 5
    assert told["without"] == {
        "one completion": 1, "all rated alike": 1, "closer than 0.5": 1,
        "best and worst are the same text": 1,
    }  # fmt: skip
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["chosen"], row["rejected"]) == ("y", "x")
    assert not verify(out).problems and verify(out).n_files == 1
    assert run("data", "pairs", "--data", data, "--out", out) == 1  # it is there
    assert run("data", "pairs", "--data", data, "--out", out, "--force") == 0
    assert len(out.read_text().splitlines()) == 2  # without a least gap two are far enough apart


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([rating(p, "x", 1) for p in "abc"], r"no prompt has a pair \(3 with one completion\)"),
        ([{"text": c, "score": 1} for c in "abc"], "no prompt has a pair"),
        ([{"text": "a", "label": "b"}], "holds label rows, expected ratings"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "holds pair rows, expected ratings"),
    ],
)
def test_rows_that_make_no_pairs_are_one_line(rows, message):
    with pytest.raises(DataError, match=message):
        pairs_of_ratings(open_dataset(rows))


@pytest.mark.parametrize("gap", [-1.0, float("nan"), float("inf")])
def test_a_gap_that_is_none_is_one_line(gap):
    rows = open_dataset([rating("a", "x", 1), rating("a", "y", 2)])
    with pytest.raises(DataError, match=f"min_gap: got {gap:g}, expected a finite number"):
        pairs_of_ratings(rows, min_gap=gap)
