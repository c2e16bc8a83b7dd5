"""The claims of the published work beside what this study measured, each with a rule of its own."""

from __future__ import annotations

from typing import NamedTuple

from probekit.reports.rl_changes import ratio
from probekit.reports.rl_rows import RLRun
from probekit.reports.rows import NO_VALUE, Metric, Sweep
from probekit.reports.study_rates import course, kept_answers, outside_separation, separation
from probekit.reports.study_rows import (
    CLASS,
    CLASSES,
    HEDGE_REAL,
    PUBLISHED_MODEL,
    Study,
)
from probekit.reports.study_words import MOST, Outcome, outcome, percent, points
from probekit.reports.verdict import Standing, standing, verdict
from probekit.reports.words import cell_name, control_name, with_interval

KEPT = 0.9
"""Entropy, or the answers about real names, at this share of the start are kept."""
YES, NO, OPEN, GONE = "reproduced", "not reproduced", "not shown", "not run"


class Claim(NamedTuple):
    """A claim, what was published, what was measured here, and how the two stand."""

    claim: str
    published: str
    here: str
    verdict: str


def claims(study: Study) -> list[Claim]:
    """Return the claims in the order of the study, those on behaviour for the heads fitted again too."""
    aimed, refitted = _aimed(study), _refitted(study)
    found = [
        _reading(study.projection or study.linear),
        _denial(_named(study, "max-unbalanced")),
        *_behaviour(study, aimed),
    ]
    if refitted is not None and refitted is not aimed:
        found += [
            item._replace(claim=f"With heads fitted again: {item.claim[0].lower()}{item.claim[1:]}")
            for item in _behaviour(study, refitted)
        ]
    return found


def _behaviour(study: Study, run: RLRun | None) -> list[Claim]:
    kept = entropy = None
    if run is not None:
        kept, entropy = kept_answers(run), ratio(run, "entropy", step=run.last.step)
    return [
        _followed(run),
        _share("Real people are still answered about", "answers_real stays high", kept, run),
        _share("Entropy does not collapse", "rises slightly", entropy, run),
        _transfer(study, run),
    ]


def _named(study: Study, name: str) -> RLRun | None:
    return next((run for run in study.evaluated if run.name == name), None)


def _aimed(study: Study) -> RLRun | None:
    """Return the run that aims at the chosen scores: the one of that name, else the last of them."""
    found = [run for run in study.evaluated if run.settings.get("target") == "chosen"]
    return _named(study, "chosen") or (found[-1] if found else None)


def _refitted(study: Study) -> RLRun | None:
    """Return the last run whose heads were fitted again on what it wrote."""
    found = [run for run in study.evaluated if run.settings.get("refit_every")]
    return found[-1] if found else None


def against(metric: Metric, bar: float) -> str:
    """Return whether an interval lies above a bar, below it, or on both sides."""
    place = standing(metric, bar)
    return {Standing.ABOVE: YES, Standing.BELOW: NO}.get(place, OPEN)


def _reading(sweep: Sweep | None) -> Claim:
    claim = "One projection tells chosen from rejected in both classes"
    published = f"100 % and 100 % of pairs, read at one token ({PUBLISHED_MODEL})"
    if sweep is None:
        return Claim(claim, published, "–", GONE)
    found = [
        (value, sweep.by_tag.get(CLASS, {}).get(value, {}).get("pair_accuracy", NO_VALUE))
        for value in CLASSES
    ]
    here = ", ".join(f"{value} {percent(metric)}" for value, metric in found)
    here += f", read at {cell_name(sweep.chosen)}"
    verdicts = {against(metric, 0.5) for _, metric in found}
    rivals = [
        name for name, place in verdict(sweep).standings.items() if place is not Standing.ABOVE
    ]
    if rivals:
        here += f"; not above {', '.join(control_name(name) for name in rivals)}"
    said = NO if NO in verdicts else YES if verdicts == {YES} and not rivals else OPEN
    return Claim(claim, published, here, said)


def _denial(run: RLRun | None) -> Claim:
    claim = "The raw score without class balance makes the model deny knowing most real people"
    published = "denies knowing real people"
    if run is None:
        return Claim(claim, published, "–", GONE)
    end = course(run, HEDGE_REAL).end
    return Claim(claim, published, f"{percent(end)} ({run.name})", against(end, MOST))


def _followed(run: RLRun | None) -> Claim:
    claim = "With a bounded score and balanced classes, behaviour follows"
    published = "hedges about invented people, answers about real ones"
    if run is None:
        return Claim(claim, published, "–", GONE)
    change = separation(run).change
    said = YES if outcome(run) is Outcome.FOLLOWED else OPEN
    if standing(change, 0.0) is Standing.BELOW:
        said = NO
    return Claim(claim, published, f"separation {points(change)} ({run.name})", said)


def _share(claim: str, published: str, metric: Metric | None, run: RLRun | None) -> Claim:
    if metric is None or run is None:
        return Claim(claim, published, "–", GONE)
    return Claim(
        claim, published, f"{with_interval(metric)} of the start ({run.name})",
        against(metric, KEPT) if metric.known else OPEN,
    )  # fmt: skip


def _transfer(study: Study, run: RLRun | None) -> Claim:
    claim = "The behaviour transfers to false-premise questions"
    names = [name for name in study.after if run is not None and name == run.name]
    if not names or not study.before:
        return Claim(claim, "transfers", "–", GONE)
    change = outside_separation(study.before, study.after[names[0]]).change
    return Claim(
        claim, "transfers", f"separation {points(change)} ({names[0]})", against(change, 0.0)
    )
