"""How often the interval over outer folds holds the truth, beside one that takes rows as independent.

python benchmarks/outer_folds.py [RUNS] [KINDS] [FOLDS]. Activations of four cells of 24 dimensions; one
cell holds a direction and another half of it, or none does. What a head is worth on new rows is known in
closed form; the truth is the mean of that over all runs. Every row is a group of its own. A kind is a
kind of probe: mean-difference (of pairs), mean-difference-label, ridge, bradley-terry, logistic.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr

from probekit.activations.table import Cell, Examples
from probekit.probes.config import SweepConfig
from probekit.probes.heads import HeadFitter
from probekit.probes.outer import Fold, Outer, outer_folds, pooled
from probekit.probes.task import Task
from probekit.results.intervals import Interval, fisher, score

SIZES, D, LAYERS = (100, 150, 200, 300), 24, 4
STRENGTH = {"noise": 0.0, "faint": 0.5, "weak": 1.0, "clear": 2.0}
DATA = {
    "mean-difference": "pair", "mean-difference-label": "label", "ridge": "rating",
    "bradley-terry": "pair", "logistic": "label",
}  # fmt: skip
L2 = SweepConfig().l2_factors[::2]
CHANCE = {"pair": 0.5, "label": 0.5, "rating": 0.0}


@dataclass
class World:
    """Rows with a planted direction, the first axis."""

    kind: str
    n: int
    strength: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        n, rng = self.n, self.rng
        self.reach = self.strength * np.array([0.0, 0.5, 1.0, 0.0])
        sides, own = 2 if self.kind == "pair" else 1, {}
        sign = np.where(np.arange(sides * n) % 2 == 0, 0.5, -0.5)
        acts = rng.standard_normal((LAYERS, sides * n, D))
        if self.kind == "pair":
            acts[:, :, 0] += self.reach[:, None] * sign
        elif self.kind == "label":
            label = rng.integers(2, size=n)
            own = {"label": label, "classes": ("no", "yes")}
            acts[:, :, 0] += self.reach[:, None] * (label - 0.5)
        else:
            y = rng.standard_normal(n)
            own = {"score": y}
            self.reach = self.reach / 3
            acts[:, :, 0] *= np.sqrt(1 - self.reach[:, None] ** 2)
            acts[:, :, 0] += self.reach[:, None] * y
        self.acts = acts.astype(np.float32)
        self.other = rng.standard_normal((sides * n, 2))
        text = np.array([""] * (sides * n), dtype=object)
        self.examples = Examples(
            kind=self.kind, id=np.repeat(np.arange(n).astype(str), sides),
            group=np.repeat([f"g{i:04d}" for i in range(n)], sides), prompt=text, completion=text,
            n_tokens=np.ones(sides * n, dtype=np.int64), **own,
        )  # fmt: skip

    def truth(self, fold: Fold) -> float:
        """Return the metric of a fold's head on rows without end."""
        cosine = fold.head.coef[0] / np.linalg.norm(fold.head.coef)
        reach = self.reach[fold.cell.layer]
        if self.kind == "rating":
            return float(reach * cosine)
        return float(ndtr(reach * cosine / np.sqrt(2)))


def one(world: World, probe: str, k: int) -> tuple[Outer, Interval, float]:
    """Return the estimate over outer folds, one as of independent rows, and what its heads are worth."""
    task = Task.of(world.examples, seed=int(world.rng.integers(1 << 30)))
    probe = probe.removesuffix("-label")

    def fitter(task: Task) -> HeadFitter:
        head = "linear" if probe == "bradley-terry" else None
        return HeadFitter(task, probe, head, n_folds=3, l2_factors=L2)

    outer = outer_folds(
        task.outer_folds(k),
        [Cell("resid_post", layer, "last") for layer in range(LAYERS)],
        lambda cell: world.acts[cell.layer],
        lambda task: {probe: fitter(task)},
        lambda task, kind: {"noise": fitter(task).scores(world.other)},
    )
    tasks = [fold.task for fold in outer.folds]
    rests = pooled(tasks, [fold.scores for fold in outer.folds])[0]
    alone = fisher(*rests) if world.kind == "rating" else score(*rests, world.n // 3)
    sizes = [len(task.splits.report) for task in tasks]
    own = np.average([world.truth(fold) for fold in outer.folds], weights=sizes)
    return outer, alone, float(own)


def covers(intervals: list[Interval], truth: float) -> str:
    """Return how often they hold the truth, of those that have an interval, per cent."""
    held = [i.low <= truth <= i.high for i in intervals if i.has_interval]
    return f"{100 * np.mean(held):.0f}" if held else "-"


def main(runs: int, probes: list[str], folds: list[int]) -> None:
    """Print the table; columns hold a value a size."""
    torch.set_num_threads(1)
    print(
        "| probe | folds | signal | truth | interval | as independent | difference | above chance |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for probe in probes:
        kind = DATA[probe]
        for k in folds:
            for name, strength in STRENGTH.items():
                cells = []
                for n in SIZES:
                    rng = np.random.default_rng(n)
                    made = [one(World(kind, n, strength, rng), probe, k) for _ in range(runs)]
                    truth = float(np.mean([own for _, _, own in made]))
                    found = [outer.value for outer, _, _ in made]
                    gaps = [outer.differences["noise"] for outer, _, _ in made]
                    above = np.mean([i.low > CHANCE[kind] for i in found])
                    cells.append([
                        f"{truth:.2f}", covers(found, truth), covers([i for _, i, _ in made], truth),
                        covers(gaps, truth - CHANCE[kind]), f"{100 * above:.0f}",
                    ])  # fmt: skip
                columns = " | ".join(" / ".join(column) for column in zip(*cells, strict=True))
                print(f"| {probe} | {k} | {name} | {columns} |", flush=True)


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 200,
        sys.argv[2].split(",") if len(sys.argv) > 2 else list(DATA)[:3],
        [int(k) for k in sys.argv[3].split(",")] if len(sys.argv) > 3 else [5],
    )
