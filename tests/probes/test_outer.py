"""Outer folds: every row is reported once, by a head that has not seen it, with an interval that holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from probekit import open_run
from probekit.activations.table import Cell
from probekit.errors import DataError, ProbeError
from probekit.probes import SweepConfig, fit_sweep
from probekit.probes.heads import HeadFitter
from probekit.probes.outer import outer_folds
from probekit.probes.task import Task
from probekit.results.intervals import SHARED
from tests.probes.synthetic import MemorySource, examples, source

KINDS = ("rating", "label", "pair")
FAST = SweepConfig(n_boot=50, n_folds=3, layers="1:4")
FOLDS = dataclasses.replace(FAST, outer_folds=5)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request):
    given, _ = source(request.param, n=200, strength=2.0, seed=2)
    return given, fit_sweep(given, FOLDS)


def test_every_row_is_reported_once_and_no_group_is_on_both_sides(fitted):
    given, result = fitted
    folds = [fold.task for fold in result.outer.folds]
    assert np.array_equal(np.sort(np.concatenate([f.splits.report for f in folds])), np.arange(200))
    for task in folds:
        parts = [set(task.groups[units]) for units in task.splits]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 100
        # The sizes of the single split: 60, 20 and 20 %.
        assert [len(units) for units in task.splits] == pytest.approx([120, 40, 40], abs=4)
    if given.examples.kind == "label":
        shares = [given.examples.label[task.splits.report].mean() for task in folds]
        assert np.ptp(shares) < 0.15


def test_no_head_depends_on_the_rows_that_it_is_judged_on(fitted):
    given, result = fitted
    fold = result.outer.folds[1]
    rows = fold.task.rows[fold.task.splits.report]
    rows = np.concatenate([rows, rows + 1]) if given.examples.kind == "pair" else rows
    acts = {cell: values.copy() for cell, values in given.acts.items()}
    for values in acts.values():
        values[rows] = np.random.default_rng(0).standard_normal((len(rows), values.shape[1])) * 50
    other = fit_sweep(MemorySource(given.examples, acts, given.n_layers), FOLDS).outer.folds[1]
    assert (other.cell, other.kind) == (fold.cell, fold.kind)
    np.testing.assert_array_equal(other.head.coef, fold.head.coef)
    assert other.value != fold.value


def test_the_single_split_is_what_it_is_without_folds(fitted):
    given, result = fitted
    alone = fit_sweep(given, FAST)
    assert alone.outer is None and "outer" not in alone.summary()
    assert alone.report == result.report and alone.differences == result.differences
    for ours, theirs in zip(alone.probes, result.probes, strict=True):
        np.testing.assert_array_equal(ours.coef, theirs.coef)


def by_hand(given, fold, scores):
    """Return the primary metric of a fold by another way."""
    rows, e = fold.task.rows[fold.task.splits.report], given.examples
    if e.kind == "pair":
        return np.mean(scores[rows] > scores[rows + 1])
    if e.kind == "label":
        return roc_auc_score(e.label[rows], scores[rows])
    return np.corrcoef(e.score[rows], scores[rows])[0, 1]


def test_the_pooled_metric_and_differences_are_means_within_folds(fitted):
    given, result = fitted
    outer = result.outer
    sizes = [len(fold.task.splits.report) for fold in outer.folds]
    values = [by_hand(given, fold, given.acts[fold.cell] @ fold.head.coef) for fold in outer.folds]
    assert [fold.value for fold in outer.folds] == pytest.approx(values)
    assert outer.value.value == pytest.approx(np.average(values, weights=sizes))
    assert {"length", "tfidf", "characters", "layer_0"} <= outer.controls.keys()
    for name, control in outer.controls.items():
        gap = outer.differences[name]
        # Pairs imagine one group on both sides, which moves the middle of the interval alone.
        assert gap.value == pytest.approx(outer.value.value - control.value)
        assert gap.low < gap.value < gap.high
    assert outer.differences["length"].low > 0  # a signal is there, and length is none of it


def test_each_end_of_the_interval_is_where_the_test_of_it_just_rejects():
    """Where every row is a group: Wilson's and Fisher's tests on n rows over the factor of that place."""
    n, rng = 300, np.random.default_rng(0)
    for kind, reach, shift in (("pair", 0.08, 0.0), ("pair", 0.08, 0.25), ("rating", 0.16, 0.0)):
        rows = examples(kind, n, rng, signal=rng.standard_normal(n), per_group=1)
        acts = rng.standard_normal((len(rows), 6))
        acts[::2] += shift
        found = outer_folds(
            Task.of(rows).outer_folds(5),
            [Cell("resid_post", 0, "last")],
            lambda cell, acts=acts: acts,
            lambda task, kind=kind: {
                kind: HeadFitter(task, "mean-difference" if kind == "pair" else "ridge")
            },
            lambda task, kind: {},
        ).value
        for end in (found.low, found.high):
            distance = abs(end - 0.5 if kind == "pair" else end)
            # With five folds four times as many rows are fitted on as judged: 1 + 5 / 4.
            factor = SHARED[kind] + (2.25 - SHARED[kind]) * min(1.0, distance / reach)
            quantile = t.ppf(0.975, n / factor - 1)
            if kind == "pair":
                error = np.sqrt(end * (1 - end) * factor / n)
                assert abs(found.value - end) == pytest.approx(quantile * error, rel=0.05)
            else:
                half = abs(np.arctanh(found.value) - np.arctanh(end))
                assert half == pytest.approx(quantile * np.sqrt(factor / n), rel=0.2)


def test_with_noise_the_interval_holds_chance_though_folds_share_rows():
    """A mean difference of pairs: rows that judge each other's heads agree, and rows alone vary less."""
    values, held = [], 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        rows = examples("pair", 100, rng, signal=rng.standard_normal(100), per_group=1)
        acts = rng.standard_normal((200, 8))
        found = outer_folds(
            Task.of(rows).outer_folds(5),
            [Cell("resid_post", 0, "last")],
            lambda cell, acts=acts: acts,
            lambda task: {"mean-difference": HeadFitter(task, "mean-difference")},
            lambda task, kind: {},
        ).value
        values.append(found.value)
        held += found.low <= 0.5 <= found.high
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    # 1 + 0.75 * 2 / pi: outcomes of rows i and j in different folds share the product of both.
    assert np.var(values) / (0.25 / 100) == pytest.approx(1.48, abs=0.75)  # 3 standard errors
    assert held >= 71  # at 95 % fewer have a chance of under 1 %


def test_files_say_where_every_unit_was(fitted, tmp_path):
    given, result = fitted
    result.save(tmp_path)
    run = open_run(tmp_path)
    splits, step = run.splits, 2 if given.examples.kind == "pair" else 1
    assert splits["id"].tolist() == given.examples.id[::step].tolist()
    assert splits["id"].is_unique and (splits.groupby("group")["split"].nunique() == 1).all()
    assert set(splits["id"][splits["split"] == "report"]) == set(run.rows["id"])
    assert splits["split"].value_counts().to_dict() == {
        name: run.record["n"][name] for name in ("fit", "choose", "report")
    }
    inside = splits[splits["split"] == "fit"]
    assert splits["fold"].isna().equals(splits["split"] != "fit")
    assert (inside.groupby("group")["fold"].nunique() == 1).all() and set(inside["fold"]) == {
        0,
        1,
        2,
    }
    folds = run.record["outer"]["folds"]
    assert (splits.groupby("group")["outer"].nunique() == 1).all()
    assert splits["outer"].value_counts().sort_index().tolist() == [fold["n"] for fold in folds]
    assert [fold["layer"] for fold in folds] == [fold.cell.layer for fold in result.outer.folds]
    assert run.outer["chance"].value == result.outer.value
    assert run.outer["length"].key == "above" and run.outer["length"].value.low > 0
    fit_sweep(given, FAST).save(tmp_path)
    alone = open_run(tmp_path)
    assert alone.outer == {} and alone.splits["outer"].isna().all()


def test_too_few_groups_and_bad_numbers_are_one_line():
    rng = np.random.default_rng(0)
    rows = examples("pair", 12, rng, signal=rng.standard_normal(12))
    with pytest.raises(DataError, match=r"outer_folds 7: there are 6 groups\. Give fewer folds"):
        Task.of(rows).outer_folds(7)
    rows = examples("label", 60, rng, signal=rng.standard_normal(60), per_group=1)
    rare = dataclasses.replace(rows, label=(np.arange(60) < 6).astype(int))
    with pytest.raises(DataError, match="outer_folds 10: a fold has one class only"):
        Task.of(rare).outer_folds(10)
    for n in (-1, 1, 2, 11):
        with pytest.raises(
            ProbeError, match=f"outer_folds: got {n}, expected 3 to 10, or 0 for none"
        ):
            SweepConfig(outer_folds=n)


def test_folds_of_few_groups_have_a_value_and_no_interval():
    given, _ = source("pair", n=32, strength=3.0)  # 16 groups
    found = fit_sweep(given, dataclasses.replace(FAST, outer_folds=4)).outer
    assert found.value.known and not found.value.has_interval
    assert not found.differences["length"].has_interval
