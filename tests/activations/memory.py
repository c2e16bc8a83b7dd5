"""Rows made in memory, with the surface of a `Dataset` that `cache_activations` reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from probekit.data.rows import Example, Message


@dataclass
class MemoryRows:
    """A list of examples behaving like a validated data set."""

    rows: list[Example]
    kind: str = "rating"
    classes: tuple[str, str] | None = None
    source: str = "memory.jsonl"
    fingerprint: str = "memory"

    @property
    def n_examples(self) -> int:
        return len(self.rows)

    @property
    def n_rows(self) -> int:
        return len(self.rows) // (2 if self.kind == "pair" else 1)

    def examples(self) -> Iterator[Example]:
        return iter(self.rows)


def ratings(n: int = 23, *, words: int = 4) -> MemoryRows:
    """Return `n` rating rows whose lengths differ."""
    rows = [
        Example(
            id=f"row-{i:03d}",
            group=f"g{i // 2}",
            prompt=(Message("user", f"Question {i}?"),),
            completion=" ".join(f"word{i * 7 % 10}" for _ in range(1 + (i * 5) % words)),
            score=float(i % 5),
            tags={"parity": "even" if i % 2 == 0 else "odd"} if i else {},
        )
        for i in range(n)
    ]
    return MemoryRows(rows)


def pairs(n: int = 8) -> MemoryRows:
    """Return `n` pairs."""
    rows = [
        Example(
            id=f"pair-{i}",
            group=f"g{i}",
            prompt=(Message("user", f"Question {i}?"),),
            completion=f"{side} {'long ' * (i % 3)}answer {i}",
            side=side,
        )
        for i in range(n)
        for side in ("chosen", "rejected")
    ]
    return MemoryRows(rows, kind="pair")


def labels(n: int = 8, *, completion: bool = False) -> MemoryRows:
    """Return `n` label rows that end with their prompt, or have a completion."""
    rows = [
        Example(
            id=f"row-{i}",
            group=f"g{i}",
            prompt=(Message("user", f"Is {i} even?"),),
            completion="It is." if completion else None,
            label="even" if i % 2 == 0 else "odd",
        )
        for i in range(n)
    ]
    return MemoryRows(rows, kind="label", classes=("even", "odd"))
