"""The main figure of a study: the four rates over training steps, a column an RL run."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from probekit.reports.rl_changes import level
from probekit.reports.rl_panels import Line, Panel, panels_figure
from probekit.reports.rl_rows import RLRun
from probekit.reports.rl_words import STEPS
from probekit.reports.study_rows import ANSWERS, CLASSES, HEDGES, Rate
from probekit.reports.words import count, shorten

ACROSS = 4
"""Runs beside each other at most: more panels would be too narrow."""
LINES = {"hedges or refuses": HEDGES, "answers": ANSWERS}


def rates_figures(runs: Sequence[RLRun]) -> list[go.Figure]:
    """Draw the four rates of the runs, at most `ACROSS` of them in a figure."""
    parts = [runs[start : start + ACROSS] for start in range(0, len(runs), ACROSS)]
    return [_rates_figure(part) for part in parts]


def _rates_figure(runs: Sequence[RLRun]) -> go.Figure:
    panels = []
    for value in CLASSES:
        for run in runs:
            rates = [Rate(name, "", value, kinds) for name, kinds in LINES.items()]
            n = count(run.prompts(rates[0].part))
            panels.append(
                Panel(
                    f"{shorten(run.name, 16)}, n={n}",
                    f"Share, {value} names",
                    [_line(run, rate, look) for look, rate in enumerate(rates)],
                    share=True,
                )
            )
    return panels_figure(
        panels,
        title="What the model does with names it was not trained on",
        subtitle="held-out prompts at every evaluation; n in prompts",
        x_title=STEPS,
        across=len(runs),
        table=True,
    )


def _line(run: RLRun, rate: Rate, look: int) -> Line:
    return Line(
        rate.label,
        [float(item.step) for item in run.evaluations],
        [level(run, rate.measure, rate.part, step=item.step) for item in run.evaluations],
        look,
        hover=[f"after {item.step} steps" for item in run.evaluations],
    )
