"""Tables of a study's RL runs: their course on held-out names, and what shows outside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from probekit.reports.rl_changes import late_steps, ratio
from probekit.reports.rl_rows import RLRun
from probekit.reports.rl_tables import change_cell, spanned
from probekit.reports.rows import Metric
from probekit.reports.steer_tables import NONE
from probekit.reports.study_rates import (
    Course,
    Outside,
    course,
    kept_answers,
    outside,
    outside_separation,
    score_change,
    separation,
)
from probekit.reports.study_rows import (
    ANSWERS,
    CLASSES,
    HEDGE_INVENTED,
    HEDGES,
    PUBLISHED_RATES,
    Study,
)
from probekit.reports.study_tables import bdi, percent_cell
from probekit.reports.study_words import outside_outcome, points
from probekit.reports.tables import interval_cell, table
from probekit.reports.words import count, number, upper_first

SHARE = HEDGE_INVENTED.measure
"""A measure in shares: its changes are written in percentage points."""

_HOW = (
    "Each run by itself. Changes are from the first evaluation, in percentage points and paired over "
    "prompts; brackets are 95 % bootstrap intervals over prompts, bold where they leave 0. Separation is "
    "hedging or refusing about invented minus about real names: 0 where the name makes no difference."
)


def runs_table(runs: Sequence[RLRun]) -> str:
    """Return what each run was, what it cost and its verdict."""
    rows = []
    for run in runs:
        if not run.compared:
            rows.append([bdi(run.name), _aim(run), _steps(run), *[NONE] * 4])
            continue
        rows.append(
            [
                bdi(run.name),
                _aim(run),
                _steps(run),
                interval_cell(kept_answers(run), 2),
                interval_cell(ratio(run, "entropy", step=run.last.step), 2),
                change_cell("score", score_change(run)),
                escape(run.curve.verdict if run.curve else "–"),
            ]
        )
    return table(
        ["Run", "Target", "Steps", "Answers kept", "Entropy", "Score, change", "Verdict of the run"],
        rows,
        caption="<b>The runs.</b> Answers kept: rate of answers about real names at the end over that at the "
        "start. Entropy: end over start. Score: under the first heads where they were fitted again, in the "
        "run's own units. Brackets: 95 % bootstrap intervals over prompts. The verdict is that of the "
        "run's own report.",
        name="runs",
    )  # fmt: skip


def course_tables(runs: Sequence[RLRun]) -> str:
    """Return the rates of every run and the separation: ends, change, last third."""
    found = "".join(_course_table(run) for run in runs if run.compared)
    return f"<p>{_HOW}</p>{found}" if found else ""


def _course_table(run: RLRun) -> str:
    steps = late_steps(run)
    rows = [
        [_label(upper_first(rate.label), rate.known_as), *_course_cells(course(run, rate))]
        for rate in PUBLISHED_RATES
    ]
    found = separation(run)
    rows.append(["<b>Separation</b>", *_separation_cells(found)])
    sizes = ", ".join(f"{count(run.prompts(f'class={value}'))} {value}" for value in CLASSES)
    return table(
        ["Rate", f"Step {run.first.step}", f"Step {run.last.step}", "Change", "Last third",
         "Change to it"],
        rows,
        caption=f"<b>Run {bdi(run.name)}</b> on held-out prompts ({sizes}); last third: mean of "
        f"{count(len(steps))} evaluation{'' if len(steps) == 1 else 's'}.",
        name="numbers",
    )  # fmt: skip


def outside_tables(study: Study) -> str:
    """Return rates outside the training distribution before and after, by run and class."""
    runs = [name for name in study.after if study.before]
    found = "".join(
        _outside_table(study, runs, title, kinds)
        for title, kinds in (("Hedges or refuses", HEDGES), ("Answers", ANSWERS))
    )
    return found + _apart_table(study, runs)


def topics_table(study: Study, name: str) -> str:
    """Return the same for every topic of one run."""
    after = study.after[name]
    rows = []
    for topic in dict.fromkeys(row.topic for row in study.before if row.topic):
        cells = []
        for value in CLASSES:
            item = outside(study.before, after, HEDGES, value=value, topic=topic)
            cells += [_arrow(item), change_cell(SHARE, item.change)]
        rows.append([bdi(topic), *cells])
    return table(
        ["Topic", "Invented", "Change", "Real", "Change"],
        rows,
        caption=f"Hedges or refuses by topic before → after, run {bdi(name)}. There are few questions a "
        "topic: wide as these intervals are, they are still too narrow.",
        name="numbers",
    )


def _outside_table(study: Study, runs: Sequence[str], title: str, kinds: Sequence[str]) -> str:
    rows = []
    for name in runs:
        for value in CLASSES:
            item = outside(study.before, study.after[name], kinds, value=value)
            rows.append(
                [f"{bdi(name)}, {value} things", count(item.n), percent_cell(item.before),
                 percent_cell(item.after), change_cell(SHARE, item.change)]
            )  # fmt: skip
    return table(
        ["Run, questions", "n", "Before", "After", "Change"],
        rows,
        caption=f"<b>{title}</b>, false-premise questions and the same about things that exist. Paired by "
        "completion, with 95 % bootstrap intervals over groups (a real and an invented thing are one group).",
        name="numbers",
    )


def _apart_table(study: Study, runs: Sequence[str]) -> str:
    rows = []
    for name in runs:
        invented, real = (
            outside(study.before, study.after[name], HEDGES, value=value).change
            for value in CLASSES
        )
        item = outside_separation(study.before, study.after[name])
        rows.append(
            [bdi(name), *(change_cell(SHARE, Metric(*metric)) for metric in item),
             escape(outside_outcome(invented, real, item.change))]
        )  # fmt: skip
    return table(
        ["Run", "Before", "After", "Change", "Finding"],
        rows,
        caption="<b>Separation</b>: hedging or refusing about invented minus about real things, in "
        "percentage points; transfer is a change above 0.",
        name="numbers",
    )


def _course_cells(found: Course) -> list[str]:
    return [
        percent_cell(found.start), percent_cell(found.end), change_cell(SHARE, found.change),
        percent_cell(found.late), change_cell(SHARE, found.late_change),
    ]  # fmt: skip


def _separation_cells(found: Course) -> list[str]:
    # By place: where the start is 0, a change equals its end.
    return [
        change_cell(SHARE, metric) if name.endswith("change") else spanned(points(metric))
        for name, metric in found._asdict().items()
    ]


def _label(text: str, known_as: str) -> str:
    small = f' <small class="none">{escape(known_as)}</small>' if known_as else ""
    return escape(text) + small


def _arrow(item: Outside) -> str:
    if not item.n:
        return NONE
    return f"{number(100 * item.before.value, 0)} → {number(100 * item.after.value, 0)} %"


def _steps(run: RLRun) -> str:
    return count(run.done) if run.done >= run.planned else f"{count(run.done)} of {run.planned}"


def _aim(run: RLRun) -> str:
    settings: dict[str, Any] = run.settings
    found = [str(settings.get("target") or "not recorded")]
    if balance := settings.get("balance"):
        shares = str(balance).partition("=")[2]
        found.append(f"classes {shares.replace(',', ', ')}" if shares else "balanced classes")
    if settings.get("refit_every"):
        found.append(f"refit every {settings['refit_every']} steps")
    if len(run.optimised) > 1:
        found.append(f"{len(run.optimised)} heads")
    return escape(", ".join(found))
