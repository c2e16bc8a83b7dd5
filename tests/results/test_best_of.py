"""Best of n against every subset, against fresh draws, and against the exact divergence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from probekit.results.best_of import best_of, ladder, picked, picking_kl
from probekit.results.intervals import NO_VALUE
from probekit.results.rl import RLRun
from tests.reports.rl_factory import MadeRL, write_rl


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_the_mean_over_every_subset_and_every_tie(n, rng):
    scores = np.array([0.3, 2.0, 2.0, -1.0, 0.3, 2.0])
    values = rng.standard_normal((6, 2))
    # Of samples with one score any is as likely to be picked, so only the mean of the block counts.
    block = values.copy()
    for score in np.unique(scores):
        block[scores == score] = values[scores == score].mean(axis=0)
    exact = np.mean(
        [
            block[max(subset, key=lambda i: scores[i])]
            for subset in itertools.combinations(range(6), n)
        ],
        axis=0,
    )
    np.testing.assert_allclose(best_of(scores, values, n), exact)


def test_the_expected_largest_of_n_normals(rng):
    """E[max of 8] of a standard normal is 1.4236."""
    found = [best_of(s, s[:, None], 8)[0] for s in rng.standard_normal((4000, 32))]
    assert np.mean(found) == pytest.approx(1.4236, abs=4 * np.std(found) / math.sqrt(4000))


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_the_divergence_lies_between_the_exact_one_and_the_bound(n):
    """Six sequences with known probabilities and distinct scores: KL by its definition."""
    p = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    below = np.concatenate([[0.0], np.cumsum(p)])
    picked_p = below[1:] ** n - below[:-1] ** n  # by rising score
    exact = float(np.sum(picked_p * np.log(picked_p / p)))
    estimate = float(picked_p @ picking_kl(np.log(p), n))
    bound = math.log(n) - (n - 1) / n
    assert exact <= estimate <= bound + 1e-12
    assert estimate - exact < 0.04
    rare = picking_kl(np.full(3, -80.0), n)
    np.testing.assert_allclose(rare, bound)


def test_a_frame_of_samples_is_picked_prompt_by_prompt(rng):
    rows = pd.DataFrame(
        {
            "prompt_id": np.repeat(["a", "b", "c"], [4, 4, 2]),
            "score": [1, 2, 3, 4, 4, 3, 2, np.nan, 1, 2],
            "wanted": [0, 0, 1, 1, 1, 0, 0, 0, 1, 0],
            "entropy": 2.0,
            "n_tokens": 30,
        }
    )
    found = picked(rows, ["score", "wanted"], 3)
    assert list(found.index) == ["a", "b"]  # c has two samples
    assert found.loc["a", "score"] == pytest.approx((3 * 1 + 4 * 3) / 4)
    assert found.loc["b", ["score", "wanted"]].tolist() == [4, 1]
    np.testing.assert_allclose(found["kl"], math.log(3) - 2 / 3)
    assert picked(rows, ["score"], 1).loc["a", "score"] == pytest.approx(2.5)
    assert ladder(1) == [1] and ladder(12) == [1, 2, 4, 8, 12] and ladder(16) == [1, 2, 4, 8, 16]


def run_of(folder, **made):
    return RLRun.open(write_rl(folder, MadeRL(prompts=40, **made)))


def test_training_is_held_against_picking_at_the_same_score(tmp_path):
    """The n of the comparison and the gaps, by picking with fresh draws from the same rows."""
    run = run_of(tmp_path / "run", best_of=16, picked=0.1, score=1.2, follow=0.6)
    found, rows = run.picks, pd.read_json(tmp_path / "run" / "best_of.jsonl", lines=True)
    last = run.rows[run.rows["step"] == run.evaluated[-1]]
    goal = last.groupby("prompt_id")["score"].mean()
    rng, means = np.random.default_rng(0), {}
    for n in (found.n - 1, found.n):
        drawn = [
            [
                part.iloc[chosen[np.argmax(part["score"].to_numpy()[chosen])]][["score", "wanted"]]
                for chosen in (rng.permutation(16)[:n] for _ in range(60))
            ]
            for _, part in rows.groupby("prompt_id")
        ]
        means[n] = np.array([[list(row) for row in part] for part in drawn], float).mean(
            axis=(0, 1)
        )
    assert means[found.n - 1][0] < goal.mean() + 0.03 and means[found.n][0] > goal.mean() - 0.03
    assert found.reached and found.score.value <= 0
    gap = last["wanted"].astype(float).mean() - means[found.n][1]
    assert found.behaviour.value == pytest.approx(gap, abs=0.04)
    assert found.behaviour.side() > 0  # training moved the behaviour further than the score says
    assert [point.step for point in found.points] == [1, 2, 4, 8, 16]
    score = [point.score.value for point in found.points]
    assert score[0] == 0 and score == sorted(score)
    kl = [(math.log(n) - (n - 1) / n) for n in (1, 2, 4, 8, 16)]
    tokens = picked(rows, ["n_tokens"], 1)["n_tokens"].mean()
    np.testing.assert_allclose([p.root_kl for p in found.points], np.sqrt(kl / tokens), rtol=0.05)


def test_picking_that_does_as_well_is_said_and_a_score_out_of_reach_too(tmp_path):
    same = run_of(tmp_path / "same", best_of=16, picked=0.1, score=1.0, follow=0.1).picks
    assert same.reached and same.behaviour.side() == 0
    far = run_of(tmp_path / "far", best_of=4, score=9.0).picks
    assert not far.reached and far.n == 4 and far.score.side() > 0
    assert run_of(tmp_path / "none").picks is None


def test_a_score_that_moves_no_further_than_a_placebo_is_told_from_one_that_does(tmp_path):
    for planted, side in ((0.2, 1), (6.0, -1)):
        run = run_of(tmp_path / f"{planted}", placebo=planted)
        name, over = run.over_placebo
        sizes = {}
        for measure in ("score", *run.placebos):
            prompts, before, after = run.paired(measure)
            sizes[measure] = abs(float((after - before).mean() / before.std()))
        assert over.value == pytest.approx(sizes["score"] - sizes[name])
        assert sizes[name] == max(sizes[other] for other in run.placebos)
        assert over.side() == side
    assert run_of(tmp_path / "none").over_placebo == ("", NO_VALUE)
