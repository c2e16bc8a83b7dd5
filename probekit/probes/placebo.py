"""Semantic placebos: heads fitted as a probe is, to contrasts that have nothing to do with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.activations.backends import make_backend
from probekit.activations.gather import plan_batches, read_batch
from probekit.activations.positions import PositionRule
from probekit.activations.table import Cell, Examples
from probekit.data.open import open_dataset
from probekit.data.rows import Example, Message
from probekit.errors import DataError
from probekit.models.blocks import BlockNames
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel
from probekit.probes.heads import HeadFitter
from probekit.probes.probe import Probe
from probekit.probes.task import Task

CONTRASTS = "demo:placebos"
FLIPPED, DRAWS = (0.0, 0.2, 0.3, 0.4, 0.45), 4
"""Shares of the fit's pairs whose sides trade places, to bring a placebo down to the probe's accuracy,
and how often which pairs are drawn."""
Acts = NDArray[np.float32]


class Placebo(NamedTuple):
    """One unrelated contrast, and the heads that tell its sides apart."""

    name: str
    """The two sides, `cooking/astronomy`; a higher score means the first."""
    probes: list[Probe]
    """One for each layer asked for."""
    held_out: list[float]
    """Primary measure of each on held-out sentences of the contrast."""
    flipped: list[float]
    """Share of the fit's pairs that were turned around to match the probe."""


def placebos(
    probe: Probe,
    loaded: LoadedModel,
    layers: Sequence[int] | None = None,
    *,
    most: int | None = None,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> list[Placebo]:
    """Fit heads like `probe` to unrelated contrasts, matched to it in held-out accuracy.

    Each contrast has 40 pairs of sentences in 10 wordings; 6 wordings fit a head of the probe's kind
    at its site and position, the others measure it. Where it is better than the probe was on its
    choose split, pairs of the fit are turned around until the two are as near as can be. The placebos
    of reward-lens are matched in norm alone.

    Parameters
    ----------
    probe
        What the placebos stand beside.
    loaded
        Its model.
    layers
        Layers to fit at; the probe's own by default.
    most
        Contrasts at most; all six by default.
    batch_tokens
        Padded tokens of a forward pass.
    seed
        Seed of the splits and of which pairs are turned around.

    Returns
    -------
    list of Placebo
        Without contrasts that a layer does not tell apart at all; empty where the probe's position does
        not exist in a short sentence (`token:30`).
    """
    by_contrast: dict[str, list[Example]] = {}
    for row in open_dataset(CONTRASTS).examples():
        by_contrast.setdefault(row.tags["contrast"], []).append(row)
    names = list(by_contrast)[:most]
    cells = [Cell(probe.site, n, probe.position) for n in layers or [probe.layer]]
    try:
        rows = {
            name: [_rendered(row, probe, loaded) for row in by_contrast[name]] for name in names
        }
    except DataError:
        return []
    found = []
    for name in names:
        acts = _read(rows[name], cells, probe, loaded, batch_tokens)
        task = Task.of(_examples(by_contrast[name], name, probe), seed=seed, n_boot=1)
        fits = [_matched(task, acts[cell], cell, probe, seed) for cell in cells]
        if all(np.linalg.norm(head.coef) > 0 for head, *_ in fits):
            found.append(Placebo(name, *map(list, zip(*fits, strict=True))))
    return found


def _rendered(row: Example, probe: Probe, loaded: LoadedModel) -> Rendered:
    """Return the sentence as the model's answer, or as the prompt where the probe reads its end."""
    if probe.position == "prompt_end":
        prompt = (Message("user", row.completion or ""),)
        row = dataclasses.replace(row, prompt=prompt, completion=None)
    rendered = render(row, loaded.tokenizer)
    PositionRule.parse(probe.position).resolve(rendered)
    return rendered


def _read(
    rows: list[Rendered], cells: list[Cell], probe: Probe, loaded: LoadedModel, batch_tokens: int
) -> dict[Cell, Acts]:
    blocks = probe.provenance.get("settings", {}).get("blocks")
    backend = make_backend("hooks", loaded, names=BlockNames.parse(blocks) if blocks else None)
    acts = {cell: np.empty((len(rows), len(probe.coef)), np.float32) for cell in cells}
    for batch in plan_batches(np.array([len(row.ids) for row in rows]), batch_tokens):
        part = read_batch(
            backend,
            [rows[i] for i in batch],
            [(cell.site, cell.layer) for cell in cells],
            [PositionRule.parse(probe.position)],
            loaded.device,
        )
        for cell in cells:
            acts[cell][batch] = part[cell]
    return acts


def _examples(rows: list[Example], name: str, probe: Probe) -> Examples:
    """Return the table of a contrast in the shape of the probe's data; sides alternate."""
    first, second = name.split("/")
    top = np.array([row.side == "chosen" for row in rows])
    of: dict[str, dict[str, Any]] = {
        "label": {"label": top.astype(np.int64), "classes": (second, first)},
        "rating": {"score": top.astype(float)},
        "pair": {"side": np.array([row.side for row in rows], object)},
    }
    return Examples(
        kind=probe.data_kind,  # type: ignore[arg-type]
        id=np.array([row.id for row in rows], object),
        group=np.array([row.group for row in rows], object),
        n_tokens=np.ones(len(rows), dtype=np.int64),
        prompt=np.array([""] * len(rows), dtype=object),
        completion=np.array([row.completion for row in rows], dtype=object),
        **of[probe.data_kind],
    )


def _matched(
    task: Task, acts: Acts, cell: Cell, probe: Probe, seed: int
) -> tuple[Probe, float, float]:
    """Return the head whose held-out measure is nearest to the probe's, that measure, and the flips."""
    fitter = HeadFitter(task, probe.kind, head="linear" if probe.kind == "bradley-terry" else None)
    held = np.concatenate([task.splits.choose, task.splits.report])
    target = (probe.metrics.get(task.primary) or {}).get("value")
    pairs = np.unique(task.rows[task.splits.fit] // 2)
    shares = [FLIPPED[0], *np.repeat(FLIPPED[1:], DRAWS if target is not None else 0)]
    rng, candidates = np.random.default_rng(seed), []
    for share in shares:
        turned = rng.permutation(pairs)[: round(share * len(pairs))]
        swapped = acts.copy()
        swapped[2 * turned], swapped[2 * turned + 1] = acts[2 * turned + 1], acts[2 * turned]
        head = fitter.fit(swapped)[0]
        value = float(task.primary_values(head.scores(acts)[:, None], held)[0])
        candidates.append((abs(value - (target or 0.0)), float(share), value, head))
    _, share, value, head = min(candidates, key=lambda item: item[:2])
    fitted = dataclasses.replace(
        probe,
        head=fitter.head,
        cell=cell,
        coef=head.coef,
        bias=head.bias,
        l2=head.l2,
        classes=task.examples.classes,
        score_range=task.score_range,
        metrics={task.primary: {"value": value, "low": None, "high": None}},
        distributions={},
        reference=None,
    )
    return fitted, value, share
