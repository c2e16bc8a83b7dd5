"""How often a score stays above chance after length is taken out: shape x kind of data, as a table.

python benchmarks/partialling.py [RUNS]. 1,000 rows or pairs, of log-normal lengths around 100 tokens. The
score is a function of length, exact or with noise of a tenth of its spread, and the target follows it
with logistic noise. Steps go up and down at every eighth or twelfth of the rows by length. The true score has
nothing to do with length and is to stay. Per cent for exact / noisy scores; in brackets the mean metric
before and after, for noisy ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from probekit.activations.table import Examples
from probekit.probes.controls import partialled
from probekit.probes.task import Task

N, KINDS = 1000, ("label", "rating", "pair")
Shape = Callable[[np.ndarray], np.ndarray]


def steps(parts: int) -> Shape:
    """Return the function of length that goes up or down at every such part of the rows."""
    inner = np.arange(1, parts) / parts
    return lambda n: np.searchsorted(np.quantile(n, inner), n) % 2 * 1.0


SHAPES: dict[str, Shape] = {
    "linear": lambda n: 0.01 * n,
    "tanh": lambda n: np.tanh((n - 100) / 40),
    "threshold": lambda n: (n > 110).astype(float),
    "hump": lambda n: np.exp(-(((np.log(n) - 4.7) / 0.35) ** 2)),
    "steps at eighths": steps(8),
    "steps at twelfths": steps(12),
}


def rows(kind: str, quality: np.ndarray, length: np.ndarray) -> tuple[Examples, np.ndarray]:
    """Return rows whose target follows the quality (n_rows,), and the order that they are put in."""
    n, own = len(quality), {}
    order = np.arange(n)
    if kind == "pair":  # the better side is the chosen one
        worse = quality[::2] < quality[1::2]
        order = np.column_stack([2 * np.arange(n // 2) + worse, 2 * np.arange(n // 2) + ~worse])
        order, own = order.ravel(), {"side": np.tile(["chosen", "rejected"], n // 2)}
    elif kind == "label":
        own = {"label": (quality > np.median(quality)).astype(np.int64), "classes": ("no", "yes")}
    else:
        own = {"score": quality}
    unit = np.arange(n) // (2 if kind == "pair" else 1)
    name, empty = unit.astype(str), np.full(n, "", dtype=object)
    made = Examples(
        kind=kind, id=name, group=name, n_tokens=length[order].astype(np.int64), prompt=empty,
        completion=empty, tags={}, **own,
    )  # fmt: skip
    return made, order


def run(kind: str, shape: Shape | None, noise: float, seed: int) -> tuple[bool, float, float]:
    """Return whether the rest is above chance, the value before and that after."""
    rng = np.random.default_rng(seed)
    n = N * (2 if kind == "pair" else 1)
    length = np.exp(4.6 + 0.5 * rng.standard_normal(n)).round()
    score = rng.standard_normal(n) if shape is None else shape(length)
    quality = score + 0.3 * score.std() * rng.logistic(size=n)
    score = score + noise * score.std() * rng.standard_normal(n)
    made, order = rows(kind, quality, length)
    task = Task.of(made, seed=seed, n_boot=1)
    units = task.splits.report
    sample = task.sampler(units)
    before = float(task.primary_values(score[order][:, None], units)[0])
    after = partialled(task, score[order], units, sample)[task.primary]
    return after.side(0.0 if kind == "rating" else 0.5) > 0, before, after.value


def main(runs: int) -> None:
    """Print the table."""
    print(f"| score | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name, shape in {**SHAPES, "true, not length": None}.items():
        cells = []
        for kind in KINDS:
            shares = []
            for noise in (0.0, 0.1):
                found = [run(kind, shape, noise, seed) for seed in range(runs)]
                above, before, after = (np.mean(part) for part in zip(*found, strict=True))
                shares.append(f"{100 * above:.0f}")
            cells.append(f"{' / '.join(shares)} ({before:.2f} -> {after:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
