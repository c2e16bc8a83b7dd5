"""Prompts divided as a fit was: what its report split held is held out of everything that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from probekit.container import atomic_directory, write_jsonl
from probekit.data.rows import Example
from probekit.errors import DataError
from probekit.probes import Probe
from probekit.rl.head_data import HeadData


def held_out_groups(fit: str | Path, store: str | Path | None = None) -> set[str]:
    """Return the groups of a fit's report split, which neither its heads nor their choice saw."""
    task = HeadData.open(fit, Probe.load(fit), store).task
    return {str(group) for group in np.unique(task.groups[task.splits.report])}


def write_split(
    prompts: Sequence[Example], held_out: set[str], out: str | Path, *, force: bool = False
) -> dict[str, int]:
    """Write `train.jsonl` and `held_out.jsonl` to a directory; return how many prompts each has.

    Raises
    ------
    DataError
        When one of them would be empty.
    """
    parts = {
        "train": [p for p in prompts if p.group not in held_out],
        "held_out": [p for p in prompts if p.group in held_out],
    }
    for name, rows in parts.items():
        if not rows:
            raise DataError(
                f"prompts: none is left for {name}.jsonl. Expected prompts whose groups are partly "
                f"in the fit's report split ({len(held_out)} groups)."
            )
    with atomic_directory(Path(out), force=force) as target:
        for name, rows in parts.items():
            write_jsonl(target / f"{name}.jsonl", map(_row, rows))
    return {name: len(rows) for name, rows in parts.items()}


def _row(prompt: Example) -> dict[str, object]:
    return {
        "id": prompt.id,
        "prompt": [{"role": m.role, "content": m.content} for m in prompt.prompt or ()],
        "group": prompt.group,
        "tags": prompt.tags,
    }
