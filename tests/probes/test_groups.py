"""Groups of unequal size: what is left out, that nothing else changes, and what it is worth."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import ndtr

from probekit import open_run
from probekit.activations.table import Cell
from probekit.probes import SweepConfig, fit_sweep
from probekit.probes.heads import HeadFitter
from probekit.probes.splits import fair_cap, within_cap
from probekit.probes.task import Task
from probekit.results.sweep import capped
from tests.probes.synthetic import MemorySource, examples, source

KINDS = ("rating", "label", "pair")
FAST = SweepConfig(n_boot=50, n_folds=3)


def test_the_cap_leaves_no_group_more_than_four_equal_shares(rng):
    for _ in range(50):
        sizes = np.ceil(3 * rng.lognormal(0, rng.uniform(0, 2), rng.integers(3, 200))).astype(int)
        cap = fair_cap(sizes)
        fair = [c for c in range(1, sizes.max() + 1) if c <= 4 * np.minimum(sizes, c).mean() + 1e-9]
        assert cap == max(fair)
        assert np.minimum(sizes, cap).max() == min(sizes.max(), cap)
    assert fair_cap(np.full(50, 3)) == 3
    assert fair_cap(np.r_[1024, np.full(100, 3)]) == 12
    assert fair_cap(np.array([1000, 1, 1])) == 1000, "few groups cannot be even"


def test_rows_of_a_large_group_are_drawn_at_random_and_alike(rng):
    groups = rng.permutation(np.r_[np.repeat("big", 40), np.repeat([f"g{i}" for i in range(9)], 3)])
    times = np.zeros(len(groups))
    for seed in range(400):
        kept = within_cap(groups, 10, seed=seed)
        names, sizes = np.unique(groups[kept], return_counts=True)
        assert dict(zip(names, sizes, strict=True)) == {"big": 10} | {f"g{i}": 3 for i in range(9)}
        times += kept
    assert (times[groups != "big"] == 400).all()
    big = times[groups == "big"] / 400
    assert np.abs(big - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_group_is_large_nothing_changes(kind):
    given, _ = source(kind, n=100, layers=2)
    folds = dataclasses.replace(FAST, outer_folds=3)
    ours, all_in = (fit_sweep(given, dataclasses.replace(folds, group_cap=c)) for c in (None, 0))
    for one, other in zip(ours.probes, all_in.probes, strict=True):
        assert one.coef.tobytes() == other.coef.tobytes() and one.bias == other.bias
    skip = {"provenance"}
    mine, theirs = ({k: v for k, v in r.record().items() if k not in skip} for r in (ours, all_in))
    assert json.dumps(mine) == json.dumps(theirs)
    assert ours.splits() == all_in.splits() and mine["n"]["capped"] == 0


def with_giant(kind, n, giant, rng, **options):
    """Examples of `kind` of which the first `giant` units are one group, the others groups of two."""
    made = examples(kind, n, rng, signal=rng.standard_normal(n), **options)
    step = 2 if kind == "pair" else 1
    return dataclasses.replace(
        made, group=np.where(np.arange(n).repeat(step) < giant, "giant", made.group)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_units_beyond_the_cap_are_in_no_split_and_no_outer_fold(kind, rng, tmp_path):
    made = with_giant(kind, 220, 100, rng)
    acts = {Cell("resid_post", 0, "mean"): rng.standard_normal((len(made), 6)).astype(np.float32)}
    given = MemorySource(made, acts, 1)
    result = fit_sweep(given, dataclasses.replace(FAST, outer_folds=3))
    n = result.task.counts()
    # c = 4 * (120 + c) / 61
    assert n["capped"] == 100 - 8
    assert n["examples"] == 220 == n["fit"] + n["choose"] + n["report"] + n["capped"]
    assert capped(n) == {"used": 128, "left_out": 92, "cap": 8}
    result.save(tmp_path)
    rows = open_run(tmp_path).splits
    assert len(rows) == 220
    out = rows[rows["split"].isna()]
    assert (out["group"] == "giant").all() and len(out) == 92
    assert out["fold"].isna().all() and out["outer"].isna().all()
    inside = rows[rows["split"].notna()]
    assert inside["outer"].notna().all() and (inside["group"] == "giant").sum() == 8
    assert inside.groupby("group")["split"].nunique().max() == 1
    # What is left out has no say: other activations there give the same head and the same report.
    units = np.setdiff1d(np.arange(220), result.task.used)
    other = {cell: values.copy() for cell, values in acts.items()}
    other[Cell("resid_post", 0, "mean")][result.task.example_rows(units)] = 1e3
    again = fit_sweep(MemorySource(made, other, 1), dataclasses.replace(FAST, outer_folds=3))
    assert again.probe.coef.tobytes() == result.probe.coef.tobytes()
    assert json.dumps(again.record()["report"]) == json.dumps(result.record()["report"])
    assert again.outer.value == result.outer.value
    assert fit_sweep(given, dataclasses.replace(FAST, group_cap=3)).task.counts()["capped"] == 97
    assert fit_sweep(given, dataclasses.replace(FAST, group_cap=0)).task.counts()["capped"] == 0


def test_a_giant_group_no_longer_takes_accuracy_on_new_groups():
    """What heads are worth on new groups is known: normal margins, a direction of each group's own."""
    d, strength, effect, gained = 16, 0.75, 3.0, []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        made = with_giant("pair", 1024 + 300, 1024, rng, per_group=3)
        if Task.of(made, seed=seed).counts()["fit_largest"] < 1024:
            continue
        code = np.unique(made.group[::2], return_inverse=True)[1]
        own = effect / np.sqrt(d) * rng.standard_normal((code.max() + 1, d))
        gap = rng.standard_normal((len(code), d)) + own[code] + strength * np.eye(d)[0]
        acts = np.stack([gap / 2, -gap / 2], axis=1).reshape(-1, d)
        worth = []
        for cap in (None, 0):
            task = Task.of(made, seed=seed, group_cap=cap)
            w = HeadFitter(task, "bradley-terry", head="linear", n_folds=3).fit(acts)[0].coef
            worth.append(ndtr(strength * w[0] / np.linalg.norm(w) / np.sqrt(1 + effect**2 / d)))
        gained.append(worth[0] - worth[1])
    assert len(gained) > 8
    assert np.mean(gained) > 0.05


def test_cells_are_compared_with_the_chosen_one_on_the_rows_that_chose_it(tmp_path):
    given, _ = source("label", n=400, layers=4, positions=("mean",), planted=(2, "mean"))
    rng = np.random.default_rng(1)
    planted, near = Cell("resid_post", 2, "mean"), Cell("resid_post", 3, "mean")
    noise = 0.3 * rng.standard_normal(given.acts[planted].shape)
    given.acts[near] = given.acts[planted] + noise.astype(np.float32)
    result = fit_sweep(given, FAST)
    rows, task = result.rows, result.task
    assert rows[result.chosen].cell.layer in (2, 3)
    for i, row in enumerate(rows):
        found = result.below[i]
        gap = rows[result.chosen].choose["auroc"].value - row.choose["auroc"].value
        assert found.value == pytest.approx(gap)
        assert result.compare(i, result.chosen).value == pytest.approx(-gap)
    far = next(i for i, row in enumerate(rows) if row.cell.layer == 0)
    # The interval beside one from drawing groups with replacement, both cells on the same draws.
    units = task.splits.choose
    label, group = given.examples.label[units], task.groups[units]
    scores = [result.probes[i].score(given.acts[rows[i].cell])[units] for i in (result.chosen, far)]
    names = [np.flatnonzero(group == name) for name in np.unique(group)]

    def area(score, at):
        one, zero = score[at][label[at] == 1], score[at][label[at] == 0]
        return (one[:, None] > zero).mean()

    drawn = []
    for _ in range(600):
        at = np.concatenate([names[k] for k in rng.integers(len(names), size=len(names))])
        drawn.append(area(scores[0], at) - area(scores[1], at))
    half = (result.below[far].high - result.below[far].low) / 2
    assert half == pytest.approx(1.96 * np.std(drawn), rel=0.2)
    result.save(tmp_path)
    run = open_run(tmp_path)
    # The copy is as good; noise is shown to be worse.
    other = 5 - rows[result.chosen].cell.layer
    assert run.close == {"cells": 3, "close": 1, "first": other, "last": other}
    assert [row["below"] is None for row in run.record["rows"]] == [
        row["chosen"] for row in run.record["rows"]
    ]
