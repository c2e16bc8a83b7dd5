"""Sections of a head dynamics analysis in the study report."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from probekit.reports.dynamics_rows import NAMES, TITLES, Dynamics
from probekit.reports.rows import Metric
from probekit.reports.tables import interval_cell, table
from probekit.reports.words import count, number, upper_first

if TYPE_CHECKING:
    from probekit.reports.old_page import Section

_RANGE = "Brackets: least and most over the starts."


def dynamics_lead(found: Dynamics) -> str:
    """Return the headline of the finding as HTML."""
    headline = escape(found.value["conclusion"]["headline"])
    return f'<div class="verdict"><p class="headline">{headline}</p></div>'


def dynamics_sections(found: Dynamics) -> list[Section]:
    """Return figures and tables as sections, for this report or another one."""
    from probekit.reports.dynamics_figures import rates_figure, steps_figure
    from probekit.reports.old_page import Plot, Section

    circles = (
        "Circles: the direct vector started at the projection's effective vector, with its learning "
        "rate multiplied by the step factor; on the blue line, the prediction holds."
    )
    rates = Plot(
        "dynamics-rates",
        rates_figure(found),
        f"{circles} Dash-dotted: the direct vector's curve divided by the step factor; where it meets "
        "the blue line, step size alone is the difference. Dotted: the target, 90 % of the way from "
        "ln 2 to the best loss. Learning rates are those the optimiser of each parametrisation is "
        "given, but the circles', which stand at the projection's. Losses beyond the axis leave the panel.",
        "Last loss over the learning rate for every parametrisation, an optimiser a column.",
    )
    exact = (
        "Dashed black: the exact convex solution at the head's own l2, which is not the lowest loss "
        "there is."
    )
    steps = [
        Plot(
            f"dynamics-{name}",
            steps_figure(found, same=same),
            f"{words} {circles} {exact}",
            f"Loss over training steps, {words}",
        )
        for name, same, words in (
            (
                "same",
                True,
                "The learning rate beside each title is the one at which the held-out accuracies of "
                "projection and direct vector differ most; every optimiser was given it.",
            ),
            ("steps", False, "Each at the learning rate with the lowest loss on the choose split."),
        )
    ]
    tables = [_best_table(found, optimizer) for optimizer in found.optimizers]
    points = "".join(f"<li>{escape(point)}</li>" for point in found.value["conclusion"]["points"])
    return [
        Section("findings", "Findings", [f"<ul>{points}</ul>"]),
        Section("rates", "Learning rates", [rates]),
        Section("steps", "Loss over steps", [*steps, *tables]),
        Section("mechanism", "Mechanism", [_mechanism_table(found)]),
        Section("pairs", "The pairs", [_geometry_table(found), _exact_table(found)]),
    ]  # fmt: skip


def _best_table(found: Dynamics, optimizer: str) -> str:
    findings = found.findings(optimizer)
    measure = findings["measures"]["choose_loss"]
    rows = []
    for name, label in NAMES.items():
        best = findings["parametrisations"][name]
        arrived = measure["steps_to_target"][name]
        rows.append([
            escape(upper_first(label)),
            f"{best['learning_rate']:.2g}",
            _window(measure["windows"][name]),
            _band(best["loss"]),
            _band(best["choose_loss"]),
            _band(best["choose_accuracy"]),
            "–" if arrived is None else f"{arrived:g}",
        ])  # fmt: skip
    return table(
        ["", "Best rate", "Window", "Loss, fit", "Loss, choose", "Accuracy, choose", "Steps"],
        rows,
        caption=f"<b>{TITLES[optimizer]}.</b> Best rate: by the loss on the choose split; "
        "losses and accuracy there. Window: the learning rates at which every start reaches the target of "
        f"that loss ({measure['target']:.3f}), and its width in decades; &lt; or &gt;: it runs off the "
        "grid. Steps: median first step at the target. The rescaled vector's rate is the projection's. "
        f"{_RANGE}",
        name="numbers",
    )


def _mechanism_table(found: Dynamics) -> str:
    value = found.value["mechanism"]
    d = found.value["n"]["d_model"]
    formulas = {"adamw": "c d", "sgd": "c² d"}
    rows = [
        [f"Step factor, {TITLES[name]}", f"{formulas[name]} = {factor:.3g}"]
        for name, factor in value["step_factor"].items()
    ]
    for name, label, formula in (
        ("direct", "direct vector", "1/√(3d)"),
        ("projection", "projection", "c/√3"),
    ):
        own = value[name]
        rows.append([f"Start of a coordinate, {label}", f"{formula} = {own['start_scale']:.2g}"])
        rows.append([f"Margin at the start, {label}", number(own["margin"])])
        rows.append([f"Loss at the start, {label}", f"{number(own['loss'], 3)} (ln 2 = 0.693)"])
    rows.append(["Length of a pair's difference", number(value["data"]["rms_length"], 1)])
    return table(
        ["", "Value"], rows,
        caption=f"Step and start, with c = 0.01 and d = {count(d)}. Start, margin and length are root "
        "mean squares (of the coordinates of the effective vector, of x·v expected at that start, of the "
        "pairs); the loss is measured.",
        name="settings",
    )  # fmt: skip


_GEOMETRY = {
    "condition_90": ("Largest eigenvalue to the one at 90 % of the variance", 1),
    "condition": ("Largest to smallest eigenvalue that is not 0", 0),
    "rank": ("Rank", 0),
    "effective_rank": ("Effective rank", 1),
    "top_direction": ("Variance in the top direction", None),
    "top_10_directions": ("Variance in the top 10 directions", None),
    "coordinate_spread": ("Largest to median coordinate (root mean square)", 1),
    "top_coordinate": ("Variance in the largest coordinate", None),
    "top_10_coordinates": ("Variance in the 10 largest coordinates", None),
}


def _geometry_table(found: Dynamics) -> str:
    value = found.value["geometry"]
    rows = [
        [label, *(_figure(value[kind][key], digits) for kind in ("raw", "standardised"))]
        for key, (label, digits) in _GEOMETRY.items()
    ]
    return table(
        ["", "Raw", "Standardised"], rows,
        caption="Second moment of the pair differences on the fit split. Standardised: every feature divided "
        "by its root mean square there.",
        name="numbers",
    )  # fmt: skip


def _exact_table(found: Dynamics) -> str:
    rows = [
        [
            escape(str(row["name"])),
            f"{row['l2']:.3g}",
            number(row["fit_loss"], 3),
            number(row["choose_loss"], 3),
            number(row["choose_accuracy"], 3),
            "yes" if row["separates"] else "no",
        ]
        for row in found.value["exact"]
    ]
    return table(
        ["", "l2", "Loss, fit", "Loss, choose", "Accuracy, choose", "Separates the fit pairs"], rows,
        caption="The exact convex solution, at the penalty of the fitted head and at next to none.",
        name="numbers",
    )  # fmt: skip


def _band(value: dict[str, Any]) -> str:
    return interval_cell(Metric(value["value"], value["low"], value["high"]), 3)


def _window(value: dict[str, Any] | None) -> str:
    if value is None:
        return '<span class="none">–</span>'
    low = f"{'&lt; ' if value['open_low'] else ''}{value['low']:.2g}"
    high = f"{'&gt; ' if value['open_high'] else ''}{value['high']:.2g}"
    return f'{low} to {high} <span class="interval">({value["decades"]:.2f})</span>'


def _figure(value: float, digits: int | None) -> str:
    return f"{100 * value:.1f} %" if digits is None else number(value, digits)
