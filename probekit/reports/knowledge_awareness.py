"""The page of the study `knowledge-awareness`: frames to figures; the words are in its template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.reports.dynamics import dynamics_context
from probekit.reports.figures import lines, points
from probekit.reports.formats import count, shorten
from probekit.reports.rl import STEPS, compare_figure, examples, same_score
from probekit.reports.steer import dose_figure
from probekit.reports.sweep import heatmap_of
from probekit.results import knowledge_awareness as results
from probekit.results.findings import standing
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.knowledge_awareness import KnowledgeAwareness
from probekit.results.rl import RLRun
from probekit.results.study import StudyRun
from probekit.results.sweep import SweepRun

LINES = {"hedges or refuses": results.HEDGES, "answers": results.ANSWERS}
"""Name of a line to the rate that it draws."""
DOSED, COSTS = ("rate:hedges", "score", "perplexity"), ("score", "entropy", "kl")
"""Measures that are drawn over the dose of steering, and over the steps of training."""
SCORES = ("chosen", "rejected", "margin", "pair_accuracy")
GROUPS = ("behaviour", "effect", "damage")
EXAMPLES = 4
"""Example pairs, spread over the classes."""


def context(run: StudyRun) -> dict[str, Any]:
    """Return what the template needs beside the study: findings, figures to be titled there, examples."""
    found = KnowledgeAwareness(run)
    drawn = {name: arm for name, arm in found.arms.items() if arm.evaluated}
    fit, dynamics, steer = (found.single[name] for name in ("fit", "dynamics", "steer"))
    figures: dict[str, Callable[..., go.Figure]] = {}
    if fit and len(fit.record["rows"]) > 1:
        figures["heatmap"] = partial(heatmap_of, fit)
    if steer and (measures := [item for item in steer.measures(*GROUPS) if item.name in DOSED]):
        figures["doses"] = partial(dose_figure, steer, measures)
    if drawn:
        figures["rates"] = partial(rates_figure, drawn)
        figures["cost"] = partial(compare_figure, drawn, COSTS)
    return {
        "s": found, "results": results, "standing": standing, "figures": figures,
        "scores": scores, "drawn": drawn, "pairs": drawn_pairs(found),
        "examples": examples(found.main) if found.main else [],
        "same_score": same_score([*drawn.values()]),
        **(dynamics_context(dynamics) if dynamics else {"d": None}),
    }  # fmt: skip


def rates_figure(runs: Mapping[str, RLRun], value: str, *, title: str, subtitle: str) -> go.Figure:
    """Draw how often runs hedge and answer about one class of names, a panel a run."""
    part, frames = results.ABOUT[value], []
    for (name, run), (line, rate) in product(runs.items(), LINES.items()):
        values = [run.level(rate, part, step) for step in run.evaluated]
        hover = [f"after {step} steps" for step in run.evaluated]
        panel = f"{shorten(name, 16)}, n={count(run.prompts(part))}"
        more = {"name": line, "panel": panel, "axis": "Share", "share": True}
        frames.append(points(run.evaluated, values, hover, **more))
    return lines(
        pd.concat(frames), title=title, subtitle=subtitle, x_title=STEPS,
        across=min(4, len(runs)), same=True,
    )  # fmt: skip


def scores(fit: SweepRun, part: str = "all") -> list[Interval]:
    """Return mean scores of chosen and rejected sides, their margin, and pair accuracy, held out."""
    measures = fit.chosen.get(("report", "", part), {})
    return [measures.get(name, NO_VALUE) for name in SCORES]


def drawn_pairs(found: KnowledgeAwareness) -> list[dict[str, Any]]:
    """Return pairs drawn with the study's seed, in turn from every class and none of a name twice."""
    if found.single["elicit"] is None:
        return []
    pairs = found.single["elicit"].rows
    order = np.random.default_rng(found.study.record["seed"]).permutation(len(pairs))
    drawn = pairs.iloc[order].drop_duplicates("group")
    drawn = drawn.assign(turn=drawn.groupby("tag:class").cumcount())
    drawn = drawn.sort_values(["turn", "tag:class"], kind="stable")
    return [dict(row) for row in drawn.head(EXAMPLES).to_dict("records")]
