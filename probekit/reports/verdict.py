"""What a reader should take away, in plain words, from the report metric and its controls."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from probekit.reports.rows import NO_VALUE, Metric, Metrics, Sweep
from probekit.reports.words import (
    CHANCE,
    cell_name,
    control_name,
    kind_name,
    metric_name,
    number,
    ordered_controls,
    with_interval,
)


class Standing(Enum):
    """Where the probe's interval lies against a reference value."""

    ABOVE = "above"
    INCLUDES = "includes"
    BELOW = "below"
    UNKNOWN = "unknown"


class Verdict(NamedTuple):
    """The sentences at the top of a report, and where the probe stands against each control."""

    headline: str
    conclusion: str
    standings: dict[str, Standing]
    """Control name (`chance` among them) to where the probe's interval lies against its value."""


def standing(metric: Metric, reference: float) -> Standing:
    """Return whether the whole interval of `metric` lies above `reference`, includes it, or not."""
    if not metric.has_interval or reference != reference:
        return Standing.UNKNOWN
    if metric.low > reference:
        return Standing.ABOVE
    return Standing.BELOW if metric.high < reference else Standing.INCLUDES


def control_metric(metrics: Metrics, primary: str) -> Metric:
    """Return a control's value of the primary metric, its only metric where it has just one."""
    if primary not in metrics and len(metrics) == 1:
        return next(iter(metrics.values()))
    return metrics.get(primary, NO_VALUE)


def verdict(sweep: Sweep) -> Verdict:
    """Say how well the chosen probe reads held-out rows and what it does and does not clear."""
    controls = {
        name: control_metric(sweep.controls[name], sweep.primary)
        for name in ordered_controls(list(sweep.controls))
    }
    standings = {
        name: standing(sweep.best, metric.value)
        for name, metric in controls.items()
        if name != "length_partialled"
    }
    chance = CHANCE.get(sweep.primary)
    if chance is not None:
        standings["chance"] = standing(sweep.best, chance)
    sentences = [_against_chance(sweep, standings), _against_controls(controls, standings)]
    above = standings.get("chance") is Standing.ABOVE
    if "length_partialled" in controls and chance is not None and above:
        sentences.append(_partialled(controls["length_partialled"], chance))
    conclusion = " ".join(sentence for sentence in sentences if sentence)
    return Verdict(_headline(sweep, controls), conclusion, standings)


def _headline(sweep: Sweep, controls: dict[str, Metric]) -> str:
    chosen = sweep.chosen
    known = [
        f"{control_name(name)} {number(metric.value)}"
        for name, metric in controls.items()
        if metric.known and name != "length_partialled"
    ]
    beside = f"; {', '.join(known)}" if known else ""
    return (
        f"Held-out {metric_name(sweep.primary)} {with_interval(sweep.best)} at "
        f"{cell_name(chosen)}, {kind_name(chosen.kind, chosen.head)}{beside}."
    )


def _against_chance(sweep: Sweep, standings: dict[str, Standing]) -> str:
    chance = CHANCE.get(sweep.primary)
    if not sweep.best.known:
        return "The metric has no value on the report split: nothing can be concluded."
    if not sweep.best.has_interval:
        return "The metric has no interval, so it can not be held against its controls."
    if chance is None:
        return ""
    level = f"chance ({number(chance)})"
    return {
        Standing.ABOVE: f"The interval lies above {level}.",
        Standing.INCLUDES: f"The interval includes {level}: no signal is shown.",
        Standing.BELOW: f"The interval lies below {level}: something is the wrong way round.",
    }.get(standings["chance"], "")


def _against_controls(controls: dict[str, Metric], standings: dict[str, Standing]) -> str:
    named = {
        place: [
            f"{control_name(name)} ({number(controls[name].value)})"
            for name, found in standings.items()
            if found is place and name != "chance"
        ]
        for place in (Standing.ABOVE, Standing.INCLUDES, Standing.BELOW)
    }
    cleared, level, worse = named.values()
    clears = f" It clears {_listed(cleared)}." if cleared else ""
    if worse:
        also = f" and includes {_listed(level)}" if level else ""
        return f"It lies below {_listed(worse)}{also}: those do as well without this probe.{clears}"
    if level:
        return f"It includes {_listed(level)}: the probe is not shown to do better.{clears}"
    without = [
        control_name(name) for name in standings if name in controls and not controls[name].known
    ]
    if without and cleared:
        return f"It clears {_listed(cleared)}; there is no value for {_listed(without)}."
    return "It clears every control." if cleared else ""


def _partialled(metric: Metric, chance: float) -> str:
    if not metric.has_interval:
        return ""
    value = with_interval(metric)
    if standing(metric, chance) is Standing.ABOVE:
        return f"With length partialled out it is {value}, still above chance."
    return f"With length partialled out it is {value}: length may explain the score."


def _listed(items: list[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
