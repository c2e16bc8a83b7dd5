"""What a reader should take away from a steering run, in plain words, and what to be wary of."""

from __future__ import annotations

import math
from typing import NamedTuple

from probekit.reports.steer_rows import PROBE, Change, Measure, Steer, steered_ends
from probekit.reports.steer_words import (
    SIGNIFICANT,
    against_controls,
    change_text,
    coeff_text,
    directions,
    in_brackets,
    listed,
    point_text,
    smallest_p,
)
from probekit.reports.verdict import Standing, standing
from probekit.reports.words import count, metric_name, number, upper_first, with_interval

FEW_PROMPTS = 20
"""Below this many prompts a bootstrap interval is too narrow."""
CUT = 0.5
"""Above this share of completions that did not end by themselves there is a warning."""


class SteerVerdict(NamedTuple):
    """The sentences at the top of a steering report."""

    headline: str
    points: list[str]
    warnings: list[str]


def steer_verdict(steer: Steer) -> SteerVerdict:
    """Say what steering did to the score, at which cost, and what speaks against it."""
    score = steer.change("score")
    headline = _ablated_headline(score) if steer.ablate_only else _dose_headline(steer, score)
    points = [_causal(steer, score), _range(steer), _behaviours(steer), _layers(steer)]
    points += [_ablation(steer), _ranking(steer)]
    return SteerVerdict(headline, [point for point in points if point], _warnings(steer))


def _dose_headline(steer: Steer, score: Change) -> str:
    found = standing(score.metric, 0.0)
    slope = f"slope {change_text(score.metric)} per mean residual norm"
    if steer.slopes_on_all:
        slope += " over doses with damaged text among them"
    if found is Standing.UNKNOWN:
        known = f" ({slope})" if score.metric.known else ""
        return f"Whether the score follows the dose is not known: its slope has no interval{known}."
    if found is Standing.INCLUDES:
        return f"The score is not shown to follow the dose: {slope}{in_brackets(score.p)}."
    own = "its own score" if steer.own_direction else "the probe's score"
    says = (
        "The score rises with the dose"
        if found is Standing.ABOVE
        else f"Steering up the direction lowers {own}"
    )
    if not score.controls:
        return f"{says}: {slope}; no random direction was steered, so it need not be this one."
    if score.as_large:
        return f"{says}, but this is not shown to be specific: {slope}, {against_controls(score)}."
    return f"{says}: {slope}, {against_controls(score)}."


def _ablated_headline(score: Change) -> str:
    found = standing(score.metric, 0.0)
    if found is Standing.UNKNOWN:
        return "Whether the score needs the direction is not known: the difference has no interval."
    return _projected(score, " against the unsteered model")


def _projected(change: Change, against: str = "") -> str:
    text, found = f"{change_text(change.metric)}{against}", standing(change.metric, 0.0)
    if found in (Standing.INCLUDES, Standing.UNKNOWN):
        said = "Projecting the direction out is not shown to change the score"
        return f"{said}: {text}{in_brackets(change.p)}."
    word = "raises" if found is Standing.ABOVE else "lowers"
    return f"Projecting the direction out {word} the score: {text}, {against_controls(change)}."


def _causal(steer: Steer, score: Change) -> str:
    specific = steer.controls and not score.as_large
    if steer.ablate_only or not specific or standing(score.metric, 0.0) is not Standing.BELOW:
        return ""
    return (
        "What the probe reads goes along with the property, but adding more of it does the "
        "opposite: correlated is not causal."
    )


def _range(steer: Steer) -> str:
    if steer.ablate_only:
        return _cost(steer, math.nan, "The ablated model")
    low, high = steered_ends(steer)
    bound = f"perplexity at most {number(steer.usable.bound, 1)} times the unsteered"
    if low == high:
        but = "but 0 " if steer.usable.coeffs else ""
        return f"No dose {but}is usable ({bound}): slopes are of damaged text and mean little."
    side = high if abs(high) >= abs(low) else low
    cost = _cost(steer, side, f"At {coeff_text(side)} the text")
    tested = [coeff for coeff in steer.coeffs if coeff not in steer.usable.coeffs]
    beyond = f"; {count(len(tested))} of {count(len(steer.coeffs))} doses are not" if tested else ""
    return (
        f"Usable doses: {coeff_text(low)} to {coeff_text(high)} ({bound}){beyond}. {cost}".strip()
    )


def _cost(steer: Steer, coeff: float, subject: str) -> str:
    """Say what steering at a dose (nan: ablation) does to the text."""
    found = (
        steer.ablated(PROBE)
        if math.isnan(coeff)
        else next((item for item in steer.curve(PROBE) if item.coeff == coeff), None)
    )
    if found is None:
        return ""
    before, after = steer.baseline.value("perplexity").value, found.value("perplexity").value
    parts = []
    if before > 0 and not math.isnan(after):
        parts.append(f"has {number(after / before)} times the unsteered perplexity")
    if found.value("kl").known:
        parts.append(f"lies {number(found.value('kl').value, 3)} nats per token from it")
    return f"{subject} {' and '.join(parts)}." if parts else ""


def _behaviours(steer: Steer) -> str:
    followed: dict[str, list[str]] = {}
    shared, others = [], []
    for measure in steer.grouped("behaviour"):
        change = steer.change(measure.name)
        found = standing(change.metric, 0.0)
        if found in (Standing.ABOVE, Standing.BELOW) and not change.as_large:
            said = _followed(steer, measure, change, found)
            followed.setdefault(against_controls(change), []).append(said)
        elif found in (Standing.ABOVE, Standing.BELOW):
            shared.append(f"{measure.label} ({change_text(change.metric)})")
        else:
            others.append(f"{measure.label} ({change_text(change.metric)})")
    sentences = []
    for against, said_alike in followed.items():
        each = "each " if len(said_alike) > 1 and against.startswith("more") else ""
        sentences.append(f"{upper_first(listed(said_alike))}, {each}{against}.")
    cause = "the ablation" if steer.ablate_only else "the dose"
    if shared:
        sentences.append(
            f"Moved by {cause}, but some random direction moves it as far: {listed(shared)}."
        )
    if others:
        sentences.append(f"Not shown to follow {cause}: {listed(others)}.")
    return " ".join(sentences)


def _followed(steer: Steer, measure: Measure, change: Change, found: Standing) -> str:
    low, high = steered_ends(steer)
    ends = [_at(steer, measure, low), _at(steer, measure, high)]
    word = "rises" if found is Standing.ABOVE else "falls"
    if steer.ablate_only or "–" in ends:
        return f"{measure.label} {word} ({change_text(change.metric)})"
    said = f"{measure.label} {word} from {ends[0]} at {coeff_text(low)} to {ends[1]} at "
    return said + coeff_text(high)


def _at(steer: Steer, measure: Measure, coeff: float) -> str:
    for item in steer.curve(PROBE):
        if item.coeff == coeff:
            return point_text(measure, item.value(measure.name))
    return "–"


def _layers(steer: Steer) -> str:
    changes = [steer.change(item.name) for item in steer.grouped("layers")]
    changes = [change for change in changes if change.metric.has_interval]
    if not changes:
        return ""
    sign = steer.change("score").metric.value < 0
    wanted = Standing.BELOW if sign else Standing.ABOVE
    read = sum(standing(item.metric, 0.0) is wanted and not item.as_large for item in changes)
    controls = ", further than every random direction" if steer.controls else ""
    return (
        f"The probes of {count(read)} of {count(len(changes))} layers read a change the same "
        f"way{controls}."
    )


def _ablation(steer: Steer) -> str:
    change = steer.ablation.get("score")
    if steer.ablate_only or change is None or not change.metric.known:
        return ""
    return _projected(change)


def _ranking(steer: Steer) -> str:
    ranking = steer.rerank
    rows = [row for row in ranking.rows if row.ratio.known] if ranking else []
    if ranking is None or not rows:
        return ""
    best = ranking.first
    if best is None and not any(row.ratio.has_interval for row in rows):
        return "Layers are not compared: their effects have no interval."
    if best is None:
        return "No layer's effect for its damage is shown to differ from 0."
    causal = best.layer
    predictive = max(
        ranking.rows, key=lambda row: row.metric.value if row.metric.known else -math.inf
    ).layer
    name = metric_name(ranking.metric)
    if causal == predictive:
        said = f"Layer {causal} has both the largest effect for its damage and the best {name}"
    else:
        said = f"Layer {causal} has the largest effect for its damage, layer {predictive} the best "
        said += name
    rho = with_interval(ranking.spearman)
    return said + (f" (Spearman ρ over layers {rho})." if ranking.spearman.known else ".")


def _warnings(steer: Steer) -> list[str]:
    found, controls = [], len(steer.controls)
    if not controls:
        found.append("No random control was run: the effect need not be of this direction.")
    elif smallest_p(controls) > SIGNIFICANT:
        found.append(
            f"With {directions(controls)} the smallest possible p is 1/{controls + 1} = "
            f"{number(smallest_p(controls), 3)}, so p can not fall below {SIGNIFICANT:g}."
        )
    if not any(item.value("score").has_interval for item in steer.conditions):
        found.append(f"{count(steer.n['prompts'])} prompts are too few for any interval.")
    elif steer.n["prompts"] < FEW_PROMPTS:
        found.append(
            f"Only {count(steer.n['prompts'])} prompts: bootstrap intervals are too narrow."
        )
    used = steer.change("score").coeffs
    if 0 < len(used) < 3:
        found.append(f"The slopes rest on {len(used)} doses only.")
    if steer.slopes_on_all:
        found.append(
            f"Fewer than three doses are usable, so the slopes are fitted on {count(len(used))} "
            "doses, those with damaged text among them."
        )
    return [*found, *_texts(steer), *_judged(steer)]


def _texts(steer: Steer) -> list[str]:
    rows, found = steer.completions, []
    empty = sum(not row.text.strip() for row in rows)
    if empty:
        verb = "is" if empty == 1 else "are"
        found.append(f"{count(empty)} of {count(len(rows))} completions {verb} empty.")
    cut = sum(not row.finished for row in rows)
    if rows and cut / len(rows) > CUT:
        most = steer.sampling.get("max_new_tokens")
        limit = f" of {most} tokens" if most else ""
        found.append(f"{100 * cut / len(rows):.0f} % of completions were cut at the limit{limit}.")
    lost = [
        measure.label
        for measure in steer.measures
        if measure.group != "layers" and not all(_known(steer, measure))
    ]
    if lost:
        found.append(f"{upper_first(listed(lost))} has no value at some doses.")
    return found


def _known(steer: Steer, measure: Measure) -> list[bool]:
    # Random directions are not judged, so only the probe's own have to have every value.
    return [i.value(measure.name).known for i in steer.conditions if i.direction == PROBE]


def _judged(steer: Steer) -> list[str]:
    judge = steer.judge
    if judge is None:
        return []
    missing = judge.asked - judge.answered
    failed = f", {count(judge.failed)} calls failed" if judge.failed else ""
    said = f"The judge gave no verdict on {count(missing)} of {count(judge.asked)} completions"
    return [f"{said}{failed}."] if missing or judge.failed else []
