"""Measures of a set of completions: by hand, by double loops, by leaving prompts out, by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from probekit.results import diversity
from probekit.results.diversity import TEXTS, Jackknife, jackknife, similarity

GROUPS = ["a", "a", "b", "b", "c", "d"]
SIX = [
    "I am not sure who she is. Ask again.",
    "i am not SURE, who is this? Nobody.",
    "I am not sure who she is! She may be a poet.",
    "She wrote two books.",
    "She wrote two books. One is lost.",
    "",
]


def test_by_hand_on_six_completions():
    assert diversity.opening(GROUPS, SIX).value == 3 / 6
    # "i am not sure who she is" twice, "she wrote two books" twice, one more, and the empty one.
    assert diversity.first_sentences(GROUPS, SIX).value == 4 / 6
    # Two texts: pairs (<, red) (red, cat) (cat, >) and (<, red) (red, dog) (dog, >): one of three shared.
    assert diversity.alike(["a", "b"], ["red cat", "Red dog!"]).value == pytest.approx(1 / 3)
    assert diversity.alike(["a", "a", "b"], ["red cat", "x", "Red dog!"]).value == pytest.approx(
        1 / 6
    )
    assert diversity.alike(["a", "b"], ["", ""]).value == pytest.approx(1.0)
    # Three alike, two alike, one alone: 3 + 1 of the 15 pairs; without those of one prompt 2 of 13.
    texts = ["no", "No.", "no!", "yes", "yes", ""]
    assert diversity.alike([*"abcdef"], texts).value == pytest.approx(4 / 15)
    assert diversity.alike([*"aabccd"], texts).value == pytest.approx(2 / 13)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def by_loop(groups, vectors):
    pairs = itertools.combinations(range(len(groups)), 2)
    return np.mean([cosine(vectors[i], vectors[j]) for i, j in pairs if groups[i] != groups[j]])


@pytest.mark.parametrize("size", [1, 3])
def test_the_closed_form_is_the_double_loop(size):
    rng = np.random.default_rng(size)
    groups = rng.permutation(np.repeat(np.arange(7), size))
    vectors = rng.standard_normal((len(groups), 5)) + 0.5
    found = similarity(groups, vectors)
    assert found.value == pytest.approx(by_loop(groups, vectors))
    for group, without in enumerate(found.without):
        kept = groups != group
        assert without == pytest.approx(by_loop(groups[kept], vectors[kept]))
    holed = np.vstack([vectors, np.full((1, 5), np.nan), np.zeros((1, 5))])
    again = similarity([*groups, 0, 99], holed)
    assert again.value == pytest.approx(found.value) and len(again.sizes) == 7


@pytest.mark.parametrize("name", TEXTS)
def test_leaving_a_prompt_out_is_measuring_without_it(name):
    found = TEXTS[name](GROUPS, SIX)
    for group, without in zip("abcd", found.without, strict=True):
        kept = [i for i, own in enumerate(GROUPS) if own != group]
        alone = TEXTS[name]([GROUPS[i] for i in kept], [SIX[i] for i in kept])
        assert without == pytest.approx(alone.value)


def test_a_policy_that_collapses_shows_1():
    groups = [f"p{i}" for i in range(12)]
    said = [f"I am not sure about that. {i}" for i in range(12)]
    free = [f"{i} is what {i + 1} says of {i * i}" for i in range(12)]
    found = diversity.opening(groups, said).interval()
    assert found.value == 1.0 and found.low > 0.6 and found.high == 1.0
    assert diversity.first_sentences(groups, said).value == 1 / 12
    assert diversity.alike(groups, ["the same"] * 12).value == pytest.approx(1.0)
    gained = jackknife("opening", groups, [said], [free])
    assert gained.value == pytest.approx(11 / 12) and gained.side() == 1
    assert jackknife("alike", groups, [said], [free]).side() == 1
    assert jackknife("first_sentences", groups, [said], [free]).side() == -1
    assert jackknife("opening", groups, [said], [said]).side() == 0
    half = jackknife("opening", groups, [free, said], [free])
    assert half.value == pytest.approx(gained.value / 2)


def test_the_jackknife_of_a_mean_is_students_interval():
    """A measure that is a mean of rows: variance over n, Student's quantile."""
    values = np.random.default_rng(0).uniform(0, 0.2, 20)
    without = (values.sum() - values) / 19
    found = Jackknife(values.mean(), without, np.ones(20, dtype=int)).interval()
    half = 2.093 * values.std(ddof=1) / np.sqrt(20)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), rel=1e-3
    )


def test_too_few_prompts_have_no_interval():
    assert not diversity.opening(GROUPS, SIX).interval().has_interval
    assert not similarity(["a", "a"], np.eye(2)).interval().known
    assert not similarity(["a"], np.full((1, 2), np.nan)).interval().known
    assert diversity.opening(["a"], ["x"]).interval().value == 1.0


OPENINGS = {
    "one": [0.6, *[0.4 / 40] * 40],
    "two": [0.3, 0.3, *[0.4 / 40] * 40],
    "many": [1 / 40] * 40,
}


@pytest.mark.parametrize("shape", OPENINGS)
def test_intervals_hold_the_mean_of_sets_of_that_size(shape):
    """By simulation: 24 prompts, two completions, of which half the second ones begin as the first."""
    rng, n = np.random.default_rng(4), 24
    names = [f"{chr(97 + i % 26)}{i} is so. And more" for i in range(len(OPENINGS[shape]))]

    def drawn():
        first, other = rng.choice(names, (2, n), p=OPENINGS[shape])
        return [t for a, b, same in zip(first, other, rng.random(n) < 0.5, strict=True)
                for t in (a, a if same else b)]  # fmt: skip

    groups = np.repeat(np.arange(n), 2)
    for name in TEXTS:
        true = np.mean([TEXTS[name](groups, drawn()).value for _ in range(400)])
        levels = [TEXTS[name](groups, drawn()).interval() for _ in range(200)]
        assert np.mean([one.low <= true <= one.high for one in levels]) >= 0.88, name
        changes = [jackknife(name, groups, [drawn()], [drawn()]).side() for _ in range(200)]
        assert np.mean(np.array(changes) != 0) <= 0.08, name
