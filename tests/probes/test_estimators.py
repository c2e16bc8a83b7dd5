"""Estimators against scikit-learn, closed forms, finite differences and planted directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from probekit.errors import DataError, ProbeError
from probekit.probes import (
    BradleyTerryProbe,
    LogisticProbe,
    MeanDifferenceProbe,
    RidgeProbe,
    solvers,
)
from probekit.probes.solvers import (
    choose_l2,
    logistic_fold_loss,
    logistic_paths,
    ridge_fold_loss,
    solve_logistic,
)
from probekit.probes.spectrum import Spectrum, l2_grid

SEED = np.random.SeedSequence().entropy % 2**32  # any seed must pass


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


@pytest.mark.filterwarnings("ignore:.*check_estimators_unfitted.*")
@parametrize_with_checks(
    [RidgeProbe(), RidgeProbe(scale_target=False), LogisticProbe(), MeanDifferenceProbe()]
)
def test_the_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("n", "d"), [(200, 30), (40, 90)])
@pytest.mark.parametrize("l2", [0.1, 30.0])
def test_ridge_equals_scikit_learn(rng, n, d, l2):
    x, y = rng.standard_normal((n, d)) * 3 + 1, rng.standard_normal(n)
    ours = RidgeProbe(l2, standardize=False, scale_target=False).fit(x, y)
    theirs = Ridge(alpha=l2).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-5, atol=1e-8)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-5, abs=1e-8)


def test_ridge_folds_standardisation_and_rating_scale_into_raw_space(rng):
    x = rng.standard_normal((150, 12)) * rng.uniform(0.01, 100, 12) + 7
    y = 4 + rng.standard_normal(150)
    probe = RidgeProbe(5.0).fit(x, y)
    z = (x - x.mean(0)) / x.std(0)
    low, high = y.min(), y.max()
    by_hand = Ridge(alpha=5.0).fit(z, 2 * (y - low) / (high - low) - 1)
    np.testing.assert_allclose(x @ probe.coef_ + probe.intercept_, by_hand.predict(z), atol=1e-6)
    np.testing.assert_allclose(
        probe.predict(x), (by_hand.predict(z) + 1) / 2 * (high - low) + low, atol=1e-6
    )


@pytest.mark.parametrize(("n", "d"), [(250, 15), (60, 100)])
def test_logistic_equals_scikit_learn(rng, n, d):
    x = rng.standard_normal((n, d))
    y = (x[:, 0] + rng.standard_normal(n) > 0).astype(int)
    ours = LogisticProbe(2.0, standardize=False).fit(x, y)
    theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], rtol=1e-4, atol=1e-5)
    assert ours.intercept_ == pytest.approx(theirs.intercept_[0], rel=1e-4, abs=1e-5)


def preferences(rng, n=220, d=14, strength=1.5):
    w = rng.standard_normal(d)
    w /= np.linalg.norm(w)
    a, b = rng.standard_normal((n, d)) + 5, rng.standard_normal((n, d)) + 5
    first = rng.random(n) < 1 / (1 + np.exp(-strength * (a - b) @ w))
    return np.where(first[:, None], a, b), np.where(first[:, None], b, a), w


def test_bradley_terry_equals_scikit_learn_on_symmetrised_differences(rng):
    chosen, rejected, _ = preferences(rng)
    ours = BradleyTerryProbe(3.0, standardize=False).fit(chosen, rejected)
    x = np.concatenate([chosen - rejected, rejected - chosen])
    y = np.repeat([1, 0], len(chosen))
    # Symmetrising counts every pair twice, so the penalty does too: C = 1 / (2 l2).
    theirs = LogisticRegression(C=1 / 6, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], rtol=1e-4, atol=1e-5)
    assert ours.intercept_ == 0.0


def test_bradley_terry_is_stationary_by_finite_differences(rng):
    chosen, rejected, _ = preferences(rng)
    w = BradleyTerryProbe(3.0, standardize=False).fit(chosen, rejected).coef_

    def loss(w):
        return np.logaddexp(0, -(chosen - rejected) @ w).sum() + 1.5 * w @ w

    for k in range(len(w)):
        step = np.eye(len(w))[k] * 1e-5
        assert abs(loss(w + step) - loss(w - step)) / 2e-5 < 1e-4  # curvature is about 100
        assert loss(w + 100 * step) > loss(w)


@pytest.mark.parametrize("head", ["linear", "projection"])
def test_swapping_chosen_and_rejected_flips_the_sign(rng, head):
    chosen, rejected, _ = preferences(rng)

    def options():
        # W starts at zero mean: the swap is exact for the convex head, and up to the start for W.
        return {"head": head, "steps": 2000, "learning_rate": 1e-2}

    there = BradleyTerryProbe(3.0, **options()).fit(chosen, rejected)
    back = BradleyTerryProbe(3.0, **options()).fit(rejected, chosen)
    if head == "linear":
        np.testing.assert_allclose(there.coef_, -back.coef_, rtol=1e-8, atol=1e-10)
    else:
        cosine = there.coef_ @ back.coef_ / np.linalg.norm(there.coef_) / np.linalg.norm(back.coef_)
        assert cosine < -0.99


def test_projection_reaches_the_direction_of_the_exact_solve(rng):
    chosen, rejected, _ = preferences(rng, n=600)
    exact = BradleyTerryProbe(10.0).fit(chosen, rejected).coef_
    generator = torch.Generator().manual_seed(int(SEED))
    trained = BradleyTerryProbe(
        10.0, head="projection", steps=1500, learning_rate=1e-2, generator=generator
    )
    found = trained.fit(chosen, rejected).coef_
    assert found @ exact / np.linalg.norm(found) / np.linalg.norm(exact) > 0.98


@pytest.mark.parametrize("kind", ["ridge", "logistic", "mean-difference", "bradley-terry"])
def test_planted_directions_are_recovered(rng, kind):
    # So many rows that 0.99 is ten standard deviations below what chance alone makes of any kind.
    n, d = 10_000, 20
    w = rng.standard_normal(d)
    w /= np.linalg.norm(w)
    x = rng.standard_normal((n, d))
    if kind == "ridge":
        coef = RidgeProbe(1.0).fit(x, x @ w + 0.1 * rng.standard_normal(n)).coef_
    elif kind == "bradley-terry":
        a, b = x, rng.standard_normal((n, d))
        first = ((a - b) @ w > 0)[:, None]
        coef = BradleyTerryProbe(1.0).fit(np.where(first, a, b), np.where(first, b, a)).coef_
    else:
        y = rng.integers(2, size=n)
        x = x + np.outer(2 * y - 1, w)
        probe = LogisticProbe(10.0) if kind == "logistic" else MeanDifferenceProbe()
        coef = probe.fit(x, y).coef_
    assert coef @ w / np.linalg.norm(coef) > 0.99


def test_mean_difference_is_the_difference_of_means_and_a_log_odds(rng):
    y = rng.integers(2, size=3000)
    x = rng.standard_normal((3000, 6)) + np.outer(y, np.arange(6) / 3)
    probe = MeanDifferenceProbe().fit(x, y)
    difference = x[y == 1].mean(0) - x[y == 0].mean(0)
    ratio = probe.coef_ / difference
    np.testing.assert_allclose(ratio, ratio[0])
    assert ratio[0] > 0
    chance = probe.predict_proba(x)[:, 1]
    # Mean probability equals the class rate: the calibration has an unpenalised intercept.
    assert chance.mean() == pytest.approx(y.mean(), abs=1e-6)


def test_refit_forgets_and_bad_input_is_named(rng):
    chosen, rejected, _ = preferences(rng)
    probe = BradleyTerryProbe(3.0)
    first = probe.fit(chosen, rejected).coef_.copy()
    probe.fit(chosen[:50], rejected[:50])
    np.testing.assert_array_equal(probe.fit(chosen, rejected).coef_, first)
    with pytest.raises(ValueError, match=r"chosen has shape \(220, 14\)"):
        probe.fit(chosen, rejected[:5])
    with pytest.raises(ProbeError, match="expected linear or projection"):
        BradleyTerryProbe(head="deep").fit(chosen, rejected)
    with pytest.raises(DataError, match="is empty"):
        RidgeProbe(scale_target=(3.0, 1.0)).fit(chosen, chosen[:, 0])


@pytest.mark.parametrize(("n", "d", "n_folds"), [(240, 20, 4), (90, 60, 5), (60, 150, 4)])
def test_leaving_folds_out_equals_refitting_without_them(rng, n, d, n_folds):
    """Covers the block form (small folds), the Gram form (large folds), and n < d."""
    x, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    x -= x.mean(0)
    folds = rng.permutation(np.arange(n) % n_folds)
    penalties = np.array([1.0, 50.0])
    expected = np.zeros(2)
    for k, l2 in enumerate(penalties):
        for fold in range(n_folds):
            out = folds == fold
            refit = Ridge(alpha=l2).fit(x[~out], y[~out])
            expected[k] += ((y[out] - refit.predict(x[out])) ** 2).sum() / n
    found, _ = ridge_fold_loss(Spectrum.of(x), y, folds)(penalties)
    np.testing.assert_allclose(found, expected, rtol=2e-3)  # float32


@pytest.mark.parametrize("intercept", [True, False])
def test_the_batched_logistic_fits_equal_the_exact_ones(rng, intercept):
    x = rng.standard_normal((160, 25)) * rng.uniform(0.2, 4, 25)
    sign = np.where(x[:, 0] + rng.standard_normal(160) > 0.3, 1.0, -1.0)
    x -= x.mean(0)
    spectrum, penalties = Spectrum.of(x), np.array([3.0, 300.0])
    folds = np.arange(160) % 3
    loss, _ = logistic_fold_loss(spectrum, sign, folds, intercept=intercept)(penalties)
    expected = np.zeros(2)
    for k, l2 in enumerate(penalties):
        for fold in range(3):
            out = folds == fold
            w, b = solve_logistic(spectrum.features[~out], sign[~out], l2, intercept=intercept)
            logits = spectrum.features[out] @ w + b
            expected[k] += np.logaddexp(0, -sign[out] * logits).sum() / 160
    # The paths stop early: they rank penalties, and start an exact solve. Over 300 draws of these
    # data the loss was at most 0.4 % away, weights and bias 1.1 %.
    np.testing.assert_allclose(loss, expected, rtol=1e-2)
    w, b, _ = logistic_paths(spectrum, sign, penalties, np.ones((160, 1)), intercept=intercept)
    for k, l2 in enumerate(penalties):
        exact, bias = solve_logistic(spectrum.features, sign, l2, intercept=intercept)
        np.testing.assert_allclose(w[:, 0, k], exact, atol=3e-2 * np.abs(exact).max())
        assert float(b[0, k]) == pytest.approx(bias, abs=3e-2)


def fading(rng, n=160, d=120):
    """Features of fast fading variance, and signs that a few of them tell."""
    x = rng.standard_normal((n, d)) * np.geomspace(30, 0.3, d)
    x -= x.mean(0)
    sign = np.where(x[:, 40:44] @ np.ones(4) / 4 + rng.standard_normal(n) > 0, 1.0, -1.0)
    return x, sign, rng.permutation(np.arange(n) % 4)


def penalised(x, sign, l2, w):
    """The logistic loss of weights, the last of which is an intercept that is not penalised."""
    return np.logaddexp(0, -sign * (x @ w[:-1] + w[-1])).sum() + l2 * w[:-1] @ w[:-1] / 2


def minimum(x, sign, l2, *, intercept):
    """Weights, the intercept last, where Newton's steps in float64 find nothing to gain any more."""
    x1 = np.c_[x, np.full(len(x), float(intercept))]
    curve, w = np.r_[np.full(x.shape[1], l2), 0.0 if intercept else 1.0], np.zeros(x.shape[1] + 1)
    for _ in range(300):
        p = np.exp(-np.logaddexp(0, sign * (x1 @ w)))
        gradient = curve * w - x1.T @ (sign * p)
        step, size = np.linalg.solve((x1.T * (p * (1 - p))) @ x1 + np.diag(curve), gradient), 1.0
        if step @ gradient < 1e-12:
            return w
        while penalised(x, sign, l2, w - size * step) > penalised(x, sign, l2, w):
            size /= 2
        w = w - size * step
    raise AssertionError("no minimum")


@pytest.mark.parametrize("intercept", [True, False])
def test_logistic_fold_losses_of_small_penalties_equal_refits(rng, intercept):
    """Below the first grid too, where a pass of fixed length stops far from the minimum."""
    x, sign, folds = fading(rng)
    spectrum = Spectrum.of(x)
    penalties = l2_grid(spectrum, tuple(10.0 ** np.array([-5.5, -4.5, -3.5, -2.5, -1.5])))
    loss, converged = logistic_fold_loss(spectrum, sign, folds, intercept=intercept)(penalties)
    masks = (folds[:, None] != np.arange(4)).astype(float)
    paths = logistic_paths(spectrum, sign, penalties, masks, intercept=intercept)
    own, expected = np.zeros(len(penalties)), np.zeros(len(penalties))
    for k, l2 in enumerate(penalties):
        for fold in range(4):
            out, features = folds == fold, spectrum.features
            found = np.r_[paths.weights[:, fold, k].double(), float(paths.bias[fold, k])]
            best = minimum(x[~out], sign[~out], l2, intercept=intercept)
            # What is promised, beside the rounding of float32: so far from the minimum at most.
            gap = penalised(features[~out], sign[~out], l2, found)
            gap -= penalised(x[~out], sign[~out], l2, best)
            assert gap <= (solvers.GAP + 1e-6) * len(sign)
            for total, rows, w in ((own, features, found), (expected, x, best)):
                logits = rows[out] @ w[:-1] + w[-1]
                total[k] += np.logaddexp(0, -sign[out] * logits).sum() / len(sign)
    assert converged
    np.testing.assert_allclose(loss, own, rtol=1e-4)  # float32 logits of some tens
    # On rows that were held out the gap shows as it may: 0.8 % was the most of 400 data sets.
    np.testing.assert_allclose(loss, expected, rtol=4e-2)


def test_a_fit_that_does_not_converge_says_so(rng, monkeypatch):
    x, sign, folds = fading(rng)
    spectrum = Spectrum.of(x)
    fits = [spectrum, sign, l2_grid(spectrum, (1e-4, 1e2)), np.ones((len(sign), 1))]
    assert logistic_paths(*fits, intercept=True, steps=5).converged.all()  # by Newton steps
    assert logistic_paths(*fits, intercept=False, steps=3).converged.all()  # none is done before
    monkeypatch.setattr(solvers, "solve_logistic", fails)
    assert logistic_paths(*fits, intercept=True, steps=5).converged.tolist() == [[False, True]]
    assert not logistic_fold_loss(spectrum, sign, folds, intercept=True)(np.array([1e-9]))[1]


def fails(*args, **options):
    raise ProbeError("no minimum")


@pytest.mark.parametrize(
    ("best", "l2", "end", "asked"),
    [(1.0, 1.0, None, [2, 1]), (0.05, 0.1, None, [2, 1, 2]), (40.0, 100.0, None, [2, 2]),
     (2e3, 1e3, "high", [2, 2]), (0.0, 1e-4, "low", [2, 1, 2, 1])],
)  # fmt: skip
def test_the_grid_grows_while_its_end_is_best(best, l2, end, asked):
    sizes = []

    def fold_loss(penalties):
        sizes.append(len(penalties))
        return np.abs(np.log(penalties) - np.log(max(best, 1e-30))) + 1, True

    choice = choose_l2(fold_loss, np.array([0.1, 1.0, 10.0]), (1e-4, 1e3))
    assert choice.l2 == pytest.approx(l2) and choice[1:] == (end, True)
    assert sizes == asked


def test_small_penalties_are_not_tried_where_the_loss_rises_towards_them():
    def fold_loss(penalties):
        assert penalties.min() >= 1.0
        return np.abs(np.log(penalties / 1e3)), True

    assert choose_l2(fold_loss, 10.0 ** np.arange(-2, 5), (1e-9, 1e9)) == (1e3, None, True)


def test_a_penalty_without_a_loss_bounds_the_grid():
    def fold_loss(penalties):
        return np.where(penalties < 0.05, np.inf, penalties), True

    assert choose_l2(fold_loss, np.array([0.1, 1.0, 10.0]), (1e-9, 1e9)) == (0.1, "low", True)
    assert choose_l2(fold_loss, np.array([3.0]), (1e-9, 1e9)) == (3.0, None, True)


def test_the_penalty_found_beyond_the_grid_is_the_best_of_refits(rng):
    """Little noise: far less penalty is best than the first grid has."""
    x = rng.standard_normal((200, 20)) * np.geomspace(3, 0.1, 20)
    x -= x.mean(0)
    y, folds = x @ rng.standard_normal(20) + 0.01 * rng.standard_normal(200), np.arange(200) % 4
    spectrum, grid = Spectrum.of(x), 10.0 ** np.arange(-3.0, 4.0)
    found = choose_l2(ridge_fold_loss(spectrum, y, folds), grid[4:], (grid[0], 1e9))
    error = np.zeros(len(grid))
    for k, l2 in enumerate(grid):
        for fold in range(4):
            out = folds == fold
            refit = Ridge(alpha=l2).fit(x[~out], y[~out])
            error[k] += ((y[out] - refit.predict(x[out])) ** 2).sum()
    chosen = int(np.argmin(np.abs(grid - found.l2)))
    assert chosen < 4
    assert error[chosen] <= min(error) * 1.01
