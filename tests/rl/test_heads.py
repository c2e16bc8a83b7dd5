"""Heads as an ensemble, refitted, and beside independent twins."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression, Ridge

from probekit.activations.table import Cell, Examples
from probekit.errors import ProbeError
from probekit.probes import Probe
from probekit.probes.task import Task
from probekit.rl.head_data import HeadData, Outputs
from probekit.rl.refit import Refitter
from probekit.rl.reward import Ensemble

D, CELL = 6, Cell("resid_post", 1, "mean")


def data(kind, head_kind, n=120, l2=3.0):
    """Rows with a planted direction, two of a prompt, two classes of prompts."""
    rng = np.random.default_rng(1)
    direction = rng.standard_normal(D)
    group = np.repeat([f"g{i}" for i in range(n // 2)], 2)
    label = np.tile([1, 0], n // 2)
    acts = rng.standard_normal((n, D)) + np.outer(2 * label - 1.0, direction) * 0.7
    examples = Examples(
        kind=kind,
        id=np.array([f"r{i}" for i in range(n)]),
        group=group,
        n_tokens=np.full(n, 5),
        prompt=np.array([""] * n, dtype=object),
        completion=np.array([""] * n, dtype=object),
        label=label.astype(np.int64) if kind == "label" else None,
        classes=("bad", "good") if kind == "label" else None,
        score=rng.integers(1, 6, n).astype(float) if kind == "rating" else None,
        side=np.tile(["chosen", "rejected"], n // 2) if kind == "pair" else None,
        tags={"class": np.repeat(["a", "b"], n // 2)},
    )
    task = Task.of(examples)
    head = Probe(
        kind=head_kind, head="linear", cell=CELL, coef=direction, bias=0.0, l2=l2, data_kind=kind
    )
    return HeadData(head, task, acts.astype(np.float32), standardize=False)


def outputs(n=30):
    rng = np.random.default_rng(2)
    groups = [f"g{i}" for i in range(n - 1)] + ["elsewhere"]
    acts = rng.standard_normal((n, D)).astype(np.float32) + 2.0
    return Outputs(acts, groups, ["a"] * n, "class")


def test_a_refit_of_labels_is_scikit_learns_on_the_rows_and_the_outputs():
    one, more = data("label", "logistic"), outputs()
    fit = one.task.splits.fit
    x = np.concatenate([one.acts[fit], more.acts]).astype(float)
    y = np.concatenate([one.task.examples.label[fit], np.zeros(len(more.acts))])
    l2 = 3.0 * len(x) / len(fit)
    wanted = LogisticRegression(C=1 / l2, tol=1e-10).fit(x - x.mean(0), y)
    found = one.refit(more, seed=0)
    np.testing.assert_allclose(found.coef, wanted.coef_[0], rtol=1e-4, atol=1e-5)
    assert found.cell == CELL and found.distributions["all"].keys() == {"bad", "good"}


def test_a_refit_of_ratings_gives_outputs_the_lowest_one():
    one, more = data("rating", "ridge"), outputs()
    fit = one.task.splits.fit
    x = np.concatenate([one.acts[fit], more.acts]).astype(float)
    y = np.concatenate([one.task.target[fit], np.full(len(more.acts), -1.0)])
    wanted = Ridge(alpha=3.0 * len(x) / len(fit)).fit(x, y)
    np.testing.assert_allclose(one.refit(more, seed=0).coef, wanted.coef_, atol=1e-6)


def test_a_refit_of_pairs_sets_outputs_against_chosen_rows_of_the_same_prompt():
    one, more = data("pair", "bradley-terry"), outputs()
    partners = one._partners(more, np.random.default_rng(0))
    examples, fit_rows = one.task.examples, one.task.rows[one.task.splits.fit]
    assert set(partners) <= set(fit_rows)
    assert (examples.side[partners] == "chosen").all()
    fit_groups = set(examples.group[fit_rows])
    for group, row in zip(more.groups, partners, strict=True):
        assert examples.group[row] == group if group in fit_groups else True
        assert examples.tags["class"][row] == "a" or group in fit_groups
    x = np.concatenate(
        [one.acts[fit_rows] - one.acts[fit_rows + 1], one.acts[partners] - more.acts]
    ).astype(float)
    l2 = 3.0 * len(x) / len(fit_rows)
    both, sign = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    wanted = LogisticRegression(C=1 / (2 * l2), fit_intercept=False, tol=1e-10).fit(both, sign)
    found = one.refit(more, seed=0)
    np.testing.assert_allclose(found.coef, wanted.coef_[0], rtol=1e-3, atol=1e-4)


def test_the_disjoint_head_never_saw_a_group_of_the_fit_split():
    one = data("label", "logistic")
    twin = one.disjoint()
    changed = one.acts.copy()
    changed[one.task.splits.fit] += 9.0
    other = dataclasses.replace(one, acts=changed)
    np.testing.assert_array_equal(other.disjoint().coef, twin.coef)
    assert twin.direction @ one.head.direction > 0.8


def test_the_distance_is_mahalanobis_in_units_of_new_rows_of_the_data():
    one = data("label", "logistic")
    model = LedoitWolf().fit(one.acts[one.task.splits.fit].astype(float))
    held = model.mahalanobis(one.acts[one.task.splits.choose].astype(float))
    far = one.acts[:3] + 30.0
    wanted = np.sqrt(model.mahalanobis(far.astype(float)) / held.mean())
    np.testing.assert_allclose(one.distance(far), wanted, rtol=1e-6)
    root = np.sqrt((one.distance(one.acts[one.task.splits.choose]) ** 2).mean())
    assert root == pytest.approx(1.0)


def test_only_recent_outputs_that_are_not_wanted_are_kept():
    one = data("label", "logistic")
    refitter = Refitter([one], keep=5)
    assert refitter.refit(1) is None
    acts = np.arange(8 * D, dtype=np.float32).reshape(8, D)
    acts[2] = np.nan
    wanted = [True, False, None, False, False, False, None, False]
    refitter.add({CELL: acts}, list("abcdefgh"), [""] * 8, wanted)
    np.testing.assert_array_equal(refitter._acts[0], acts[[3, 4, 5, 6, 7]])
    assert refitter._groups == list("defgh")
    found = refitter.refit(1)
    assert (found["n_outputs"], found["n_wanted_left_out"]) == (5, 1)
    assert refitter.left_out == 0


def test_a_slow_refit_is_between_the_old_head_and_the_new_one():
    one, more = data("label", "logistic"), outputs()
    heads = {}
    for rate in (1.0, 0.25):
        refitter = Refitter([one], keep=100, rate=rate)
        refitter.add({CELL: more.acts}, more.groups, more.tags, [False] * 30)
        refitter.refit(4)
        heads[rate] = refitter.heads[0]
    wanted = 0.75 * one.head.coef + 0.25 * heads[1.0].coef
    np.testing.assert_allclose(heads[0.25].coef, wanted)


def test_a_refit_lowers_the_score_of_what_it_was_given():
    one, more = data("pair", "bradley-terry"), outputs()
    found = one.refit(more, seed=0)
    good = one.acts[one.task.rows[one.task.splits.choose]]
    before = one.head.score(more.acts).mean() - one.head.score(good).mean()
    after = found.score(more.acts).mean() - found.score(good).mean()
    assert after < before
    assert one.accuracy(found) > 0.8


def test_an_ensemble_of_one_is_the_head():
    one = data("label", "logistic")
    head = one.with_distributions(one.head)
    scores = np.array([[1.0], [-2.0]])
    np.testing.assert_array_equal(Ensemble([head], 3.0).score(scores), [1.0, -2.0])
    assert Ensemble([head]).distributions is head.distributions


def test_an_ensemble_puts_heads_on_one_scale_and_takes_off_their_disagreement():
    one = data("label", "logistic")
    small = one.with_distributions(one.head)
    large = one.with_distributions(
        dataclasses.replace(one.head, coef=100 * one.head.coef, bias=7.0)
    )
    acts = one.acts[:4]
    scores = np.stack([small.score(acts), large.score(acts)], axis=1)
    both = Ensemble([small, large], 1.0).score(scores)
    every = np.concatenate(list(small.distributions["all"].values()))
    centre = np.mean(small.distributions["all"]["good"])
    # The heads agree, so that after scaling there is nothing to take off.
    np.testing.assert_allclose(both, (scores[:, 0] - centre) / every.std(), atol=1e-5)
    scores[0, 1] += 200 * every.std()
    lower = Ensemble([small, large], 1.0).score(scores)
    assert lower[0] == pytest.approx(both[0], abs=1e-5)  # +1 on the mean, 1 off for the spread
    pooled = Ensemble([small, large], 0.0).distributions
    np.testing.assert_allclose(
        pooled["by_tag"]["class"]["a"]["good"],
        (np.array(small.distributions["by_tag"]["class"]["a"]["good"]) - centre) / every.std(),
        atol=1e-5,
    )


def test_heads_of_different_rows_make_no_ensemble():
    one = data("label", "logistic")
    head = one.with_distributions(one.head)
    cut = {**head.distributions, "all": {"bad": [0.0], "good": [1.0]}}
    with pytest.raises(ProbeError, match="fitted to different rows"):
        Ensemble([head, dataclasses.replace(head, distributions=cut)])
    with pytest.raises(ProbeError, match="holds no scores of its own rows"):
        Ensemble([head, one.head])


def test_the_store_behind_a_fit_is_found_and_another_one_is_refused(fitted, tmp_path):
    copy = tmp_path / "fit"
    shutil.copytree(fitted, copy)
    head = Probe.load(copy)
    found = HeadData.open(copy, head)
    assert found.accuracy(head) == pytest.approx(
        head.metrics["auroc"]["value"] if "auroc" in head.metrics else found.accuracy(head)
    )
    assert found.with_distributions(head).distributions == head.distributions
    with pytest.raises(ProbeError, match=r"gone\.h5: the store that .* is not there"):
        HeadData.open(copy, head, tmp_path / "gone.h5")
    other = dataclasses.replace(head, provenance={"model": "another"})
    with pytest.raises(ProbeError, match="is not the store"):
        HeadData.open(copy, other)


def test_a_label_head_can_be_turned_to_its_other_class(fitted):
    import numpy as np
    import pytest

    from probekit.errors import ProbeError
    from probekit.probes import Probe
    from probekit.rl.head_data import HeadData
    from probekit.rl.target import bad_scores, good_scores

    head = Probe.load(fitted)
    other = head.toward("ab")
    assert head.toward("xy") is head
    assert other.classes == ("xy", "ab")
    acts = np.random.default_rng(0).standard_normal((5, len(head.coef)))
    np.testing.assert_allclose(other.score(acts), -head.score(acts))
    np.testing.assert_allclose(
        good_scores(other.distributions["all"]), -bad_scores(head.distributions["all"])
    )
    data = HeadData.open(fitted, other, fitted / "acts.h5")
    assert data.with_distributions(other).distributions == other.distributions
    plain = HeadData.open(fitted, head, fitted / "acts.h5")
    np.testing.assert_array_equal(data.task.splits.fit, plain.task.splits.fit)
    np.testing.assert_allclose(data.disjoint().coef, -plain.disjoint().coef, atol=1e-8)
    with pytest.raises(ProbeError, match=r"class 'no': the probe knows ab or xy"):
        head.toward("no")
