"""What groups of unequal size do to a fit and to its metric, under caps and weights, as two tables.

python benchmarks/groups.py [RUNS]. Pairs in 16 dimensions: the difference of the sides is a common
direction, one of the group's own (where groups have an effect) and noise. A head's accuracy on new groups
is known in closed form. Heads are Bradley-Terry, l2 by three folds of groups, all weighted alike.

Sizes: equal (100 groups of 3); one giant (1,024 pairs beside 100 groups of 3); log-normal (median 3, sigma
1.2); half (300 pairs beside 100 groups of 3), and log-normal, without any effect of groups; one giant
beside 19 groups of 8; two kinds (20 groups of 60, 60 of 1, a third of the effect). A cap is a number of
pairs, of median sizes, or the most that leaves no group more than so many equal shares of what stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtr

from probekit.probes.splits import fair_cap, fold_by_group
from probekit.results.intervals import Resampler

D, STRENGTH, EFFECT = 16, 0.75, 3.0
L2 = (0.01, 0.1, 1.0)
Sizes = Callable[[np.random.Generator], np.ndarray]
WORLDS: dict[str, tuple[Sizes, float]] = {
    "equal": (lambda rng: np.full(100, 3), EFFECT),
    "one giant": (lambda rng: np.r_[1024, np.full(100, 3)], EFFECT),
    "log-normal": (lambda rng: np.ceil(3 * rng.lognormal(0, 1.2, 100)).astype(int), EFFECT),
    "half, no effect": (lambda rng: np.r_[300, np.full(100, 3)], 0.0),
    "log-normal, no effect": (lambda rng: np.ceil(3 * rng.lognormal(0, 1.2, 100)).astype(int), 0.0),
    "one giant of 20": (lambda rng: np.r_[1024, np.full(19, 8)], EFFECT),
    "two kinds": (lambda rng: np.r_[np.full(20, 60), np.full(60, 1)], EFFECT / 3),
}


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda sizes: sizes,
    **{
        f"{k} medians": lambda sizes, k=k: np.minimum(sizes, k * np.median(sizes))
        for k in (2, 4, 8, 16, 32)
    },
    **{
        f"{k} equal shares": lambda sizes, k=k: np.minimum(sizes, fair_cap(sizes, k))
        for k in (2, 4, 8, 16)
    },
    **{f"{k} pairs": lambda sizes, k=k: np.minimum(sizes, k) for k in (8, 32, 128)},
    "weight 1/sqrt(size)": lambda sizes: np.sqrt(sizes),
    "weight 1/size": lambda sizes: np.ones(len(sizes)),
}
"""Size of every group to what it counts in all; a cap draws rows, a weight keeps them."""


class Pairs(NamedTuple):
    """Differences of the sides of pairs, (n, D), their groups, and what a head is worth on new ones."""

    z: np.ndarray
    group: np.ndarray
    effect: float

    def worth(self, w: np.ndarray) -> float:
        """Return the accuracy of a head on new groups."""
        spread = np.sqrt(1 + self.effect**2 / D)
        return float(ndtr(STRENGTH * w[0] / max(np.linalg.norm(w) * spread, 1e-12)))


def pairs(sizes: np.ndarray, effect: float, rng: np.random.Generator) -> Pairs:
    """Return pairs of groups of these sizes; the common direction is the first axis."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    z = rng.standard_normal((len(group), D))
    z += effect / np.sqrt(D) * rng.standard_normal((len(sizes), D))[group]
    z[:, 0] += STRENGTH
    return Pairs(z, group, effect)


def weights(rule: str, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what each row counts, shape (n,)."""
    sizes = np.bincount(group)
    target = RULES[rule](sizes)
    if rule.startswith("weight"):
        return (target / np.maximum(sizes, 1))[group]
    order = np.lexsort((rng.random(len(group)), group))
    nth = np.empty(len(group))
    nth[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (nth < target[group]).astype(float)


def solve(z: np.ndarray, counts: np.ndarray, l2: float) -> np.ndarray:
    """Return the weights that minimise the weighted loss, by Newton steps."""
    w, penalty = np.zeros(D), l2 * counts.sum() * np.eye(D)
    for _ in range(25):
        p = expit(-z @ w)
        step = np.linalg.solve(
            (z.T * (counts * p * (1 - p))) @ z + penalty, penalty @ w - z.T @ (counts * p)
        )
        w = w - step
        if np.abs(step).max() < 1e-4:
            break
    return w


def fitted(data: Pairs, counts: np.ndarray, seed: int) -> np.ndarray:
    """Return the head, its l2 chosen by folds of groups under the same weights."""
    kept = counts > 0
    z, counts, group = data.z[kept], counts[kept], data.group[kept]
    folds = fold_by_group(group, 3, seed=seed)
    loss = [
        sum(
            counts[folds == k]
            @ np.logaddexp(0, -z[folds == k] @ solve(z[folds != k], counts[folds != k], l2))
            for k in range(3)
        )
        for l2 in L2
    ]
    return solve(z, counts, L2[int(np.argmin(loss))])


def heads(runs: int) -> None:
    """Print the accuracy on new groups by rule and sizes, with the standard error of the gap to nothing."""
    print(f"| rule | {' | '.join(WORLDS)} |\n|---|{'---|' * len(WORLDS)}")
    found: dict[str, dict[str, np.ndarray]] = {rule: {} for rule in RULES}
    for name, (sizes, effect) in WORLDS.items():
        values: dict[str, list[float]] = {rule: [] for rule in RULES}
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            data = pairs(sizes(rng), effect, rng)
            for rule in RULES:
                counts = weights(rule, data.group, np.random.default_rng(seed))
                values[rule].append(data.worth(fitted(data, counts, seed)))
        for rule, worth in values.items():
            found[rule][name] = np.array(worth)
    for rule, worlds in found.items():
        cells = []
        for name, worth in worlds.items():
            gap = worth - found["nothing"][name]
            error = gap.std() / np.sqrt(runs)
            after = f" ({100 * gap.mean():+.1f} ± {100 * error:.1f})" if gap.any() else ""
            cells.append(f"{100 * worth.mean():.1f}{after}")
        print(f"| {rule} | {' | '.join(cells)} |", flush=True)


def metrics(runs: int) -> None:
    """Print the error of an accuracy as root mean square, and its interval's width and coverage, by rule."""
    print(f"\n| rule | {' | '.join(WORLDS)} |\n|---|{'---|' * len(WORLDS)}")
    w = np.eye(D)[0] + np.r_[0, np.full(D - 1, 0.15)]
    for rule in RULES:
        if rule.startswith("weight"):
            continue
        cells = []
        for sizes, effect in WORLDS.values():
            error, width, covered = [], [], []
            for seed in range(runs):
                rng = np.random.default_rng(seed)
                data = pairs(sizes(rng), effect, rng)
                kept = weights(rule, data.group, rng) > 0
                right = (data.z[kept] @ w > 0).astype(float)
                found, truth = Resampler(data.group[kept]).share(right), data.worth(w)
                error.append(found.value - truth)
                if found.has_interval:
                    width.append(found.high - found.low)
                    covered.append(found.low <= truth <= found.high)
            known = len(width) / runs
            error = 100 * np.sqrt(np.mean(np.square(error)))
            after = f"{100 * np.mean(width):.0f}, {100 * np.mean(covered):.0f}" if width else "none"
            cells.append(f"{error:.1f}; {after}" + (f" ({known:.0%})" if 0 < known < 1 else ""))
        print(f"| {rule} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    heads(runs)
    metrics(10 * runs)
