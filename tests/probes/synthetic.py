"""Activation sources made in memory, with or without a planted direction."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from probekit.activations.table import Cell, Examples


@dataclass
class MemorySource:
    """An `ActivationSource` over arrays."""

    examples: Examples
    acts: dict[Cell, np.ndarray]
    n_layers: int
    provenance: dict = field(default_factory=lambda: {"model": "synthetic"})
    reads: list[Cell] = field(default_factory=list)

    def cells(self):
        return sorted(self.acts)

    def read(self, cell):
        self.reads.append(cell)
        return self.acts[cell]


def examples(kind, n, rng, *, signal, per_group=2):
    """Rows of `kind` whose target is a noisy linear function of `signal` (n_units,)."""
    rows = 2 * n if kind == "pair" else n
    unit = np.arange(n)
    group = np.array([f"g{i // per_group}" for i in unit])
    words = np.array(["alpha beta", "gamma delta", "epsilon zeta"], dtype=object)
    common = dict(
        kind=kind,
        n_tokens=rng.integers(3, 30, size=rows),
        prompt=words[rng.integers(3, size=rows)],
        completion=words[rng.integers(3, size=rows)],
    )
    if kind == "pair":
        return Examples(
            id=np.repeat([f"r{i}" for i in unit], 2),
            group=np.repeat(group, 2),
            side=np.tile(["chosen", "rejected"], n),
            tags={"half": np.repeat(np.where(unit < n // 2, "a", "b"), 2)},
            **common,
        )
    own = {"score": 5.0 + 2.0 * signal} if kind == "rating" else {}
    if kind == "label":
        own = {"label": (signal > 0).astype(np.int64), "classes": ("no", "yes")}
    return Examples(
        id=np.array([f"r{i}" for i in unit]),
        group=group,
        tags={"half": np.where(unit < n // 2, "a", "b")},
        **common,
        **own,
    )


def source(
    kind,
    *,
    n=300,
    d=24,
    layers=4,
    positions=("last", "mean"),
    strength=3.0,
    seed=0,
    planted=(2, "mean"),
):
    """Return a source with noise everywhere and one direction planted in one cell.

    With `strength` 0 the targets have nothing to do with the activations.
    """
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal(n)
    rows = examples(kind, n, rng, signal=signal)
    direction = rng.standard_normal(d)
    direction /= np.linalg.norm(direction)
    acts = {}
    for layer in range(layers):
        for position in positions:
            noise = rng.standard_normal((len(rows), d))
            if (layer, position) == planted:
                if kind == "pair":
                    shift = np.abs(signal) * strength / 2
                    noise += np.outer(np.stack([shift, -shift], axis=1).ravel(), direction)
                else:
                    noise += np.outer(signal * strength, direction)
            acts[Cell("resid_post", layer, position)] = noise.astype(np.float32)
    for position in positions:
        noise = rng.standard_normal((len(rows), d))
        acts[Cell("resid_pre", 0, position)] = noise.astype(np.float32)
    return MemorySource(rows, acts, layers), direction
