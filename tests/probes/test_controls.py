"""Controls: each catches the trivial explanation that it is named after, and no other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.tree import DecisionTreeRegressor

from probekit.activations.table import Cell
from probekit.probes import SweepConfig, fit_sweep
from probekit.probes.controls import _counts, partialled, tfidf, tree
from probekit.probes.distributions import upper_half
from probekit.probes.metrics import area
from probekit.probes.task import Task
from probekit.results.intervals import Resampler
from probekit.results.sweep import heavy
from tests.probes.synthetic import MemorySource, examples

FAST = SweepConfig(n_boot=100)


def rows(kind, n, rng, *, signal=None, **columns):
    signal = rng.standard_normal(n) if signal is None else signal
    made = examples(kind, n, rng, signal=signal, per_group=1)
    return dataclasses.replace(made, **columns)


def on_one_cell(made, signal, rng, d=6):
    """A source whose activations are the signal of every row and noise."""
    acts = np.column_stack([signal, 0.1 * rng.standard_normal((len(made), d))])
    return MemorySource(made, {Cell("resid_post", 1, "mean"): acts.astype(np.float32)}, 2)


def texts(n, rng, *, told):
    """Texts of common words, with one more word where `told`."""
    words = np.array([f"w{i}" for i in range(30)])
    made = [" ".join(rng.choice(words, 8)) for _ in range(n)]
    return np.array([f"{t} secret" if k else t for t, k in zip(made, told, strict=True)], object)


def test_a_word_of_the_prompt_that_tells_the_label_is_found(rng):
    label = rng.integers(2, size=400)
    made = rows("label", 400, rng, signal=label - 0.5)
    made = dataclasses.replace(
        made,
        prompt=texts(400, rng, told=label == 1),
        completion=texts(400, rng, told=np.zeros(400)),
    )
    result = fit_sweep(on_one_cell(made, label * 2.0 + rng.standard_normal(400), rng), FAST)
    values = {name: metrics.get("auroc") for name, metrics in result.controls.items()}
    for name in ("tfidf_prompt", "tfidf_both", "characters"):
        assert values[name].value > 0.85, name
        assert result.differences[name].high < 0 or result.differences[name].side() <= 0
    for name in ("tfidf", "length"):
        assert 0.3 < values[name].value < 0.7, name
        assert result.differences[name].low > 0


def test_pairs_have_no_control_on_the_prompt_that_both_sides_share(rng):
    made = rows("pair", 60, rng)
    result = fit_sweep(on_one_cell(made, rng.standard_normal(120), rng), FAST)
    assert {"tfidf", "characters"} <= result.differences.keys()
    assert not {"tfidf_prompt", "tfidf_both"} & result.controls.keys()


def test_the_features_are_tfidf_as_scikit_learn_has_it(rng):
    words = np.array(["one", "two", "three", "four", "five", "six", "seven", "a", "7"])
    made = [" ".join(rng.choice(words, 6)) for _ in range(80)]
    fit = np.arange(50)
    features = tfidf(_counts(made)[0], fit)
    peer = TfidfVectorizer(
        token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), min_df=2, sublinear_tf=True
    ).fit([made[i] for i in fit])
    expected = peer.transform(made).toarray()
    # The dimensions are turned, so inner products with the fit rows are what must be equal.
    assert features @ features[fit].T == pytest.approx(expected @ expected[fit].T, abs=1e-9)
    assert features.shape[1] <= 50


def test_the_tree_of_lengths_is_that_of_scikit_learn(rng):
    for n, spread in ((7, 3), (60, 20), (400, 60), (400, 5000)):
        x = rng.integers(1, spread, size=n).astype(float)
        y = np.sin(x / spread * 6) + 0.3 * rng.standard_normal(n)
        peer = DecisionTreeRegressor(max_leaf_nodes=16, min_samples_leaf=3, random_state=0)
        cuts, means = tree(x, y)
        found = means[np.searchsorted(cuts, x)]
        np.testing.assert_allclose(found, peer.fit(x[:, None], y).predict(x[:, None]), atol=1e-9)
    assert [part.tolist() for part in tree(np.ones(9), y[:9] * 0 + 2)] == [[], [2.0]]


def test_runs_of_characters_are_those_of_scikit_learn(rng):
    words = np.array(["One", "two.", "x", "(Three)", "a\nb", "  ", "\u00e9t\u00e9", "co-op"])
    made = [" ".join(rng.choice(words, 6)) for _ in range(40)] + ["", " \t"]
    peer = CountVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(made)
    assert (_counts(made, runs=(2, 4))[0].toarray() == peer.toarray()).all()


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_texts_without_a_word_give_an_empty_feature(text):
    assert not tfidf(_counts([text] * 6)[0], np.arange(4)).any()


SHAPES = {
    "line": lambda n: 0.01 * n,
    "tanh": lambda n: np.tanh((n - 100) / 40),
    "threshold": lambda n: (n > 110).astype(float),
    "hump": lambda n: np.exp(-(((np.log(n) - 4.7) / 0.35) ** 2)),
}


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["rating", "label", "pair"])
def test_what_length_explains_is_taken_out_whatever_its_shape(kind, shape, noise, rng):
    n = 1000
    made = rows(kind, n, rng)
    length = np.exp(4.6 + 0.5 * rng.standard_normal(len(made))).round()
    score = SHAPES[shape](length)
    noisy = score + 0.3 * score.std() * rng.logistic(size=len(made))
    score = score + noise * score.std() * rng.standard_normal(len(made))
    if kind == "pair":  # the side with more of it is the chosen one
        first = noisy[::2] > noisy[1::2]
        order = np.column_stack([2 * np.arange(n) + ~first, 2 * np.arange(n) + first]).ravel()
        length, score = length[order], score[order]
    elif kind == "label":
        made = dataclasses.replace(made, label=(noisy > np.median(noisy)).astype(np.int64))
    else:
        made = dataclasses.replace(made, score=noisy)
    task = Task.of(dataclasses.replace(made, n_tokens=length.astype(np.int64)), n_boot=50)
    units = task.splits.report
    sample = task.sampler(units)
    whole = task.metrics(score, units, sample)[task.primary].value
    left = partialled(task, score, units, sample)[task.primary]
    chance = 0.0 if kind == "rating" else 0.5
    assert abs(whole - chance) > 0.1
    assert abs(left.value - chance) < (0.35 if kind == "rating" else 0.16)  # four standard errors


def test_a_score_that_is_not_length_keeps_what_it_has(rng):
    signal = rng.standard_normal(1000)
    made = rows("label", 1000, rng, signal=signal + rng.standard_normal(1000))
    task = Task.of(made, n_boot=50)
    units, score = task.splits.report, signal + 0.05 * made.n_tokens
    sample = task.sampler(units)
    alone = task.metrics(signal, units, sample)["auroc"].value
    assert partialled(task, score, units, sample)["auroc"].value == pytest.approx(alone, abs=0.05)


def test_a_difference_of_two_scores_is_paired(rng):
    for kind in ("rating", "label", "pair"):
        signal = rng.standard_normal(1500)
        made = rows(kind, 1500, rng, signal=signal)
        task = Task.of(made, n_boot=50)
        units = task.splits.report
        sample = task.sampler(units)
        # The chosen side is the better one.
        better = np.repeat(np.abs(signal), 2) * np.tile([1, -1], 1500)
        base = better if kind == "pair" else signal
        good, bad = (base + size * rng.standard_normal(len(base)) for size in (0.5, 9.0))
        found = task.difference(good, bad, units, sample)
        apart = [task.metrics(s, units, sample)[task.primary].value for s in (good, bad)]
        assert found.value == pytest.approx(apart[0] - apart[1])
        assert found.low > 0 and found.high < 1
        same = task.difference(good, good + 0.0, units, sample)
        assert same.value == 0 and same.side() == 0
        # What two scores have in common cancels: a paired interval is narrower than either's own.
        near = task.difference(good, good + 0.01 * rng.standard_normal(len(base)), units, sample)
        own = task.metrics(good, units, sample)[task.primary]
        assert near.high - near.low < own.high - own.low


def test_the_embedding_control_takes_the_position_that_tells_most(rng):
    label = rng.integers(2, size=300)
    made = rows("label", 300, rng, signal=label - 0.5)
    noise = rng.standard_normal((300, 5)).astype(np.float32)
    told = noise + 2.0 * label[:, None].astype(np.float32)
    acts = {
        Cell("resid_pre", 0, "turn_end"): np.ones((300, 5), np.float32),
        Cell("resid_pre", 0, "mean"): told,
        Cell("resid_post", 1, "turn_end"): told,
        Cell("resid_post", 1, "mean"): noise,
    }
    result = fit_sweep(MemorySource(made, acts, 2), FAST)
    assert result.probe.position == "turn_end"
    assert result.controls["layer_0"]["auroc"].value > 0.9


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [([0, 0, 0, 1], [0, 0, 0, 1]), ([1, 2, 3, 4], [0, 0, 1, 1]), ([5, 5, 5], [0, 0, 0]),
     ([0, 1, 1, 1, 2], [0, 0, 0, 0, 1]), ([0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 1])],
)  # fmt: skip
def test_the_upper_half_of_ratings_with_ties_is_not_all_of_them(ratings, expected):
    assert upper_half(np.array(ratings, float)).tolist() == [bool(e) for e in expected]


def test_the_area_of_a_constant_score_is_a_half(rng):
    label = np.arange(40) % 2
    estimate, _ = area(label, np.zeros(40), Resampler(np.arange(40)))
    assert estimate.value == 0.5 and not estimate.influence.any()


def test_the_surprisal_of_a_name_that_tells_the_label_is_found(rng):
    label = rng.integers(2, size=300)
    surprisal = 10.0 - 6.0 * label + rng.standard_normal(300)
    surprisal[:20] = np.nan  # rows without a name
    made = rows("label", 300, rng, signal=label - 0.5, surprisal=surprisal)
    given = on_one_cell(made, label + rng.standard_normal(300), rng)
    result = fit_sweep(given, FAST)
    assert result.controls["name_surprisal"]["auroc"].value > 0.9
    assert result.differences["name_surprisal"].value < 0
    without = dataclasses.replace(given, examples=dataclasses.replace(made, surprisal=None))
    assert "name_surprisal" not in fit_sweep(without, FAST).controls


def test_a_group_that_holds_over_a_fifth_of_a_split_is_named(rng):
    made = rows("label", 400, rng)
    group = np.where(np.arange(400) < 150, "giant", made.group)
    task = Task.of(dataclasses.replace(made, group=group))
    found = heavy(task.counts())
    split = next(name for name, units in task.splits._asdict().items() if 0 in units)
    assert list(found) == [split]
    assert found[split] == 150 / len(getattr(task.splits, split))
    assert not heavy(Task.of(made).counts())
    old = {name: n for name, n in task.counts().items() if not name.endswith("largest")}
    assert not heavy(old), "a fit of an earlier version says nothing"
