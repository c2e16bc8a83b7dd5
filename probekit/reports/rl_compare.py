"""Several RL runs together: wanted behaviour, score and entropy, one colour a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import plotly.graph_objects as go

from probekit.reports.rl_changes import change, ratio, scaled_change
from probekit.reports.rl_panels import Line, Panel, panels_figure
from probekit.reports.rl_rows import Evaluation, RLRun
from probekit.reports.rl_tables import change_cell, level_cell
from probekit.reports.rl_words import ROOT_KL, SD, STEPS
from probekit.reports.rows import NO_VALUE, Metric
from probekit.reports.tables import table
from probekit.reports.words import count, number, plot_text

Read = Callable[[RLRun, Evaluation], Metric]


def drawn(runs: Sequence[RLRun]) -> list[RLRun]:
    """Return the runs that have an evaluation."""
    return [run for run in runs if run.evaluations]


def same_score(runs: Sequence[RLRun]) -> bool:
    """Return whether the runs optimise the same heads, so that their scores have one unit."""
    heads = {
        (*run.optimised, *map(str, run.record.get("probes") or ()), run.record.get("model"))
        for run in drawn(runs)
    }
    return len(heads) == 1


def compare_figure(runs: Sequence[RLRun], *, against_kl: bool) -> go.Figure:
    """Draw the runs over training steps, or against the root of the divergence."""
    panels = [
        Panel(title, axis, _lines(runs, read, against_kl=against_kl), share=share)
        for title, axis, share, read in _measures(runs)
    ]
    x_title, over = (ROOT_KL, "divergence") if against_kl else (STEPS, "training steps")
    return panels_figure(
        panels,
        title=f"The runs together against {over}",
        subtitle=f"n = {_prompts(runs)} held-out prompts at every evaluation",
        x_title=x_title,
    )


def cost_figure(runs: Sequence[RLRun]) -> go.Figure:
    """Draw entropy, score and divergence of the runs over training steps."""
    measures = [item for item in _measures(runs) if item[3] is not _wanted]
    measures.append(("KL", "Nats per token", False, lambda run, at: at.value("kl")))
    return panels_figure(
        [
            Panel(title, axis, _lines(runs, read, against_kl=False), share=share)
            for title, axis, share, read in measures
        ],
        title="Score, entropy and divergence over training",
        subtitle=f"n = {_prompts(runs)} held-out prompts at every evaluation",
        x_title=STEPS,
    )


def compare_tables(runs: Sequence[RLRun]) -> str:
    """Return first and last evaluation and the paired change of every run, a table a measure."""
    parts: list[tuple[str, list[str | None]]] = [
        ("Wanted behaviour", [run.wanted for run in runs]),
        ("Score", ["score"] * len(runs)),
        ("Entropy (nats per token)", ["entropy"] * len(runs)),
        ("KL from the frozen model (nats per token)", ["kl"] * len(runs)),
    ]
    return "".join(
        table(
            ["Run", "Steps", "First", "Last", "Paired change"],
            [_row(run, name) for run, name in zip(runs, names, strict=True)],
            caption=f"<b>{title}.</b> Brackets: 95 % bootstrap intervals over the run's own held-out "
            "prompts. Bold: the change's interval leaves 0.",
            name="numbers",
        )
        for title, names in parts
        if any(names)
    )


def _row(run: RLRun, name: str | None) -> list[str]:
    label = f'<bdi dir="auto">{escape(run.name)}</bdi>'
    steps = f"{count(run.done)} of {count(run.planned)}"
    if not run.evaluations or name is None:
        return [label, steps, *[level_cell("score", NO_VALUE)] * 3]
    changed = change_cell(name, change(run, name)) if run.compared else level_cell(name, NO_VALUE)
    return [
        label, steps, level_cell(name, run.first.value(name)),
        level_cell(name, run.last.value(name)), changed,
    ]  # fmt: skip


def _measures(runs: Sequence[RLRun]) -> list[tuple[str, str, bool, Read]]:
    found: list[tuple[str, str, bool, Read]] = []
    if any(run.wanted for run in drawn(runs)):
        found.append(("Wanted behaviour", "Share of completions", True, _wanted))
    if same_score(runs):
        found.append(("Score", "Score (score units)", False, lambda run, at: at.value("score")))
    else:
        found.append(("Change of the score", f"Change ({SD})", False, _scaled))
    found.append(("Entropy", "Times that at the start", False, _entropy))
    return found


def _wanted(run: RLRun, at: Evaluation) -> Metric:
    return at.value(run.wanted) if run.wanted else NO_VALUE


def _scaled(run: RLRun, at: Evaluation) -> Metric:
    return scaled_change(run, "score", step=at.step)


def _entropy(run: RLRun, at: Evaluation) -> Metric:
    return ratio(run, "entropy", step=at.step)


def _lines(runs: Sequence[RLRun], read: Read, *, against_kl: bool) -> list[Line]:
    lines = []
    for look, run in enumerate(runs):
        if not run.evaluations:
            continue
        metrics = [read(run, item) for item in run.evaluations]
        lines.append(
            Line(
                plot_text(run.name, 40),
                [item.root_kl if against_kl else float(item.step) for item in run.evaluations],
                metrics,
                look,
                hover=[
                    f"after {item.step} steps, √KL {number(item.root_kl)}"
                    for item in run.evaluations
                ],
                bars=against_kl,
            )
        )
    return lines


def _prompts(runs: Sequence[RLRun]) -> str:
    sizes = sorted({run.prompts() for run in drawn(runs)})
    return " to ".join(count(size) for size in dict.fromkeys([sizes[0], sizes[-1]]))
