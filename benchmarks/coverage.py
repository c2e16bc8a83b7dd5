"""How often 95 % intervals hold the truth: interval x true value x groups x clustering, as a table.

python benchmarks/coverage.py [RUNS]. Every value has a latent normal part that rows of a group share
(correlation 0.3). Groups are single rows, three rows, uneven (geometric, mean four rows), or single
rows with one giant group that holds half of them. Before and after share half of their variance.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import norm

from probekit.probes.metrics import auroc, balanced_accuracy, pearson
from probekit.results import paired
from probekit.results.intervals import Interval, Resampler

GROUPS = (20, 40, 80, 200)
SHAPES = ("one row", "three rows", "uneven", "one giant")
TRUTHS = {
    "share": (0.5, 0.9, 0.97, 0.99),
    "change of shares": ((0.92, 0.95), (0.02, 0.05), (0.5, 0.65), (0.05, 0.6)),
    "ratio of shares": ((0.02, 0.05), (0.2, 0.4), (0.92, 0.95)),
    "AUROC": (0.6, 0.9, 0.97),
    "balanced accuracy": (0.6, 0.9),
    "Pearson r": (0.0, 0.5, 0.9),
    "mean (BCa), log-normal": (0.3, 1.0),
}


def rows_of(shape: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the group of every row."""
    sizes = {
        "one row": np.ones(n, int),
        "three rows": np.full(n, 3),
        "uneven": rng.geometric(0.25, size=n),
        "one giant": np.r_[np.ones(n - 1, int), n - 1],
    }[shape]
    return np.repeat(np.arange(n), sizes)


def latent(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return standard normal values, alike within groups of several rows."""
    common = np.where(np.bincount(groups) > 1, 0.3, 0.0)[groups]
    shared = rng.standard_normal(groups.max() + 1)[groups]
    return np.sqrt(common) * shared + np.sqrt(1 - common) * rng.standard_normal(len(groups))


def one(
    what: str, truth: object, groups: np.ndarray, rng: np.random.Generator
) -> tuple[Interval, float]:
    """Return an interval and what it should hold."""
    sample, value = Resampler(groups, 500, int(rng.integers(1 << 30))), latent(groups, rng)
    if isinstance(truth, tuple):
        sides = [np.sqrt(0.5) * value + np.sqrt(0.5) * latent(groups, rng) for _ in truth]
        before, after = (
            (side < norm.ppf(rate)).astype(float) for side, rate in zip(sides, truth, strict=True)
        )
        if what == "change of shares":
            return paired.change(groups, before, after, share=True), truth[1] - truth[0]
        return paired.ratio(groups, before, after, share=True), truth[1] / truth[0]
    label = rng.integers(2, size=len(groups))
    if what == "share":
        return sample.share((value < norm.ppf(truth)).astype(float)), truth
    if what == "AUROC":
        return auroc(label, np.sqrt(2) * norm.ppf(truth) * label + value, sample), truth
    if what == "balanced accuracy":
        return balanced_accuracy(label, (value < norm.ppf(truth)).astype(float), sample), truth
    if what == "Pearson r":
        other = truth * value + np.sqrt(1 - truth**2) * latent(groups, rng)
        return pearson(value, other, sample), truth
    return sample.mean(np.exp(truth * value)), float(np.exp(truth**2 / 2))


def cell(what: str, truth: object, shape: str, runs: int) -> str:
    """Return the coverage at every number of groups, in per cent; with fewer known, of those."""
    covered = []
    for n in GROUPS:
        rng = np.random.default_rng(0)
        made = [one(what, truth, rows_of(shape, n, rng), rng) for _ in range(runs)]
        known = [
            interval.low <= true <= interval.high
            for interval, true in made
            if interval.has_interval
        ]
        covered.append(f"{100 * np.mean(known):.0f}")
    return " / ".join(covered)


def main(runs: int) -> None:
    """Print the table."""
    print(f"| interval | true value | {' | '.join(SHAPES)} |\n|---|---|{'---|' * len(SHAPES)}")
    for what, truths in TRUTHS.items():
        for truth in truths:
            written = " -> ".join(map(str, truth)) if isinstance(truth, tuple) else truth
            cells = " | ".join(cell(what, truth, shape, runs) for shape in SHAPES)
            print(f"| {what} | {written} | {cells} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
