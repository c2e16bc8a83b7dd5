"""Prompts divided as a fit was: what its report split held is held out of everything that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from probekit.container import atomic_directory, write_jsonl
from probekit.data.rows import Example
from probekit.errors import DataError
from probekit.probes import Probe
from probekit.rl.head_data import HeadData


class Groups(NamedTuple):
    """The groups of a fit's rows."""

    train: set[str]
    """Of the fit and the choose split."""
    held_out: set[str]
    """Of the report split, which neither its heads nor their choice saw."""


def groups_of(fit: str | Path, store: str | Path | None = None) -> Groups:
    """Return the groups of the rows that a fit was made from."""
    task = HeadData.open(fit, Probe.load(fit), store).task
    every, held_out = (
        {str(group) for group in np.unique(found)}
        for found in (task.groups, task.groups[task.splits.report])
    )
    return Groups(every - held_out, held_out)


def write_split(
    prompts: Sequence[Example], groups: Groups, out: str | Path, *, force: bool = False
) -> dict[str, int]:
    """Write `train.jsonl` and `held_out.jsonl` to a directory; return how many prompts each has.

    Prompts of groups that the fit had no rows of are left out: what its data left out (names that
    the model does not know) is not to be trained on either.

    Raises
    ------
    DataError
        When one of them would be empty.
    """
    parts = {name: [p for p in prompts if p.group in own] for name, own in groups._asdict().items()}
    for name, rows in parts.items():
        if not rows:
            raise DataError(
                f"prompts: none is left for {name}.jsonl. Expected prompts whose groups are partly "
                f"in the fit's report split ({len(groups.held_out)} groups) and partly not."
            )
    with atomic_directory(Path(out), force=force) as target:
        for name, rows in parts.items():
            write_jsonl(target / f"{name}.jsonl", map(_row, rows))
    counts = {name: len(rows) for name, rows in parts.items()}
    return {**counts, "left_out": len(prompts) - sum(counts.values())}


def _row(prompt: Example) -> dict[str, object]:
    return {
        "id": prompt.id,
        "prompt": [{"role": m.role, "content": m.content} for m in prompt.prompt or ()],
        "group": prompt.group,
        "tags": prompt.tags,
    }
