"""Figures of an RL run: behaviour, score, independent readings, health, and the Goodhart curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from probekit.reports import theme
from probekit.reports.rl_changes import change, scaled_change
from probekit.reports.rl_panels import EACH_STEP, Line, Mark, Panel, level, panels_figure
from probekit.reports.rl_rows import ALL, RATE, Curve, RLRun
from probekit.reports.rl_words import (
    HEALTH,
    MOST_MARKED,
    ROOT_KL,
    SD,
    STEPS,
    measure,
    part_name,
    report_n,
)
from probekit.reports.rows import Metric
from probekit.reports.words import count, plot_text, shorten, upper_first

CATEGORIES = 5
"""Categories drawn beside the wanted behaviour: those whose rate changed most."""
PARTS = 6
"""Parts drawn beside each other at most, the one of all prompts among them."""
REFIT = "heads fitted again"
ALARM = "alarm"
SWEET_SPOT = "sweet spot"


def behaviour_figure(run: RLRun) -> go.Figure | None:
    """Draw the rates of the wanted behaviour and of the categories, a panel a tag's value."""
    names = _rates(run)
    if not names:
        return None
    panels = []
    for part in run.parts[:PARTS]:
        lines = [
            _evaluated(run, name, part, look=look, name=_rate_name(run, name))
            for look, name in enumerate(names)
        ]
        title = f"{upper_first(shorten(part_name(part), 40))} (n = {count(run.prompts(part))})"
        panels.append(Panel(title, "Share of completions", lines, share=True))
    several = len(panels) > 1
    return panels_figure(
        panels,
        title="Behaviour over training" + (", by tag" if several else ""),
        subtitle=report_n(run),
        x_title=STEPS,
        same=True,
    )


def score_figure(run: RLRun) -> go.Figure:
    """Draw the optimised score, and how far its distribution is from the chosen one."""
    x = _x(run)
    lines = [_evaluated(run, "score", ALL, name="held-out prompts"), *_trained(run, "score")]
    if "score_first" in run.measures:
        lines.append(_evaluated(run, "score_first", ALL, look=1, name="under the first heads"))
    elif _trained(run, "score_first"):
        line = _trained(run, "score_first", name="training steps, first heads")
        lines += line
    chosen = run.target_scores()
    if chosen:
        mean = sum(chosen) / len(chosen)
        lines.append(level("mean of the chosen scores", mean, [0, *x]))
    panels = [Panel("Score", "Score (score units)", lines, marks=_refits(run))]
    if "distance_to_chosen" in run.measures:
        distance = [
            _evaluated(run, "distance_to_chosen", ALL, name="held-out prompts"),
            *_trained(run, "distance_to_chosen"),
        ]
        title = "Distance to the chosen scores"
        panels.append(
            Panel(title, "1-Wasserstein distance (score units)", distance, marks=_refits(run))
        )
    return panels_figure(
        panels, title="Optimised score over training", subtitle=report_n(run), x_title=STEPS
    )


def independent_figure(run: RLRun) -> go.Figure | None:
    """Draw changes of the optimised score and of readings that nothing optimises."""
    if not run.independent or not run.compared:
        return None
    lines = []
    for look, name in enumerate(["score", *run.independent][: len(theme.SERIES) - 1]):
        found = [scaled_change(run, name, step=item.step) for item in run.evaluations]
        lines.append(
            Line(
                plot_text(upper_first(measure(name).label), 60),
                _x(run),
                found,
                look,
                hover=_after(run),
            )
        )
    lines.append(_zero(_x(run)))
    return panels_figure(
        [Panel("", f"Change ({SD})", lines, marks=_refits(run))],
        title="The optimised score beside readings that nothing optimises",
        subtitle=report_n(run),
        x_title=STEPS,
    )


def goodhart_figure(run: RLRun, curve: Curve) -> go.Figure:
    """Draw changes of score, independent readings and behaviour against the root of the KL."""
    spot = next((p.root_kl for p in curve.points if p.step == curve.sweet_spot), None)
    marks = [] if spot is None else [Mark(f"{SWEET_SPOT} (step {curve.sweet_spot})", [spot],
                                          theme.PURPLE)]  # fmt: skip
    parts: list[tuple[str, str, str, bool]] = [
        ("score", "Optimised score", "Change (score units)", False),
        ("independent", "Heads not optimised, mean", f"Change ({SD})", False),
        ("behaviour", "Wanted behaviour", "Change of the rate", True),
    ]
    panels = []
    x = [point.root_kl for point in curve.points]
    steps = [(point.root_kl, point.step) for point in curve.points]
    hover = [f"after {point.step} steps, √KL {point.root_kl:.2f}" for point in curve.points]
    for look, (name, title, axis, share) in enumerate(parts):
        metrics: list[Metric] = [getattr(point, name) for point in curve.points]
        if not any(metric.known for metric in metrics):
            continue
        line = Line(title, x, metrics, look, dash="solid", hover=hover, bars=True)
        panels.append(Panel(title, axis, [line, _zero(x)], marks=marks, steps=steps))
        if share:
            panels[-1] = _in_points(panels[-1])
    return panels_figure(
        panels,
        title="Score, independent readings and behaviour against divergence",
        subtitle=report_n(run),
        x_title=ROOT_KL,
    )


def health_figure(run: RLRun) -> go.Figure | None:
    """Draw what training did to the text and to the activations, a panel a measure."""
    names = [name for name in HEALTH if name in run.measures]
    trained = [name for name in HEALTH if name in names or _trained(run, name)]
    if not trained:
        return None
    alarmed = sorted({step for step, _ in run.alarms})
    alarms = Mark(ALARM, alarmed, theme.VERMILLION, sign=True)
    panels = []
    for name in trained:
        what = measure(name)
        lines = [*_trained(run, name)]
        if name in names:
            lines.append(_evaluated(run, name, ALL, name="held-out prompts"))
        panels.append(
            Panel(
                upper_first(what.label),
                upper_first(what.unit if what.unit != "share" else _SHARE_OF[name]),
                lines,
                share=what.unit == "share",
                marks=[alarms, *_refits(run)],
            )
        )
    return panels_figure(
        panels, title="Health of the policy over training", subtitle=_health_n(run), x_title=STEPS,
        across=3,
    )  # fmt: skip


_SHARE_OF = {"finished": "share of completions", "distinct_2": "share of bigrams"}


def _health_n(run: RLRun) -> str:
    return report_n(run) if run.evaluations else f"{count(len(run.steps))} training steps"


def _rates(run: RLRun) -> list[str]:
    """Return the wanted behaviour, then the categories whose rate changed most."""
    same = twin(run)
    rates = [name for name in run.measures if name.startswith(RATE)]
    rates = [name for name in rates if name not in (run.wanted, same)]
    if run.compared and len(rates) > CATEGORIES:
        moved = {name: abs(change(run, name).value) for name in rates}
        kept = sorted(rates, key=lambda name: -moved[name])[:CATEGORIES]
        rates = [name for name in rates if name in kept]
    return [*([run.wanted] if run.wanted else []), *rates[:CATEGORIES]]


def twin(run: RLRun) -> str | None:
    """Return the category that is the wanted behaviour: two lines would hide each other."""
    name = f"{RATE}{run.behaviour}"
    return name if run.wanted == "wanted" and name in run.measures else None


def _rate_name(run: RLRun, name: str) -> str:
    shown = twin(run) or name if name == run.wanted else name
    label = plot_text(measure(shown).label, 30)
    return f"{label} (wanted)" if name == run.wanted and shown != "wanted" else label


def _x(run: RLRun) -> list[float]:
    return [float(item.step) for item in run.evaluations]


def _after(run: RLRun) -> list[str]:
    return [f"after {item.step} steps" for item in run.evaluations]


def _evaluated(run: RLRun, measured: str, part: str, *, look: int = 0, name: str) -> Line:
    found = [item.value(measured, part) for item in run.evaluations]
    return Line(name, _x(run), found, look, hover=_after(run))


def _trained(run: RLRun, measured: str, *, name: str = EACH_STEP) -> list[Line]:
    """Return the training steps' own values as a thin line; none where nothing was measured."""
    values = [row.values.get(measured, math.nan) for row in run.steps]
    # Without a divergence in the loss its place in the log is 0 at every step, not a measurement.
    if not any(value for value in values if math.isfinite(value)):
        return []
    x = [float(row.step) for row in run.steps]
    return [Line(name, x, [Metric(value) for value in values], color="#9a9a9a", thin=True,
                 dash="solid" if name == EACH_STEP else "dot")]  # fmt: skip


def _refits(run: RLRun) -> list[Mark]:
    """Return where heads were fitted again; nothing where lines would hide what they mark."""
    steps = run.refitted
    if not 0 < len(steps) <= MOST_MARKED:
        return []
    # Between the evaluation after the step before, which the old heads read, and the step itself.
    return [Mark(REFIT, [step - 0.5 for step in steps], theme.ORANGE)]


def _zero(x: Sequence[float]) -> Line:
    known = [value for value in x if math.isfinite(value)] or [0.0]
    return Line("", [min(known), max(known)], [Metric(0.0)] * 2, color=theme.BLACK, thin=True,
                dash="dot")  # fmt: skip


def _in_points(panel: Panel) -> Panel:
    """Return a panel of changes of a share in percentage points, which may be below 0."""
    lines = [
        Line(line.name, line.x, [Metric(*(100 * value for value in m)) for m in line.metrics],
             line.look, line.color, line.thin, line.dash, line.hover, line.bars)
        for line in panel.lines
    ]  # fmt: skip
    return Panel(panel.title, f"{panel.axis} (points)", lines, marks=panel.marks, steps=panel.steps)
