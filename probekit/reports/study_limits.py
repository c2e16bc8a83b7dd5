"""What a study does not show, as far as it can be counted."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from probekit.reports.rl_changes import ratio
from probekit.reports.rl_verdict import FEW_PROMPTS, rl_verdict
from probekit.reports.rows import Metric
from probekit.reports.study_rates import course
from probekit.reports.study_rows import NAME, PUBLISHED_MODEL, RATES, Elicitation, Study
from probekit.reports.words import count, number, with_interval

HALF = 0.5
LABELLED = "labelled_knowledge_awareness.jsonl"


def limitations(study: Study) -> list[str]:
    """Return sentences, those that weigh most first."""
    found = []
    if study.record.get("quick"):
        found.append("This is a quick run, made to see that every stage works: its sizes are too small "
                     "to conclude anything from its numbers.")  # fmt: skip
    if study.absent:
        gone = "; ".join(f"{name} ({why})" for name, why in study.absent.items())
        found.append(f"Absent: {gone}.")
    found.append(
        f"One model ({study.model}) and one seed ({study.seed}): intervals are over prompts, names or "
        "questions, and another seed of sampling or training may end elsewhere."
    )
    found.append(
        f"The published numbers are of {PUBLISHED_MODEL}, other names and other wordings, and their scores "
        "have another unit: signs and orders can be compared, sizes can not."
    )
    found += [*_held_out(study), *_cut(study), _patterns(), *_refits(study), *_data(study)]
    for run in study.arms:
        found += [f"Run {run.name}: {warning}" for warning in rl_verdict(run).warnings]
    found.append(
        "Intervals are not corrected for their number, and no person has read the completions; runs are "
        "compared by their own changes, not by tests between runs."
    )
    return found


def _held_out(study: Study) -> list[str]:
    found, run = [], study.main
    if run is None:
        return []
    rows = run.at_step.get(run.first.step, {}).values()
    names = {row.tags[NAME] for row in rows if row.tags.get(NAME)}
    prompts = run.prompts()
    if names and len(names) < prompts:
        found.append(
            f"The {count(prompts)} held-out prompts are about {count(len(names))} names: prompts about one "
            "name are alike, so intervals over prompts are somewhat too narrow."
        )
    least = min(run.prompts(part) for part in dict.fromkeys(rate.part for rate in RATES))
    if least < FEW_PROMPTS:
        found.append(
            f"There are only {count(least)} held-out prompts in a class, and a percentile interval over so "
            "few is too narrow."
        )
    ends = {course(r, rate).end.value for r in study.evaluated for rate in RATES}
    if ends & {0.0, 1.0}:
        found.append(
            "A rate that was 0 or 100 % on every prompt has an interval without width, which says nothing of "
            "how rare the rest is."
        )
    # A ratio without a value is not below the half.
    shorter = [r for r in study.evaluated if ratio(r, "n_tokens", step=r.last.step).value < HALF]
    if shorter:
        found.append(
            f"Answers became less than half as long ({', '.join(r.name for r in shorter)}): patterns have "
            "less to go by."
        )
    return found


def _cut(study: Study) -> list[str]:
    run = study.main
    rows = run.at_step.get(run.last.step, {}).values() if run and run.compared else ()
    if run is None or not rows:
        return []
    share = sum(row.value("finished") == 0.0 for row in rows) / len(rows)
    limit = run.settings.get("max_new_tokens")
    if share < HALF or not limit:
        return []
    return [
        f"{number(100 * share, 0)} % of the completions of run {run.name} at its end were cut after {limit} "
        "tokens: a hedge that goes on to tell all the same later than that is counted as a hedge."
    ]


def _patterns() -> str:
    found = with_interval(accuracy_of_patterns())
    return (
        "Behaviours are counted by patterns on the words. On completions of the built-in model that were "
        f"labelled one by one their accuracy is {found}, before the category of hedges that tell all the "
        "same, which count as none, was split off; rates of other models' texts may be further off."
    )


def _refits(study: Study) -> list[str]:
    names = [run.name for run in study.evaluated if run.settings.get("refit_every")]
    if not names:
        return []
    return [
        f"In run {', '.join(names)} the patterns that count behaviour also choose what heads are fitted "
        "again on: where they are wrong, reward and result are wrong alike."
    ]


@cache
def accuracy_of_patterns() -> Metric:
    """Return how often the shipped patterns agree with the labels they were not written on."""
    from probekit.behaviours import Behaviours, measure_quality

    text = (files("probekit.behaviours") / LABELLED).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    held = [
        {key: str(row[key]) for key in ("prompt", "completion", "label")}
        for row in rows
        if row.get("split") == "test"
    ]
    share, _ = measure_quality(Behaviours.load("knowledge-awareness"), held)
    return Metric(share.value, share.low, share.high)


def _data(study: Study) -> list[str]:
    if study.elicitation is None:
        return []
    return [*_known_names(study.elicitation), *_wordings(study.elicitation)]


def _known_names(made: Elicitation) -> list[str]:
    fluent = [
        "Names were chosen by the model's own log-probability of them: to know a person and to find the "
        "name fluent are not told apart here."
    ]
    between = [
        f"{count(part['n'] - part['n_kept'])} of {count(part['n'])} {value} names were left out: too few "
        f"plain answers tell the fact. Figures about {value} names are of those that the model knows well."
        for value, part in made.known.items()
        if part["n_kept"] < part["n"]
    ]
    return [*(fluent if made.familiarity else []), *between]


def _wordings(made: Elicitation) -> list[str]:
    variants = [item for item in made.recipe.get("variants") or [] if item.get("keep")]
    if not variants:
        return []
    kept = sum(counts.get("kept", 0) for counts in made.drops.values())
    written = sum(sum(counts.values()) for counts in made.drops.values())
    plural = "" if len(variants) == 1 else "s"
    return [
        f"Elicited hedges begin with {number(len(variants), 0)} given wording{plural}, and "
        f"{count(written - kept)} of {count(written)} completions were dropped: the head was fitted on what "
        "was left, not on all that the model writes."
    ]
