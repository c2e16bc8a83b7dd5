"""What the runs of a study say, in sentences made of their numbers: none is assumed."""

from __future__ import annotations

from enum import Enum

from probekit.reports.rl_changes import ratio
from probekit.reports.rl_rows import RLRun
from probekit.reports.rl_verdict import COLLAPSE
from probekit.reports.rl_words import changed_text
from probekit.reports.rows import Metric, Sweep
from probekit.reports.steer_rows import Steer
from probekit.reports.steer_verdict import steer_verdict
from probekit.reports.steer_words import against_controls, change_text
from probekit.reports.study_load import TOTAL
from probekit.reports.study_rates import (
    Course,
    course,
    kept_answers,
    outside,
    outside_separation,
    score_change,
    separation,
)
from probekit.reports.study_rows import (
    ANSWER_REAL,
    CLASS,
    CLASSES,
    HEDGE_INVENTED,
    HEDGE_REAL,
    HEDGES,
    INVENTED,
    REAL,
    Elicitation,
    Study,
)
from probekit.reports.verdict import Standing, standing, verdict
from probekit.reports.words import cell_name, count, kind_name, number, upper_first, with_interval

FEWEST = 5
"""Fewer held-out prompts of a class say nothing."""
MOST = 0.5
"""Hedging about more than this share of the real names is called denying them."""


class Outcome(Enum):
    """What became of behaviour and score; the value is the sentence that says so."""

    FOLLOWED = (
        "behaviour followed the score: hedging rose more about invented than about real names, and the "
        "score rose"
    )
    ALIKE = (
        "hedging rose about invented and about real names, so the model hedges more and is not shown to "
        "tell them apart better"
    )
    INVENTED_ONLY = (
        "hedging rose about invented names and is not shown to have risen more than about real ones"
    )
    REAL_ONLY = "hedging rose about real names and is not shown to have risen about invented ones"
    BEHAVIOUR_ONLY = (
        "behaviour moved without the score: hedging rose more about invented than about real names, and "
        "the score is not shown to have risen"
    )
    SCORE_ONLY = "only the score rose: behaviour did not follow"
    FELL = "the score fell, and behaviour did not follow"
    NOTHING = "nothing moved: neither the score nor hedging is shown to have changed"
    UNKNOWN = "too little was measured to say what moved"


def rose(metric: Metric) -> bool:
    """Return whether the whole interval lies above 0."""
    return standing(metric, 0.0) is Standing.ABOVE


def fell(metric: Metric) -> bool:
    """Return whether the whole interval lies below 0."""
    return standing(metric, 0.0) is Standing.BELOW


def outcome(run: RLRun) -> Outcome:
    """Return what moved between the first and the last evaluation."""
    if not run.compared or min(run.prompts(f"{CLASS}={value}") for value in CLASSES) < FEWEST:
        return Outcome.UNKNOWN
    score, apart = score_change(run), separation(run).change
    invented, real = (course(run, rate).change for rate in (HEDGE_INVENTED, HEDGE_REAL))
    if not (score.has_interval and apart.has_interval):
        return Outcome.UNKNOWN
    if rose(apart):
        return Outcome.FOLLOWED if rose(score) else Outcome.BEHAVIOUR_ONLY
    if rose(invented):
        return Outcome.ALIKE if rose(real) else Outcome.INVENTED_ONLY
    if rose(real):
        return Outcome.REAL_ONLY
    if rose(score):
        return Outcome.SCORE_ONLY
    return Outcome.FELL if fell(score) else Outcome.NOTHING


def percent(metric: Metric, digits: int = 0) -> str:
    """Return a share in per cent with its interval."""
    scaled = Metric(*(100 * end for end in metric))
    value = f"{number(scaled.value, digits)}\N{NO-BREAK SPACE}%"
    if not scaled.has_interval:
        return value if metric.known else "–"
    return f"{value} [{number(scaled.low, digits)}, {number(scaled.high, digits)}]"


def points(metric: Metric) -> str:
    """Return a change of a share in percentage points with its interval."""
    return changed_text(HEDGE_INVENTED.measure, metric)


def headline(study: Study) -> str:
    """Return the finding in one sentence."""
    run = study.main
    if run is not None:
        rates = (HEDGE_INVENTED, HEDGE_REAL, ANSWER_REAL)
        invented, real, answers = (
            f"{percent(found.end)} ({percent(Metric(found.start.value))} before)"
            for found in (course(run, rate) for rate in rates)
        )
        return (
            f"After {count(run.done)} steps (run {run.name}) {study.model} hedges or refuses about "
            f"{invented} of invented names and {real} of real ones, and answers about {answers} of the real "
            f"ones. {upper_first(outcome(run).value)}."
        )
    if study.linear is not None:
        return (
            f"{_reads(study.linear)} No RL run can be compared yet, so what optimising it does is not "
            "known."
        )
    return "No stage has left a result yet, so nothing can be concluded."


def findings(study: Study) -> list[str]:
    """Return what every stage found, in the order of the stages."""
    found = []
    if study.elicitation is not None:
        found.append(_leaks(study.elicitation))
    if study.linear is not None:
        found.append(f"Reading: {_reads(study.linear)} {verdict(study.linear).conclusion}")
    if study.linear is not None and study.projection is not None:
        found.append(f"Projection head at that cell: {_classes(study.projection)}.")
    if study.dynamics is not None:
        found.append(f"Training of the head: {study.dynamics.value['conclusion']['headline']}")
    if study.steer is not None:
        found.append(f"Steering: {steering(study.steer)}")
    found += [f"RL, run {run.name}: {arm_sentence(run)}" for run in study.arms]
    found += [_outside(study)]
    return [item for item in found if item]


def arm_sentence(run: RLRun) -> str:
    """Return what a run did to behaviour, score and entropy."""
    if not run.compared:
        n = len(run.evaluations)
        return (
            f"{'one evaluation' if n else 'no evaluation'} was written, so nothing can be compared."
        )
    hedged, real = course(run, HEDGE_INVENTED), course(run, HEDGE_REAL)
    said = outcome(run).value
    text = (
        f"{upper_first(said)}. Hedges or refuses about invented names: {_moved(hedged)}; about real "
        f"names: {_moved(real)}. "
    )
    if rose(real.change) and standing(real.end, MOST) is Standing.ABOVE:
        text += "It came to deny knowing most real people. "
    kept, entropy = kept_answers(run), ratio(run, "entropy", step=run.last.step)
    if kept.known:
        text += f"Answers about real names kept: {with_interval(kept)} of the start. "
    if entropy.known:
        collapsed = " (collapsed)" if entropy.value < COLLAPSE else ""
        text += f"Entropy: {with_interval(entropy)} of the start{collapsed}."
    return text.strip()


def _moved(found: Course) -> str:
    start, end = (percent(Metric(metric.value)) for metric in (found.start, found.end))
    return f"{start} before, {end} after, {points(found.change)}"


def _reads(sweep: Sweep) -> str:
    chosen = sweep.chosen
    return (
        f"The {kind_name(chosen.kind, chosen.head)} head at {cell_name(chosen)} scores the chosen completion "
        f"of a pair higher in {percent(sweep.best, 1)} of {count(sweep.n['report'])} pairs about "
        f"{count(sweep.n['report_groups'])} held-out names ({_classes(sweep)})."
    )


def _classes(sweep: Sweep) -> str:
    parts = [
        f"{value} {percent(found['pair_accuracy'], 1)}"
        for value, found in sweep.by_tag.get(CLASS, {}).items()
        if "pair_accuracy" in found
    ]
    return ", ".join(parts) or f"pair accuracy {percent(sweep.best, 1)}"


def leak_verdict(metric: Metric) -> str:
    """Return whether a feature alone tells the sides of pairs."""
    return {
        Standing.ABOVE: "tells chosen from rejected",
        Standing.INCLUDES: "not shown to tell",
        Standing.BELOW: "below chance",
        Standing.UNKNOWN: "too few names",
    }[standing(metric, 0.5)]


def _leaks(found: Elicitation) -> str:
    whole = found.leaks.get(TOTAL, {})
    if not whole:
        return ""
    names = {"tfidf": "words (TF-IDF)", "length": "length"}
    told = [name for name, metric in whole.items() if standing(metric, 0.5) is Standing.ABOVE]
    said = ", ".join(
        f"{names.get(name, name)} {percent(metric, 1)}" for name, metric in whole.items()
    )
    if told:
        which = " and ".join(names.get(name, name) for name in told)
        end = f"{which} alone {'tell' if len(told) > 1 else 'tells'} chosen from rejected to that extent"
    else:
        end = "neither is shown to tell chosen from rejected over both classes"
    within = [
        metric
        for part, features in found.leaks.items()
        for name, metric in features.items()
        if part != TOTAL and name == "tfidf" and metric.known
    ]
    if within:
        ends = [percent(Metric(pick(metric.value for metric in within))) for pick in (min, max)]
        span = " to ".join(dict.fromkeys(ends))
        end += f"; within one class words tell {span}, as they must where only one side hedges"
    return f"Data: {count(len(found.pairs))} pairs; held-out accuracy of {said}: {end}."


def steering(steer: Steer) -> str:
    """Return what steering did to score and hedging."""
    text = steer_verdict(steer).headline
    change = steer.change("rate:hedges")
    if not change.metric.known:
        return f"{text} Hedging was not counted."
    place = standing(change.metric, 0.0)
    unit = "when the direction is removed" if steer.ablate_only else "per mean residual norm"
    slope = f"{change_text(change.metric)} {unit}"
    if place in (Standing.INCLUDES, Standing.UNKNOWN):
        return f"{text} Hedging is not shown to follow: {slope}."
    against = against_controls(change)
    if change.as_large or not change.controls:
        return f"{text} Hedging changes, and not more than along random directions: {slope}, {against}."
    word = "rises" if place is Standing.ABOVE else "falls"
    return f"{text} Hedging {word} with it: {slope}, {against}."


def _outside(study: Study) -> str:
    said = []
    for name, after in study.after.items():
        found = outside(study.before, after, HEDGES, value=INVENTED)
        if not found.n:
            continue
        apart = outside_separation(study.before, after).change
        real = outside(study.before, after, HEDGES, value=REAL).change
        start, end = (percent(Metric(metric.value)) for metric in (found.before, found.after))
        said.append(
            f"run {name}, {outside_outcome(found.change, real, apart)}: {start} before, {end} after, "
            f"{points(found.change)}, and about real things {points(real)}"
        )
    if not said:
        return ""
    return f"False premises: hedging or refusing about invented things. {upper_first('; '.join(said))}."


def outside_outcome(invented: Metric, real: Metric, apart: Metric) -> str:
    """Return whether what was learnt about people shows about other things, from changes of hedging."""
    if rose(apart):
        return "the behaviour transfers"
    if rose(invented):
        both = "hedging transfers to invented and to real things"
        return both if rose(real) else "hedging about invented things rose, not shown to be more"
    if fell(apart):
        return "hedging about invented things fell against that about real ones"
    return "the behaviour is not shown to transfer"
