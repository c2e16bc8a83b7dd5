"""The same rows read in two models: do heads of one read the other, and do their directions agree?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probekit.activations.store import ActivationStore
from probekit.errors import ProbeError
from probekit.probes.folder import Fit, fit_folder, store_given
from probekit.probes.probe import Probe
from probekit.probes.task import Task
from probekit.results.intervals import Interval
from probekit.rl.head_data import HeadData, store_of

SIDES = ("before", "after")


@dataclass(frozen=True)
class Compared:
    """What `compare_fits` found, on the report split of both fits."""

    primary: str
    layers: list[dict[str, Any]]
    """By layer, at the position that the first fit chose: the cosine of the two heads' directions, and the
    primary measure of each head on each model's activations."""
    transfer: dict[str, dict[str, Interval]]
    """Head to activations to its primary measure, of the first fit's chosen cell in both."""
    change: Interval
    """`after` on its own activations minus `before` on its own, paired."""
    cell: dict[str, Any]
    n: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `compare.json` without its header."""
        return {
            "primary": self.primary,
            **self.cell,
            "layers": self.layers,
            "transfer": {
                head: {acts: value.to_json() for acts, value in row.items()}
                for head, row in self.transfer.items()
            },
            "change": self.change.to_json(),
            "n": self.n,
        }


def compare_fits(
    before: Fit,
    after: Fit,
    stores: tuple[str | Path | None, str | Path | None] = (None, None),
) -> Compared:
    """Compare two fits of the same rows, one a model, at the cells that they share.

    The cell is that which the first fit chose, so that what is compared was not picked for the second.

    Parameters
    ----------
    before, after
        Directories of two fits, or their results.
    stores
        The stores that they were fitted on, where they are not at the places in the fits' records.

    Raises
    ------
    ProbeError
        When rows, splits or widths differ, or the second fit lacks the cell.

    Examples
    --------
    >>> import numpy as np
    >>> import probekit as pk
    >>> rng = np.random.default_rng(0)
    >>> rating = rng.standard_normal(120)
    >>> signal = np.outer(rating, np.ones(8))
    >>> acts = {("resid_post", k): signal + rng.standard_normal((120, 8)) for k in (1, 2)}
    >>> store = pk.ActivationStore.from_arrays(acts, scores=rating, n_layers=4)
    >>> fit = pk.fit_sweep(store, n_boot=20)
    >>> found = pk.compare_fits(fit, fit)
    >>> found.change.value, round(found.layers[0]["cosine"], 3)
    (0.0, 1.0)
    """
    with fit_folder(before) as one, fit_folder(after) as other:
        return _compare(one, other, (store_given(before, stores[0]), store_given(after, stores[1])))


def _compare(
    before: Path, after: Path, stores: tuple[str | Path | None, str | Path | None]
) -> Compared:
    first = Probe.load(before)
    stores = (store_of(before, stores[0]), store_of(after, stores[1]))
    tasks = [
        HeadData.open(folder, Probe.load(folder), store).task
        for folder, store in zip((before, after), stores, strict=True)
    ]
    _check_same(tasks, (before, after))
    task = tasks[0]
    report, sample = task.splits.report, task.sampler(task.splits.report)
    alike = first.kind, first.site, first.position
    heads = [
        {p.layer: p for p in Probe.load_all(folder) if (p.kind, p.site, p.position) == alike}
        for folder in (before, after)
    ]
    shared = sorted(set(heads[0]) & set(heads[1]))
    if first.layer not in shared:
        raise ProbeError(
            f"{after}: has no {first.kind} head at {first.cell}, which {before} chose. Fit the same layers "
            "and positions."
        )
    if len(heads[1][first.layer].coef) != len(first.coef):
        raise ProbeError(
            f"{after}: is of another width than {before}. Compare fits of one model's weights."
        )
    rows, transfer, scores = [], {}, {}
    with ActivationStore.open(stores[0]) as one, ActivationStore.open(stores[1]) as other:
        for layer in shared:
            pair = [side[layer] for side in heads]
            acts = [source.read(pair[0].cell) for source in (one, other)]
            read = {
                (h, a): head.score(values)
                for h, head in zip(SIDES, pair, strict=True)
                for a, values in zip(SIDES, acts, strict=True)
            }
            measured = {
                key: task.metrics(found, report, sample)[task.primary]
                for key, found in read.items()
            }
            row = {"layer": layer, "cosine": float(pair[0].direction @ pair[1].direction)}
            rows.append(row | {f"{h} on {a}": v.to_json() for (h, a), v in measured.items()})
            if layer == first.layer:
                transfer = {h: {a: measured[h, a] for a in SIDES} for h in SIDES}
                scores = read
    change = task.difference(scores["after", "after"], scores["before", "before"], report, sample)
    n = {"rows": len(report), "groups": sample.n_groups}
    return Compared(task.primary, rows, transfer, change, first.cell._asdict(), n)


def _check_same(tasks: list[Task], folders: tuple[str | Path, str | Path]) -> None:
    one, other = tasks
    same = len(one.examples) == len(other.examples) and (one.examples.id == other.examples.id).all()
    if not same or one.kind != other.kind:
        raise ProbeError(
            f"{folders[1]}: was fitted on other rows than {folders[0]}. Cache the same --data with "
            "both models."
        )
    if not all(np.array_equal(a, b) for a, b in zip(one.splits, other.splits, strict=True)):
        raise ProbeError(
            f"{folders[1]}: has other splits than {folders[0]}. Fit both with one --seed and --stratify."
        )
