"""A probe sweep beside scikit-learn pipelines in a loop: python benchmarks/bench_ridge_sweep.py.

The same synthetic cells (n x d_model), the same fit rows, the same ten penalties. Ours is the whole of
`fit_sweep`: standardisation, five grouped folds for l2, the choose-split metrics with 1,000-draw
intervals, a shuffled twin and 50 random directions for each cell, and the report with its controls.

    folds   Pipeline(StandardScaler, RidgeCV(alphas, cv=GroupKFold(5)))      like for like in l2
    plain   Pipeline(StandardScaler, RidgeCV(alphas))                        leave-one-out, rows not groups
    logit   Pipeline(StandardScaler, LogisticRegression(C)) over the grid    no folds at all

None of the scikit-learn loops computes an interval or a control.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from probekit.activations.table import Cell, Examples
from probekit.probes import SweepConfig, fit_sweep
from probekit.probes.task import Task


@dataclass
class Cells:
    """An activation source in memory."""

    examples: Examples
    acts: dict[Cell, np.ndarray]
    n_layers: int
    provenance: dict = field(default_factory=dict)

    def cells(self):
        return list(self.acts)

    def read(self, cell):
        return self.acts[cell]


def make(kind: str, n: int, d: int, layers: int) -> Cells:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal(n)
    own = {"score": 5 + signal + rng.standard_normal(n)}
    if kind == "label":
        noisy = signal + rng.standard_normal(n) > 0
        own = {"label": noisy.astype(np.int64), "classes": ("no", "yes")}
    words = np.array([f"word{i % 50} word{i % 31}" for i in range(n)], dtype=object)
    examples = Examples(
        kind=kind,
        id=np.arange(n).astype(str),
        group=(np.arange(n) // 2).astype(str),
        n_tokens=rng.integers(5, 200, size=n),
        prompt=words,
        completion=words,
        **own,
    )
    acts = {}
    for layer in range(layers):
        # Correlated features with a spread of scales, as residual streams have.
        mix = rng.standard_normal((d, d)) / np.sqrt(d)
        base = rng.standard_normal((n, d)) * np.exp(rng.standard_normal(d)) @ mix
        base += np.outer(signal, rng.standard_normal(d)) * 0.3
        acts[Cell("resid_post", layer, "last")] = base.astype(np.float32)
    return Cells(examples, acts, layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        for kind, peers in (("rating", ("folds", "plain")), ("label", ("logit",))):
            source = make(kind, options.rows, options.width, options.layers)
            compare(kind, source, peers, options.rounds)


def compare(kind: str, source: Cells, peers: tuple[str, ...], rounds: int) -> None:
    task = Task.of(source.examples)
    fit_sweep(source, SweepConfig(layers="0"))  # warm up
    times = {name: [] for name in ("probekit", *peers)}
    for _ in range(rounds):
        for name, found in times.items():
            begun = time.perf_counter()
            if name == "probekit":
                fit_sweep(source, SweepConfig())
            else:
                for cell in source.cells():
                    PEERS[name](source.read(cell), task)
            found.append((time.perf_counter() - begun) / source.n_layers)
    n = len(task.splits.fit)
    print(
        f"{kind}: {len(source.examples)} rows ({n} fit) x {source.read(source.cells()[0]).shape[1]}"
    )
    for name, found in times.items():
        ratios = [theirs / ours for ours, theirs in zip(times["probekit"], found, strict=True)]
        print(
            f"  {name:>8}: {statistics.median(found):.3f} s a cell [{min(found):.3f}, {max(found):.3f}]"
            f"   {name} / probekit: {statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]",
            flush=True,
        )


def grid(task: Task) -> np.ndarray:
    return len(task.splits.fit) * np.asarray(SweepConfig().l2_factors)


def folds(acts: np.ndarray, task: Task) -> None:
    fit = task.splits.fit
    folds = list(GroupKFold(5).split(acts[fit], groups=task.groups[fit]))
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=grid(task), cv=folds))
    model.fit(acts[fit], task.target[fit]).predict(acts[task.splits.choose])


def plain(acts: np.ndarray, task: Task) -> None:
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=grid(task)))
    model.fit(acts[task.splits.fit], task.target[task.splits.fit])
    model.predict(acts[task.splits.choose])


def logit(acts: np.ndarray, task: Task) -> None:
    fit = task.splits.fit
    for l2 in grid(task):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / l2, max_iter=1000))
        model.fit(acts[fit], task.target[fit]).predict(acts[task.splits.choose])


PEERS = {"folds": folds, "plain": plain, "logit": logit}

if __name__ == "__main__":
    main()
