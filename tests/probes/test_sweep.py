"""The sweep: splits that hold, a choice that does not leak, controls at chance, files that load."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from probekit.activations.table import Cell
from probekit.container import write_json
from probekit.errors import DataError, ProbeError
from probekit.probes import Probe, SweepConfig, fit_sweep, solvers
from probekit.probes.splits import fold_by_group, split_by_group
from probekit.probes.task import Task
from probekit.results.sweep import l2_ends
from tests.probes.synthetic import MemorySource, examples, source

KINDS = ("rating", "label", "pair")
FAST = SweepConfig(n_boot=200)


@pytest.fixture(scope="module", params=KINDS)
def planted(request):
    given, direction = source(request.param, seed=1)
    return given, direction, fit_sweep(given, FAST)


def test_the_planted_cell_is_chosen_and_its_direction_found(planted):
    given, direction, result = planted
    assert result.probe.cell == Cell("resid_post", 2, "mean")
    # 180 rows for 24 dimensions: an estimate of the direction is within about 35 degrees.
    assert result.probe.direction @ direction > 0.8
    primary = result.report[result.task.primary]
    assert primary.value > 0.85
    assert primary.low < primary.value < primary.high


@pytest.mark.parametrize("kind", KINDS)
def test_with_many_rows_the_planted_direction_is_recovered(kind):
    given, direction = source(
        kind, n=8000, d=12, layers=2, positions=("mean",), planted=(1, "mean")
    )
    result = fit_sweep(given, SweepConfig(n_boot=20))
    assert result.probe.layer == 1
    assert result.probe.direction @ direction > 0.99


def test_every_control_is_at_chance_and_length_explains_nothing(planted):
    given, _, result = planted
    chance = 0.0 if result.task.kind == "rating" else 0.5
    for name in ("length", "tfidf", "shuffled_labels", "layer_0"):
        control = result.controls[name][result.task.primary]
        assert abs(control.value - chance) < 0.35, name
    # A random direction sees a share of the planted one, which here is a third of all variance.
    best = result.report[result.task.primary].value
    assert result.controls["random_direction"][result.task.primary].value < best - 0.15
    kept = result.controls["length_partialled"][result.task.primary]
    assert kept.value > 0.8


def test_the_report_split_is_read_once_and_only_for_the_chosen_cell(planted, monkeypatch):
    given, _, _ = planted
    seen = []
    real = Task.metrics

    def watched(self, scores, units, sample):
        if np.array_equal(units, self.splits.report):
            seen.append(scores)
        return real(self, scores, units, sample)

    monkeypatch.setattr(Task, "metrics", watched)
    fit_sweep(given, FAST)
    # the chosen probe, length, two or four text controls, layer 0
    assert len(seen) == (5 if given.examples.kind == "pair" else 7)
    fits = set(Task.of(given.examples).splits.fit)
    assert not fits & set(Task.of(given.examples).splits.report)


def test_nothing_is_learned_outside_the_fit_split(planted):
    """Changing every other row's activations leaves coef, bias and l2 bit-equal."""
    given, _, result = planted
    rows = result.task.rows[result.task.splits.fit]
    keep = np.concatenate([rows, rows + 1]) if result.task.kind == "pair" else rows
    rng = np.random.default_rng(0)
    acts = {}
    for cell, values in given.acts.items():
        acts[cell] = rng.standard_normal(values.shape).astype(np.float32) * 100
        acts[cell][keep] = values[keep]
    other = fit_sweep(MemorySource(given.examples, acts, given.n_layers), FAST)
    for ours, theirs in zip(result.probes, other.probes, strict=True):
        np.testing.assert_array_equal(ours.coef, theirs.coef)
        assert (ours.bias, ours.l2) == (theirs.bias, theirs.l2)


@pytest.mark.parametrize("kind", KINDS)
def test_choosing_among_90_cells_of_noise_leaves_the_report_at_chance(kind):
    values, chosen = [], []
    for seed in range(6):
        given, _ = source(
            kind, n=200, d=8, layers=30, positions=("a", "b", "c"), strength=0.0, seed=seed
        )
        given.acts = {
            cell._replace(position={"a": "last", "b": "mean", "c": "turn_end"}[cell.position]): v
            for cell, v in given.acts.items()
        }
        result = fit_sweep(given, SweepConfig(n_boot=50, n_folds=3, seed=seed))
        values.append(result.report[result.task.primary].value)
        chosen.append(result.rows[result.chosen].choose[result.task.primary].value)
    chance = 0.0 if kind == "rating" else 0.5
    # One report split has 40 units: a standard error of 0.16 for r, 0.09 for AUC, 0.08 for pairs.
    error = {"rating": 0.16, "label": 0.093, "pair": 0.08}[kind] / np.sqrt(6)
    assert abs(np.mean(values) - chance) < 4 * error
    assert np.mean(chosen) > chance + 3 * error  # the choose split does flatter


@pytest.mark.parametrize("kind", KINDS)
def test_noise_chooses_the_largest_l2_and_a_signal_does_not(kind, tmp_path):
    given, _ = source(kind, n=300, d=20, layers=8, strength=3.0, planted=(2, "mean"))
    result = fit_sweep(given, FAST)
    result.save(tmp_path)
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    ends = {(row["layer"], row["position"]): row["l2_end"] for row in rows}
    assert ends[2, "mean"] is None
    assert sum(end == "high" for end in ends.values()) >= 4
    assert "low" not in ends.values() and all(row["converged"] for row in rows)
    counts = l2_ends(rows)
    assert counts == {"cells": 16, "high": [*ends.values()].count("high"), "low": 0, "rough": 0}
    for row in rows:
        del row["l2_end"], row["converged"]
    assert l2_ends(rows) == {"cells": 16, "high": 0, "low": 0, "rough": 0}, "an earlier version"


def test_a_sweep_whose_fits_do_not_converge_says_which(monkeypatch):
    def fails(*args, **options):
        raise ProbeError("no minimum")

    given, _ = source("label", n=100, d=20, layers=2)
    monkeypatch.setattr(solvers, "solve_logistic", fails)
    monkeypatch.setattr(solvers, "GAP", 0.0)
    result = fit_sweep(given, FAST)
    assert not any(row.converged for row in result.rows)
    assert all(np.isfinite(probe.coef).all() for probe in result.probes)


def test_several_kinds_and_heads_compete(planted):
    given, direction, _ = planted
    kind = given.examples.kind
    if kind == "rating":
        with pytest.raises(ProbeError, match="'logistic': does not fit a store of rating rows"):
            fit_sweep(given, SweepConfig(kinds="logistic"))
        return
    kinds = {"label": "logistic,mean-difference", "pair": "bradley-terry,mean-difference"}[kind]
    result = fit_sweep(given, SweepConfig(kinds=kinds, n_boot=50))
    assert len(result.rows) == 2 * 8
    assert {row.kind for row in result.rows} == set(kinds.split(","))
    if kind == "pair":
        trained = fit_sweep(given, SweepConfig(head="projection", n_boot=50, layers="2"))
        assert trained.probe.head == "projection"
        assert trained.report["pair_accuracy"].value > 0.8


def test_swapping_the_sides_of_every_pair_flips_every_head():
    given, _ = source("pair", n=120)
    swapped = {
        cell: values.reshape(-1, 2, values.shape[1])[:, ::-1].reshape(values.shape)
        for cell, values in given.acts.items()
    }
    there = fit_sweep(given, FAST)
    back = fit_sweep(MemorySource(given.examples, swapped, given.n_layers), FAST)
    for ours, theirs in zip(there.probes, back.probes, strict=True):
        np.testing.assert_allclose(ours.coef, -theirs.coef, rtol=1e-6, atol=1e-9)


def test_the_choice_of_cells_is_checked(planted):
    given, _, _ = planted
    only = fit_sweep(given, SweepConfig(layers="1:3", positions="mean", n_boot=50))
    assert [row.cell.layer for row in only.rows] == [1, 2]
    for options, match in (
        ({"positions": "first:4"}, "position first:4: is not in the store. It holds last, mean"),
        ({"sites": "mlp_out"}, "site mlp_out: is not in the store"),
        ({"head": "deep"}, "expected linear or projection"),
        ({"kinds": "svm"}, "does not fit"),
        ({"kinds": ","}, "names none"),
    ):
        with pytest.raises(ProbeError, match=match):
            fit_sweep(given, SweepConfig(**options))


def test_saved_probes_and_rows_are_what_was_fitted(planted, tmp_path):
    given, _, result = planted
    result.save(tmp_path)
    loaded = Probe.load(tmp_path)
    acts = given.read(loaded.cell)
    np.testing.assert_array_equal(loaded.coef, result.probe.coef)
    np.testing.assert_array_equal(loaded.score(acts), result.scores)
    other = Probe.load(tmp_path, layer=0, position="last")
    assert other.cell == Cell("resid_post", 0, "last")
    assert other.distributions == {} and loaded.distributions["split"] == "choose"
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    assert sweep["complete"] and len(sweep["rows"]) == 8
    assert sum(row["chosen"] for row in sweep["rows"]) == 1
    assert np.diag(sweep["cosine"]["matrix"]) == pytest.approx(1.0, abs=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    by_id = {(line["id"], line.get("side")): line["score"] for line in lines}
    sides = given.examples.side
    for i, name in enumerate(given.examples.id):
        key = (name, None if sides is None else sides[i])
        if key in by_id:
            assert by_id[key] == pytest.approx(result.scores[i])
    report = result.task.splits.report
    assert len(lines) == len(report) * (2 if given.examples.kind == "pair" else 1)


def test_the_artefact_carries_the_score_distributions_by_tag(planted, tmp_path):
    given, _, result = planted
    found = result.probe.distributions
    rows = result.task.rows[result.task.splits.choose]
    name = {"pair": "chosen", "label": "yes", "rating": "score"}[given.examples.kind]
    if given.examples.kind == "label":
        rows = rows[given.examples.label[rows] == 1]
    np.testing.assert_allclose(found["all"][name], result.scores[rows], atol=1e-6)
    parts = [len(found["by_tag"]["half"][value][name]) for value in ("a", "b")]
    assert sum(parts) == len(rows)


def test_a_probe_refuses_other_activations(planted):
    given, _, result = planted
    with pytest.raises(ProbeError, match=r"shape is \(3, 5\), the probe expects \(n, 24\)"):
        result.probe.score(np.zeros((3, 5)))
    with pytest.raises(ProbeError, match="read at position last, the probe was fitted at mean"):
        result.probe.score(np.zeros((3, 24)), position="last")


def test_what_is_not_a_probe_is_refused(planted, tmp_path):
    _, _, result = planted
    with pytest.raises(ProbeError, match="no such directory"):
        Probe.load(tmp_path / "none")
    with pytest.raises(ProbeError, match=r"has no probes\.json"):
        Probe.load(tmp_path)
    result.save(tmp_path)
    with pytest.raises(ProbeError, match="holds no probe with .*layer=17"):
        Probe.load(tmp_path, layer=17)
    header = json.loads((tmp_path / "probes.json").read_text())
    for change, match in (
        ({"format_version": 9}, "Update probekit"),
        ({"complete": False}, "not a complete probekit probe"),
        ({"format": "other"}, "not a complete probekit probe"),
    ):
        write_json(tmp_path / "probes.json", {**header, **change})
        with pytest.raises(ProbeError, match=match):
            Probe.load(tmp_path)
    (tmp_path / "probes.json").write_text("{")
    with pytest.raises(ProbeError, match="partial or damaged"):
        Probe.load(tmp_path)
    write_json(tmp_path / "probes.json", header)
    (tmp_path / "probes.safetensors").write_bytes(b"short")
    with pytest.raises(ProbeError, match="has 5 bytes, .* were written"):
        Probe.load(tmp_path)


def test_splits_never_share_a_group_and_do_not_depend_on_the_order():
    rng = np.random.default_rng()
    groups = rng.integers(0, 97, size=1000).astype(str)
    splits = split_by_group(groups, seed=3)
    parts = [set(groups[part]) for part in splits]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert sum(map(len, parts)) == len(set(groups))
    assert [len(part) for part in parts] == pytest.approx([58, 19.5, 19.5], abs=1.5)
    order = rng.permutation(1000)
    again = split_by_group(groups[order], seed=3)
    assert [set(groups[order][part]) for part in again] == parts
    assert [set(groups[part]) for part in split_by_group(groups, seed=4)] != parts
    three = split_by_group(np.array(["a", "b", "c"]))
    assert sorted(map(len, three)) == [1, 1, 1]
    folds = fold_by_group(groups, 5, seed=0)
    assert all(len(set(folds[groups == name])) == 1 for name in set(groups))
    assert np.bincount(folds).max() - np.bincount(folds).min() < 25


def test_rare_classes_reach_every_split():
    groups = np.arange(60).astype(str)
    labels = (np.arange(60) < 6).astype(int)
    for seed in range(5):
        for part in split_by_group(groups, strata=labels, seed=seed):
            assert set(labels[part]) == {0, 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tag_is_spread_evenly_over_the_splits_where_it_is_asked(kind):
    rng = np.random.default_rng()
    rows = examples(kind, 200, rng, signal=rng.standard_normal(200))
    step = 2 if kind == "pair" else 1
    rare = np.repeat(np.where(np.arange(200) < 20, "a", "b"), step)
    given = dataclasses.replace(rows, tags={"rare": rare})
    for seed in range(5):
        task = Task.of(given, seed=seed, stratify="rare")
        counts = [(rare[::step][part] == "a").sum() for part in task.splits]
        # Of 10 groups; labels split them into up to three strata.
        assert sum(counts) == 20 and min(counts) >= 2 and counts[0] in (10, 12, 14)
        again = Task.of(given, seed=seed)
        assert any(
            (a.size, *a) != (b.size, *b) for a, b in zip(task.splits, again.splits, strict=True)
        )
    for tags in ({}, {"rare": np.where(np.arange(len(rare)) < 2, "", rare)}):
        wrong = dataclasses.replace(rows, tags=tags)
        with pytest.raises(DataError, match=r"stratify 'rare': \d+ of \d+ rows have no such tag"):
            Task.of(wrong, stratify="rare")


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        (
            "rating",
            lambda e: {"group": np.array(["a"] * len(e))},
            "groups: 1 in all, expected at least 3",
        ),
        ("rating", lambda e: {"score": np.full(len(e), 3.0)}, "every score is 3"),
        ("label", lambda e: {"label": np.zeros(len(e), dtype=int)}, "one class only"),
        (
            "label",
            lambda e: {"label": (e.group == e.group[0]).astype(int)},
            "split has one class only",
        ),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(kind, change, match):
    import dataclasses

    rng = np.random.default_rng(0)
    rows = examples(kind, 40, rng, signal=rng.standard_normal(40))
    with pytest.raises(DataError, match=match):
        Task.of(dataclasses.replace(rows, **change(rows)))


def test_shuffled_labels_lose_every_relation_also_within_groups():
    """Groups that all hold one row of each class would survive a swap of whole groups."""
    import dataclasses

    rng = np.random.default_rng(0)
    rows = examples("label", 400, rng, signal=rng.standard_normal(400))
    rows = dataclasses.replace(rows, label=np.arange(400) % 2)
    task = Task.of(rows)
    target = task.target[task.splits.fit]
    agreement = [
        np.mean(task.shuffled(np.random.default_rng(seed)) == target) for seed in range(20)
    ]
    assert 0.4 < np.mean(agreement) < 0.6
