"""Prompts divided as a fit was: groups of its report split are held out of everything that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from probekit.container import atomic_directory, write_jsonl
from probekit.data.rows import Example
from probekit.errors import DataError
from probekit.outputs import claim
from probekit.probes import Probe
from probekit.rl.head_data import HeadData


class Groups(NamedTuple):
    """The groups of a fit's rows."""

    train: set[str]
    """Groups of the fit and the choose split."""
    held_out: set[str]
    """Groups of the report split, on which no head was fitted or chosen."""


def groups_of(fit: str | Path, store: str | Path | None = None) -> Groups:
    """Return the groups of the rows that a fit was made from.

    Parameters
    ----------
    fit
        Directory that `probekit fit` wrote.
    store
        Its activation store, where it was moved since.
    """
    task = HeadData.open(fit, Probe.load(fit), store).task
    every, held_out = (
        {str(group) for group in np.unique(groups)}
        for groups in (task.groups, task.groups[task.splits.report])
    )
    return Groups(every - held_out, held_out)


def write_split(
    prompts: Sequence[Example], groups: Groups, out: str | Path, *, force: bool = False
) -> dict[str, int]:
    """Write `train.jsonl` and `held_out.jsonl` to a directory; return how many prompts each has.

    Prompts of groups without a row in the fit are left out: names that the fit's data left out, since the
    model does not know them, are not trained on either.

    Parameters
    ----------
    prompts
        Rows that end with their prompt.
    groups
        Which groups are held out, from `groups_of`.
    out
        Directory to write.
    force
        Replace the directory when it exists.

    Raises
    ------
    DataError
        When one of the files would be empty.
    """
    parts = {name: [p for p in prompts if p.group in own] for name, own in groups._asdict().items()}
    for name, rows in parts.items():
        if not rows:
            raise DataError(
                f"prompts: none is left for {name}.jsonl. Expected prompts whose groups are partly "
                f"in the fit's report split ({len(groups.held_out)} groups) and partly not."
            )
    with (
        claim(out, "data split", force=force, marker="held_out.jsonl") as path,
        atomic_directory(path, force=force) as target,
    ):
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
