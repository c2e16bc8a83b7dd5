"""What no head can be fitted to is refused in one line, and what prefers nothing is left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from probekit.activations.table import Cell
from probekit.errors import DataError, ProbeError
from probekit.probes import Probe, SweepConfig, fit_sweep
from probekit.probes.task import Task
from tests.probes.synthetic import source

QUICK = SweepConfig(n_boot=20)


@pytest.mark.parametrize("kind", ["pair", "label", "rating"])
def test_activations_that_are_all_the_same_are_refused(kind):
    made, _ = source(kind, n=80, d=6, layers=1, positions=("last",))
    made.acts = {cell: np.ones_like(acts) for cell, acts in made.acts.items()}
    with pytest.raises(ProbeError, match=r"heads: the weights of all 1 are zero: the activations"):
        fit_sweep(made, QUICK)


@pytest.mark.parametrize("kind", ["pair", "label"])
@pytest.mark.parametrize("head", ["auto", "mean-difference"])
def test_a_cell_without_a_head_is_not_chosen_and_has_no_direction(kind, head):
    made, _ = source(kind, n=80, d=6, layers=2, positions=("last",), planted=(1, "last"))
    blind = Cell("resid_post", 0, "last")
    made.acts[blind] = np.ones_like(made.acts[blind])
    result = fit_sweep(made, SweepConfig(n_boot=20, kinds=head))
    assert result.probe.layer == 1
    assert result.record()["cosine"]["layers"] == [1]
    with pytest.raises(ProbeError, match="its weights are zero, so it has no direction"):
        _ = next(probe for probe in result.probes if probe.layer == 0).direction


def test_activations_that_are_not_finite_are_named():
    made, _ = source("label", n=80, d=6, layers=2, positions=("last",))
    made.acts[Cell("resid_post", 1, "last")][[3, 5], 2] = [np.nan, np.inf]
    with pytest.raises(
        ProbeError, match=r"resid_post/001/last: the activations of 2 of 80 rows are"
    ):
        fit_sweep(made, QUICK)
    probe = Probe(
        "ridge", None, Cell("resid_post", 1, "last"), np.array([np.nan, 1.0]), 0.0, 1.0, "rating"
    )
    with pytest.raises(ProbeError, match="its weights are not finite"):
        _ = probe.direction


def test_before_the_answer_both_sides_of_a_pair_are_the_same():
    """A head there is fitted to rounding, however well it seems to do."""
    made, _ = source("pair", n=80, d=6, layers=1, positions=("last", "prompt_end"))
    assert {row.cell.position for row in fit_sweep(made, QUICK).rows} == {"last"}
    with pytest.raises(ProbeError, match="position prompt_end: stands before the answer"):
        fit_sweep(made, SweepConfig(n_boot=20, positions="prompt_end"))


def test_pairs_of_one_text_are_in_no_split():
    made, _ = source("pair", n=90, d=6, layers=1, positions=("last",))
    same = np.arange(90) % 9 == 0
    marked = dataclasses.replace(made.examples, identical=same)
    task = Task.of(marked, group_cap=1)
    assert not same[task.used].any()
    counts = task.counts()
    assert (counts["examples"], counts["identical"]) == (90, 10)
    assert counts["capped"] == 80 - len(task.used) and counts["capped"] > 0
    for fold in Task.of(marked).outer_folds(3):
        assert not same[np.concatenate(fold.splits)].any()
    # The splits of the rest are those that it would have alone.
    alone = np.repeat(~same, 2)
    rest = dataclasses.replace(
        made.examples,
        **{
            name: getattr(made.examples, name)[alone]
            for name in ("id", "group", "n_tokens", "prompt", "completion", "side")
        },
        tags={},
    )
    one, other = Task.of(marked), Task.of(rest)
    for own, theirs in zip(one.splits, other.splits, strict=True):
        assert marked.id[one.rows[own]].tolist() == rest.id[other.rows[theirs]].tolist()
    with pytest.raises(DataError, match="pairs: the sides of all 90 are the same text"):
        Task.of(dataclasses.replace(made.examples, identical=np.ones(90, dtype=bool)))


def test_a_stated_scale_is_what_scores_stand_for_and_ratings_outside_are_refused():
    made, _ = source("rating", n=120, d=6, layers=2)  # ratings about 5, of spread 2
    stated = fit_sweep(made, n_boot=20, scale="-10:20")
    own = fit_sweep(made, n_boot=20)
    assert stated.probe.score_range == (-10.0, 20.0)
    acts = made.acts[stated.probe.cell]
    # The same ratings, on another scale of scores.
    assert np.allclose(
        stated.probe.rating(stated.probe.score(acts)), own.probe.rating(own.probe.score(acts))
    )
    assert stated.report["pearson"].value == pytest.approx(own.report["pearson"].value)
    with pytest.raises(
        DataError, match=r"row 'r\d+': rating .* is outside of the scale 4:6, as \d+ of 120"
    ):
        fit_sweep(made, n_boot=20, scale="4:6")
    for scale in ("1", "5:1", "a:b", "0:inf"):
        with pytest.raises(DataError, match="expected LOW:HIGH, such as 1:10"):
            fit_sweep(made, n_boot=20, scale=scale)
    labels, _ = source("label", n=80, d=6, layers=1, positions=("last",))
    with pytest.raises(DataError, match="the store has label rows, which have no ratings"):
        fit_sweep(labels, n_boot=20, scale="1:10")
