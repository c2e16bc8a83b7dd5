"""What a reader should take away from an RL run, in plain words, and what to be wary of."""

from __future__ import annotations

import math
from typing import NamedTuple

from probekit.reports.rl_changes import change, ratio
from probekit.reports.rl_rows import RATE, RLRun
from probekit.reports.rl_words import changed_text, heads_text, level_text, ranges
from probekit.reports.rows import Metric
from probekit.reports.words import count, number, shorten, upper_first, with_interval

FEW_PROMPTS = 20
"""Below this many prompts a percentile interval is known to be too narrow."""
COLLAPSE = 0.5
"""Below this entropy in parts of its start the texts of a prompt have become alike."""
FAR = 2.0
"""From this Mahalanobis distance the head reads what it was not fitted for."""

_HEADLINES = {
    "behaviour followed": "Behaviour followed the score: both rose on held-out prompts.",
    "behaviour followed in one class and fell in another": "Behaviour followed the score in one class of "
    "prompts and fell in another: what pays was learnt, not to tell the classes apart.",
    "score only": "Only the score rose: the wanted behaviour is not shown to have followed it.",
    "behaviour moved, score did not": "Only the behaviour moved: it is more frequent, and the score is not "
    "shown to have risen.",
    "behaviour fell, score did not rise": "The wanted behaviour became rarer, and the score is not shown "
    "to have risen.",
    "too few held-out prompts": "Too few held-out prompts to say what moved.",
    "no behaviour was measured": "No wanted behaviour was measured: whether it followed is not known.",
    "nothing moved": "Nothing moved: the score is not shown to have changed.",
    "score fell": "The score fell.",
    "no behaviour was named": "The score rose; no wanted behaviour was named, so nothing here says "
    "what the texts became.",
}


class RLVerdict(NamedTuple):
    """The sentence at the top, those under it, and warnings."""

    headline: str
    points: list[str]
    warnings: list[str]


def rl_verdict(run: RLRun) -> RLVerdict:
    """Return what the evaluations of a run say, each change with its interval over prompts."""
    if not run.evaluations:
        headline = (
            "There is no evaluation yet: none was written before the run stopped (unless it still "
            "runs), so nothing can be said about held-out prompts."
        )
        return RLVerdict(headline, [_run_facts(run)], _warnings(run))
    if not run.compared:
        headline = (
            f"There is only the evaluation after {run.first.step} steps, so nothing can be compared "
            "yet."
        )
        return RLVerdict(headline, [_run_facts(run)], _warnings(run))
    verdict = run.curve.verdict if run.curve else ""
    headline = _HEADLINES.get(verdict, f"{upper_first(verdict or 'no verdict')}.")
    points = [_score(run), *_behaviour(run), *_independent(run), _cost(run), *_kept(run)]
    return RLVerdict(headline, [*points, _run_facts(run)], _warnings(run))


def entropy_ratio(run: RLRun) -> Metric:
    """Return the entropy at the last evaluation in parts of that at the first."""
    return ratio(run, "entropy", step=run.last.step)


def _score(run: RLRun) -> str:
    first = f"; under the first heads {_moved(run, 'score_first')}" if _has_first(run) else ""
    return f"Score: {_moved(run, 'score')}{first}."


def _has_first(run: RLRun) -> bool:
    return run.last.value("score_first").known


def _behaviour(run: RLRun) -> list[str]:
    if run.wanted is None:
        return []
    named = f" ({shorten(run.behaviour, 80)})" if run.behaviour else ""
    return [f"Wanted behaviour{named}: {_moved(run, run.wanted)}."]


def _independent(run: RLRun) -> list[str]:
    point = run.curve.points[-1] if run.curve and run.curve.points else None
    if point is None or not point.independent.known:
        return []
    text = changed_text("independent", point.independent)
    return [
        f"Heads that nothing optimises: {text} of their standard deviations at the start, on average."
    ]


def _cost(run: RLRun) -> str:
    entropy = entropy_ratio(run)
    parts = [f"√KL from the frozen model is {number(run.last.root_kl)} √nats per token at the end"]
    if entropy.known:
        parts.append(f"entropy is {with_interval(entropy)} times that at the start")
    return f"Cost: {', '.join(parts)}."


def _kept(run: RLRun) -> list[str]:
    spot = run.curve.sweet_spot if run.curve else None
    if spot is None:
        return []
    what = best_by(run)
    if spot == run.first.step:
        return [f"Sweet spot: before training; {what} was at no evaluation higher than there."]
    return [f"Sweet spot: after {spot} steps, where {what} was highest among the evaluations."]


def best_by(run: RLRun) -> str:
    """Return what the sweet spot is the highest evaluation of."""
    points = run.curve.points if run.curve else []
    named = any(point.behaviour.known for point in points)
    return "the wanted behaviour" if named else "the mean of the independent heads"


def _moved(run: RLRun, name: str) -> str:
    before, after = (
        level_text(name, Metric(item.value(name).value)) for item in (run.first, run.last)
    )
    return f"{before} before, {after} after; change {changed_text(name, change(run, name))}"


def _run_facts(run: RLRun) -> str:
    target = run.settings.get("target") or "not recorded"
    tag = run.settings.get("target_tag") or run.chosen_tag
    aimed = f"target {target}{f' for each {tag}' if tag else ''}"
    return (
        f"Run: {count(run.done)} of {count(run.planned)} steps of "
        f"{model_name(run)}, optimised: {heads_text(run.optimised)}; {aimed}."
    )


def model_name(run: RLRun) -> str:
    """Return the model for a sentence."""
    model = run.record.get("model")
    return str(model).rstrip("/").rsplit("/", 1)[-1] if model else "a model"


def _warnings(run: RLRun) -> list[str]:
    found = []
    if run.done < run.planned:
        found.append(
            f"The run is not finished: it was stopped, or still runs, after {count(run.done)} of "
            f"{count(run.planned)} steps."
        )
    elif run.evaluations and run.last.step < run.done:
        found.append(f"The last evaluation is after {run.last.step} of {run.done} steps.")
    prompts = run.prompts() if run.evaluations else 0
    if run.evaluations and prompts < FEW_PROMPTS:
        found.append(
            f"Only {prompts} held-out prompt{'' if prompts == 1 else 's'}: bootstrap intervals over "
            "so few are too narrow."
        )
    if run.compared:
        found += _damage(run)
    if run.refitted:
        found.append(
            f"The heads were fitted again at step {ranges(run.refitted)}: scores before and after are read "
            "by different heads."
        )
    alarms = {step for step, _ in run.alarms}
    if alarms:
        plural = "" if len(alarms) == 1 else "s"
        found.append(f"Alarms at {count(len(alarms))} step{plural} ({ranges([*alarms])}).")
    return found


def _damage(run: RLRun) -> list[str]:
    found, entropy = [], entropy_ratio(run)
    if entropy.known and entropy.value < COLLAPSE:
        found.append(
            f"Entropy fell to {number(entropy.value)} of its start: the texts became alike."
        )
    distance = run.last.value("mahalanobis").value
    if math.isfinite(distance) and distance > FAR:
        found.append(
            f"Activations are {number(distance, 1)} times as far from the fit rows as those are "
            "typically: the score there is an extrapolation."
        )
    finished = change(run, "finished")
    if finished.known and finished.high < 0:
        found.append(f"Fewer completions end their turn: {changed_text('finished', finished)}.")
    if not any(name.startswith(RATE) for name in run.measures) and run.wanted is None:
        found.append("No behaviour was counted: the score is the only thing that was measured.")
    return found
