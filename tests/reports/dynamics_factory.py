"""A head dynamics analysis whose curves follow a formula, in place of hours of training."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np

from probekit.analyses.conclusion import conclude
from probekit.analyses.geometry import exact_solutions, geometry
from probekit.analyses.parametrisations import PARAMETRISATIONS, step_factor
from probekit.analyses.windows import optimizer_findings
from probekit.results.dynamics import RUNS, DynamicsRun, TrainedVector

STEPS, D = [0, 1, 2, 4, 8, 12], 40
RATES = [float(f"1e{power}") for power in range(-5, 3)]


def train(name: str, optimizer: str, rate: float, seed: int) -> TrainedVector:
    """Return a run that falls towards its floor, at a pace that its rate and the step factor set."""
    own = rate * step_factor(optimizer, D) if name in ("projection", "rescaled") else rate
    floor = {"direct": 0.13, "standardised": 0.12}.get(name, 0.1) + 0.01 * seed
    pace = 100 * own if own < 1 else 0.0
    falls = [floor + (math.log(2) - floor) * math.exp(-pace * step) for step in STEPS]
    loss = [
        value * (1 + own * step) if own >= 1 else value
        for value, step in zip(falls, STEPS, strict=True)
    ]
    if own > 50:
        loss[-1] = math.inf
    right = [1 - min(value, 1.0) / 2 for value in loss]
    return {
        "parametrisation": name, "optimizer": optimizer, "learning_rate": rate,
        "own_learning_rate": own, "seed": seed, "loss": loss, "accuracy": right,
        "choose_loss": [1.1 * value for value in loss], "choose_accuracy": right,
    }  # fmt: skip


@cache
def analysis(*optimizers: str) -> tuple[dict, list[TrainedVector]]:
    """Return the record and the runs of an analysis."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(90, D)) + 0.8 * np.linspace(-1, 1, D)).astype(np.float32)
    fit, choose = x[:30], x[30:]
    runs = [
        train(name, optimizer, rate, seed)
        for optimizer in optimizers for name in PARAMETRISATIONS for rate in RATES for seed in range(3)
    ]  # fmt: skip
    findings = {
        name: optimizer_findings([run for run in runs if run["optimizer"] == name], STEPS, D)
        for name in optimizers
    }
    shape, exact = geometry(fit), exact_solutions(fit, choose, l2=1.0, standardize=True)
    start = {"start_scale": 0.09, "margin": 0.61, "loss": 0.701}
    record = {
        **DynamicsRun.DOCUMENT.header, "site": "resid_post", "layer": 6, "position": "mean",
        "head": "projection", "l2": 1.0,
        "config": {"learning_rates": RATES, "steps": STEPS[-1], "batch_pairs": 32, "n_seeds": 3},
        "n": {"fit": 30, "choose": 60, "d_model": D}, "steps": STEPS, "exact": exact,
        "geometry": shape, "findings": findings, "conclusion": conclude(findings, shape, exact, d=D),
        "mechanism": {
            "step_factor": {name: step_factor(name, D) for name in optimizers}, "direct": start,
            "projection": {**start, "start_scale": 0.0058}, "data": {"rms_length": 6.5},
        },
        "provenance": {"store": {}, "run": {"seed": 0, "created": "2026-01-02", "git_commit": "01ab"}},
    }  # fmt: skip
    return record, runs


def write_dynamics(folder: Path, *optimizers: str, **changes: object) -> Path:
    """Write what `probekit dynamics` leaves; `changes` are keys of dynamics.json."""
    record, runs = analysis(*optimizers)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**record, **changes})
    (folder / DynamicsRun.DOCUMENT.file).write_text(text, encoding="utf-8")
    (folder / RUNS.file).write_text(RUNS.lines(runs), encoding="utf-8")
    return folder
