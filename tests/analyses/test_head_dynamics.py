"""Head dynamics: the algebra holds to rounding, the exact solution is sklearn's, keys follow numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probekit.analyses import DynamicsConfig, head_dynamics, parse_learning_rates
from probekit.analyses.conclusion import explained_by
from probekit.analyses.geometry import TINY, exact_solutions, geometry
from probekit.analyses.parametrisations import (
    PARAMETRISATIONS,
    Starts,
    StepSize,
    base_setting,
    batch_order,
    rescaled_setting,
    start_scale,
    step_factor,
    train_projection,
    train_vectors,
)
from probekit.analyses.windows import CHANCE, window
from probekit.errors import ProbeError
from probekit.results.dynamics import RUNS


def planted(n, d=24, seed=0, noise=1.0, decades=1.0):
    """Differences along a planted direction; the scales of coordinates go over +-`decades`."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** np.linspace(-decades, decades, d)
    planted_direction = np.random.default_rng(99).normal(size=d)
    x = rng.normal(size=(n, d)) * noise + 0.6 * planted_direction
    return (x * scale).astype(np.float32)


def both_paths(optimizer, setting, d=12, steps=40):
    """Effective vectors of the projection and of the predicted direct vector, in float64."""
    x = torch.from_numpy(planted(50, d)).double()
    starts = Starts.draw(d, 3, torch.float64)
    batches = batch_order(50, 16, steps, 3)
    matrix = list(train_projection(x, starts.matrix, batches, setting, optimizer))
    other = rescaled_setting(optimizer, setting, d)
    vector = list(train_vectors(x, starts.effective, batches, [other], optimizer))
    return torch.cat(matrix), torch.cat(vector)


@pytest.mark.parametrize("learning_rate", [1e-4, 1e-2])
@pytest.mark.parametrize(
    ("optimizer", "weight_decay"), [("adamw", 1e-2), ("adamw", 0.5), ("sgd", 0.0), ("sgd", 0.3)]
)
def test_a_rescaled_vector_takes_the_projections_path(optimizer, weight_decay, learning_rate):
    matrix, vector = both_paths(optimizer, StepSize(learning_rate, weight_decay))
    assert matrix.shape == vector.shape == (41, 12)
    moved = (matrix[-1] - matrix[0]).abs().max()
    assert moved > 1e-5
    torch.testing.assert_close(vector, matrix, rtol=0, atol=1e-9 * float(1 + moved))


def test_each_part_of_the_prediction_is_needed():
    """Leave out eps, decay or the factor, and the vector leaves the path: the test above can fail."""
    d, setting = 12, StepSize(1e-2, 0.5, eps=1e-3)
    matrix, vector = both_paths("adamw", setting, d)
    torch.testing.assert_close(vector, matrix, rtol=0, atol=1e-9)
    x = torch.from_numpy(planted(50, d)).double()
    starts, batches = Starts.draw(d, 3, torch.float64), batch_order(50, 16, 40, 3)
    right = rescaled_setting("adamw", setting, d)
    for wrong in (
        right._replace(eps=setting.eps),
        right._replace(weight_decay=setting.weight_decay),
        right._replace(learning_rate=setting.learning_rate),
    ):
        (*_, last) = train_vectors(x, starts.effective, batches, [wrong], "adamw")
        assert (last - matrix[-1]).abs().max() > 1e-4


def test_factors_and_starts_are_those_of_the_formulas():
    assert step_factor("adamw", 576) == pytest.approx(5.76)
    assert step_factor("sgd", 576) == pytest.approx(0.0576)
    d = 400
    draws = [Starts.draw(d, seed) for seed in range(20)]
    for name, values in (
        ("direct", torch.cat([start.vector for start in draws])),
        ("projection", torch.cat([start.effective for start in draws])),
    ):
        assert float(values.std()) == pytest.approx(start_scale(name, d), rel=0.05)
    bound = torch.nn.Linear(d, 1).weight.detach().abs().max()
    assert float(draws[0].vector.abs().max()) == pytest.approx(float(bound), rel=0.05)


def test_every_setting_of_a_batch_of_vectors_trains_as_it_would_alone():
    x = torch.from_numpy(planted(40, 8)).double()
    start, batches = Starts.draw(8, 0, torch.float64).vector, batch_order(40, 16, 25, 0)
    scale = x.square().mean(dim=0).sqrt()
    for optimizer in ("adamw", "sgd"):
        settings = [base_setting(optimizer, rate) for rate in (1e-4, 1e-2)]
        (*_, both) = train_vectors(x, start, batches, settings, optimizer, scale)
        # The same by autograd on features that are really divided.
        w = start.clone().requires_grad_()
        kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
        stepper = kind([w], lr=1e-2, weight_decay=settings[1].weight_decay)
        for rows in batches:
            stepper.zero_grad()
            torch.nn.functional.softplus(-(x[rows] / scale) @ w).mean().backward()
            stepper.step()
        torch.testing.assert_close(both[1], w.detach() / scale, rtol=1e-8, atol=1e-10)


def test_batches_go_through_every_pair_before_any_comes_again():
    order = batch_order(10, 4, 5, seed=1)
    assert order.shape == (5, 4)
    assert sorted(order.reshape(-1)[:10]) == sorted(order.reshape(-1)[10:]) == list(range(10))
    assert batch_order(3, 64, 2, seed=0).shape == (2, 3)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_exact_solution_is_scikit_learns(standardize):
    fit, choose = planted(80, 6, noise=3), planted(40, 6, seed=1, noise=3)
    own, none = exact_solutions(fit, choose, l2=4.0, standardize=standardize)
    scale = np.sqrt(np.mean(fit.astype(float) ** 2, axis=0)) if standardize else np.ones(6)
    z = fit / scale
    model = LogisticRegression(fit_intercept=False, C=1 / 8, tol=1e-10, max_iter=5000)
    model.fit(np.concatenate([z, -z]), np.r_[np.ones(80), np.zeros(80)])
    for name, x in (("fit", fit), ("choose", choose)):
        margin = (x / scale) @ model.coef_[0]
        assert own[f"{name}_loss"] == pytest.approx(np.logaddexp(0, -margin).mean(), rel=1e-4)
        assert own[f"{name}_accuracy"] == (margin > 0).mean()
    assert none["l2"] == TINY * 80 and none["fit_loss"] < own["fit_loss"]
    assert not none["separates"]
    wide = planted(10, 24)  # fewer pairs than dimensions can always be separated
    assert exact_solutions(wide, wide, l2=None, standardize=True)[0]["separates"]


def test_geometry_reads_a_planted_spectrum():
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(200, 4)))[0] * np.sqrt(200) * np.array([10.0, 2, 1, 1])
    raw, scaled = geometry(x)["raw"], geometry(x)["standardised"]
    assert raw["condition"] == pytest.approx(100) and raw["top_direction"] == pytest.approx(
        100 / 106
    )
    assert raw["coordinate_spread"] == pytest.approx(10 / math.sqrt(2.5))
    assert scaled["condition"] == pytest.approx(1) and scaled["effective_rank"] == pytest.approx(4)


def test_a_window_is_interpolated_and_says_when_it_runs_off_the_grid():
    rates, losses = np.array([1e-3, 1e-2, 1e-1, 1.0]), np.array([1.0, 0.1, 0.1, 1.0])
    found = window(rates, losses, math.sqrt(0.1))
    assert found["low"] == pytest.approx(10**-2.5) and found["high"] == pytest.approx(10**-0.5)
    assert found["decades"] == pytest.approx(2) and not (found["open_low"] or found["open_high"])
    off = window(rates[1:3], losses[1:3], 0.5)
    assert off["open_low"] and off["open_high"] and off["decades"] == pytest.approx(1)
    assert window(rates, losses, 0.05) is None


MILD = {"noise": 1.5, "decades": 0.2}


@pytest.fixture(scope="module")
def swept():
    config = DynamicsConfig(parse_learning_rates("1e-4:100:2"), steps=80, batch_pairs=32)
    done = []
    found = head_dynamics(
        planted(150, **MILD), planted(80, seed=5, **MILD), config, l2=1.0,
        progress=lambda *at: done.append(at),
    )  # fmt: skip
    assert done[-1] == ("training", len(found.runs), len(found.runs))
    return found


def test_a_sweep_finds_the_predicted_shift(swept):
    assert len(swept.runs) == 2 * 13 * 5 * 3
    for name in ("adamw", "sgd"):
        found = swept.findings[name]
        assert set(found["parametrisations"]) == set(PARAMETRISATIONS)
        assert found["equivalence"]["median"] < 1e-5
        assert found["equivalence"]["agree_up_to"] >= 1e-2
        for measure in found["measures"].values():
            assert measure["best"] < measure["target"] < CHANCE
        # What differs from the projection in the step alone has its window where it is predicted.
        shift = found["measures"]["loss"]["shifts"]["small-start"]["low"]
        assert shift == pytest.approx(found["predicted_shift"], abs=0.1)
    assert swept.conclusion["optimizer"] == "adamw"
    assert swept.conclusion["by_optimizer"]["adamw"]["finding"] in ("step", "step and start")
    assert json.dumps(swept.to_json(), allow_nan=False)
    assert json.loads(RUNS.lines(swept.runs[:1])) == swept.runs[0]


def test_where_the_scale_of_features_is_to_blame_it_says_so():
    """Coordinates over four decades, the signal in the small ones too: raw SGD cannot."""
    config = DynamicsConfig(
        parse_learning_rates("1e-4:10:2"), optimizers=["sgd"], steps=80, batch_pairs=32
    )
    wide = {"noise": 1.5, "decades": 2.0}
    found = head_dynamics(planted(150, **wide), planted(80, seed=5, **wide), config, l2=1.0)
    assert found.conclusion["by_optimizer"]["sgd"] == {
        "finding": "scale of the features", "standardising": "opens", "starts_overlap": True,
    }  # fmt: skip
    assert found.findings["sgd"]["measures"]["choose_loss"]["windows"]["direct"] is None


def test_the_same_seed_gives_the_same_runs(swept):
    config = DynamicsConfig([1e-3, 1e-2, 1e-1], steps=80, batch_pairs=32)
    keys = ("parametrisation", "optimizer", "learning_rate", "seed")
    again = {tuple(run[key] for key in keys): run for run in swept.runs}
    fit, choose = planted(150, **MILD), planted(80, seed=5, **MILD)
    for run in head_dynamics(fit, choose, config, l2=1.0).runs:
        other = again[tuple(run[key] for key in keys)]
        assert run["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4)


def finding(predicted, direct, small, grid=0.33):
    shifts = {"direct": direct, "small-start": small}
    shifts = {k: {"low": low, "high": high} for k, (low, high) in shifts.items()}
    return {
        "predicted_shift": predicted,
        "grid_decades": grid,
        "measures": {"choose_loss": {"shifts": shifts}},
    }


def test_the_cause_follows_the_shifts():
    assert explained_by(finding(0.76, (0.8, 0.7), (0.76, 0.76))) == "step"
    assert explained_by(finding(0.76, (1.6, 0.7), (0.76, 0.76))) == "step and start"
    assert explained_by(finding(0.76, (0.0, 0.1), (0.0, 0.1))) == "neither"
    assert explained_by(finding(0.76, (None, None), (0.76, None))) == "off the grid"


def test_pairs_without_a_signal_are_said_not_to_train():
    noise = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    config = DynamicsConfig([1e-7, 2e-7, 4e-7], optimizers=["sgd"], steps=5)
    found = head_dynamics(noise[:200], noise[200:], config, l2=1.0)
    assert found.conclusion["by_optimizer"]["sgd"]["finding"] == "nothing trains"
    assert found.conclusion["outside_span"] is None and not found.conclusion["separable"]
    assert not any(found.findings["sgd"]["measures"]["choose_loss"]["windows"].values())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1e-3", "names 1"), ("1e-1:1e-6", "below the high"), ("a:b", "could not convert"),
        ("0:1", "positive"), ("1e-6:1e-1:99", "more than 61"), ("-1,1,2", "not all positive"),
        ("1:2:3:4", "4 numbers"), ("", "could not convert"), ("nan,1,2,3", "not all positive"),
    ],
)  # fmt: skip
def test_a_bad_grid_is_one_error(text, match):
    with pytest.raises(ProbeError, match=match):
        parse_learning_rates(text)


def test_a_grid_holds_both_ends_and_round_numbers():
    rates = parse_learning_rates("1e-6:1e-1")
    assert len(rates) == 16 and rates[0] == 1e-6 and rates[-1] == 1e-1 and 1e-3 in rates
    assert parse_learning_rates("1e-2,1e-4,1e-3") == [1e-4, 1e-3, 1e-2]


def test_bad_settings_are_refused():
    with pytest.raises(ProbeError, match="got 'adam', expected adamw or sgd"):
        DynamicsConfig([1e-3], optimizers=["adam"])
    with pytest.raises(ProbeError, match="n_seeds: got 2, expected 3 or more"):
        DynamicsConfig([1e-3], n_seeds=2)
