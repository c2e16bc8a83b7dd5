"""Heads of other forms beside the chosen linear one, on the same splits: is anything left behind?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.probes.aggregate import Aggregate
from probekit.probes.linear import ALONE
from probekit.probes.nonlinear import AttentionProbe, MLPProbe, NonlinearProbe
from probekit.probes.probe import Probe
from probekit.probes.reference import reference_rows
from probekit.probes.task import Task
from probekit.probes.tokens import TokenLogisticProbe, content_tokens, part_of
from probekit.results.intervals import Array, Interval, Metrics
from probekit.results.sweep import BesideRow

Made = tuple[Probe | NonlinearProbe, Array]
"""A probe, and its score of every example, shape (n_examples,)."""


@dataclass(frozen=True)
class Beside:
    """A head of another form at its best cell."""

    probe: Probe | NonlinearProbe
    report: Metrics
    """On the report split."""
    difference: Interval
    """How far its primary measure is above that of the chosen linear head there, paired."""
    n_cells: int
    """Cells that it was chosen from, on the choose split."""

    def to_json(self) -> BesideRow:
        """Return the JSON form."""
        probe, report = self.probe, {name: value.to_json() for name, value in self.report.items()}
        return {
            "kind": probe.kind, "head": probe.head, "site": probe.site, "layer": probe.layer,
            "position": probe.position, "l2": probe.l2, "cells": self.n_cells, "report": report,
            "difference": self.difference.to_json(),
        }  # fmt: skip


class Forms(NamedTuple):
    """What is fitted beside the linear heads."""

    kinds: tuple[str, ...]
    """Of `mlp` and `attention`."""
    rules: tuple[Aggregate, ...]
    """From tokens' scores to that of a text."""

    @classmethod
    def of(cls, kinds: Sequence[str], aggregates: str | None, data_kind: str) -> Forms:
        """Return the forms that kinds and aggregates name.

        Raises
        ------
        ProbeError
            When a rule is unknown or one of the positions, or the rows have no labels.
        """
        names = [name.strip() for name in (aggregates or "").split(",") if name.strip()]
        rules = tuple(dict.fromkeys(map(Aggregate.parse, names)))
        for rule in rules:
            if Aggregate.of(rule.name) is None:
                raise ProbeError(
                    f"aggregate {rule.name!r}: is a position. Fit it with --positions {rule.name}."
                )
        if rules and data_kind != "label":
            raise ProbeError(
                f"aggregate {rules[0].name!r}: does not fit a store of {data_kind} rows. Expected labels."
            )
        return cls(tuple(kind for kind in kinds if kind in ALONE), rules)


def token_cells(store: Any, cells: Sequence[Cell], forms: Forms) -> list[Cell]:  # noqa: ANN401
    """Return the cells of all tokens at the sites and layers of some cells; none if no form reads them.

    Raises
    ------
    ProbeError
        When a form reads them and the store holds none.
    """
    if not (forms.rules or "attention" in forms.kinds):
        return []
    places = {cell[:2] for cell in cells}
    held = store.ragged_cells() if isinstance(store, ActivationStore) else []
    found = [cell for cell in held if cell[:2] in places]
    if not found:
        what = f"aggregate {forms.rules[0].name}" if forms.rules else "kind attention"
        raise ProbeError(
            f"{what}: reads every token, and the store holds no position all at the layers to fit. Cache it "
            "beside the others: probekit cache --positions mean,all."
        )
    return found


def fit_beside(
    source: Any,  # noqa: ANN401 - an ActivationSource
    task: Task,
    cells: Sequence[Cell],
    forms: Forms,
    linear: Array,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Beside]:
    """Fit every form to every cell it can read, choose one of each, and judge it beside the linear head.

    All learn from the fit split, are chosen by the primary measure on the choose split, and are read once
    on the report split.

    Parameters
    ----------
    source, task
        The store, and its label rows with their splits.
    cells
        Cells of one row an example, as the linear heads have them.
    forms
        What to fit.
    linear
        The chosen linear head's score of every example, shape (n_examples,).
    progress
        Told what is done.

    Raises
    ------
    ProbeError
        When a form cannot be fitted; the line names the cell.
    """
    if not any(forms):
        return {}
    every = [*(cells if "mlp" in forms.kinds else []), *token_cells(source, cells, forms)]
    best: dict[str, tuple[float, Made]] = {}
    n_cells: dict[str, int] = {}
    for done, cell in enumerate(every):
        progress("fitting beside", done, len(every))
        for name, made in _made(source, task, cell, forms):
            (value,) = task.primary_values(made[1][:, None], task.splits.choose)
            n_cells[name] = n_cells.get(name, 0) + 1
            if name not in best or value > best[name][0]:
                best[name] = (float(value), made)
    progress("fitting beside", len(every), len(every))
    report, sample = task.splits.report, task.sampler(task.splits.report)
    return {
        name: Beside(
            _finished(source, task, probe, scores),
            task.metrics(scores, report, sample),
            task.difference(scores, linear, report, sample),
            n_cells[name],
        )
        for name, (_, (probe, scores)) in best.items()
    }


def _made(source: Any, task: Task, cell: Cell, forms: Forms) -> list[tuple[str, Made]]:  # noqa: ANN401
    """Return the forms that read a cell, fitted there, by name."""
    fit, examples = task.splits.fit, task.examples
    assert examples.label is not None and examples.classes is not None
    label, groups = examples.label[fit], examples.group[fit]
    made: list[tuple[str, Made]] = []
    more = {"classes": examples.classes, "provenance": source.provenance}
    try:
        if cell.position != "all":
            acts = source.read(cell)
            probe = MLPProbe(seed=task.seed).fit(acts[fit], label, groups)
            return [
                ("mlp", (NonlinearProbe.of(probe, cell, **more), probe.decision_function(acts)))
            ]
        tokens, offsets = content_tokens(source, cell)
        mine: tuple[NDArray[Any], NDArray[np.int64]] = part_of(tokens, offsets, fit)
        if "attention" in forms.kinds:
            reader = AttentionProbe(seed=task.seed).fit(*mine, label, groups)
            found = reader.decision_function(tokens, offsets)
            made.append(("attention", (NonlinearProbe.of(reader, cell, **more), found)))
        for rule in forms.rules:
            head = TokenLogisticProbe(rule.name, seed=task.seed).fit(*mine, label, groups)
            linear = Probe(
                "logistic", None, cell._replace(position=rule.name), head.coef_, head.intercept_,
                head.l2_, "label", **more,
            )  # fmt: skip
            made.append((rule.name, (linear, head.decision_function(tokens, offsets))))
    except ValueError as error:
        raise ProbeError(f"{cell}: {error}") from error
    return made


def _finished(source: Any, task: Task, probe: Any, scores: Array) -> Any:  # noqa: ANN401
    """Return a probe with its metrics on choose and, of a store with tokens, its reference rows."""
    choose = task.splits.choose
    measured = task.metrics(scores, choose, task.sampler(choose))
    probe = dataclasses.replace(probe, metrics={k: v.to_json() for k, v in measured.items()})
    if isinstance(source, ActivationStore) and source.tokens.lengths.any():
        return dataclasses.replace(probe, reference=reference_rows(source, probe))
    return probe
