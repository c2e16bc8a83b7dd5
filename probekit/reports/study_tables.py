"""Tables of a study: claims, data, leak check, heads, and the controls of the heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from probekit.reports.rows import NO_VALUE, Metric, Metrics, Sweep
from probekit.reports.steer_tables import NONE
from probekit.reports.study_claims import Claim
from probekit.reports.study_load import TOTAL
from probekit.reports.study_rows import (
    CLASS,
    PUBLISHED,
    PUBLISHED_MODEL,
    Elicitation,
    Published,
    Study,
)
from probekit.reports.study_words import leak_verdict, percent
from probekit.reports.tables import interval_cell, table
from probekit.reports.verdict import control_metric
from probekit.reports.words import (
    INTERVAL,
    control_name,
    count,
    kind_name,
    number,
    ordered_controls,
    upper_first,
)

SCORES = ("chosen", "rejected", "margin")


def bdi(text: str) -> str:
    """Return text that a user chose, escaped and set apart from the direction of the page."""
    return f'<bdi dir="auto">{escape(text)}</bdi>'


def percent_cell(metric: Metric, digits: int = 0) -> str:
    """Return a share in per cent, its interval in small figures."""
    if not metric.known:
        return NONE
    value, bracket, rest = percent(metric, digits).partition(" [")
    return f'{value} <span class="interval">[{rest}</span>' if bracket else value


def claims_table(claims: Sequence[Claim]) -> str:
    """Return the published claims beside what was measured."""
    rows = [
        [escape(item.claim), escape(item.published), escape(item.here),
         f"<b>{item.verdict}</b>"]
        for item in claims
    ]  # fmt: skip
    return table(
        ["Published claim", "There", "Here", "Verdict"],
        rows,
        caption="<b>The published claims, one by one.</b> Reproduced: the whole 95 % interval is on the "
        "claim's side of its bar; not reproduced: it is on the other; not shown: the bar is within. "
        "Bars: chance "
        "(50 %) in each class and every control for pairs; hedging about half of the real names for denial; "
        "no change for separation and transfer, and the score must have risen where "
        "behaviour is said to follow; nine tenths of the start for answers and entropy. Separation: rate of "
        "hedging or refusing about invented minus about real.",
        name="claims",
    )


def drops_table(found: Elicitation) -> str:
    """Return completions written, kept and dropped by reason, of each variant."""
    reasons = list(dict.fromkeys(r for counts in found.drops.values() for r in counts))
    reasons = [reason for reason in reasons if reason != "kept"]
    rows = []
    for variant, counts in found.drops.items():
        total = sum(counts.values())
        kept = counts.get("kept", 0)
        share = f' <span class="interval">{100 * kept / total:.0f} %</span>' if total else ""
        rows.append(
            [bdi(variant), count(total), f"{count(kept)}{share}",
             *(count(counts.get(reason, 0)) for reason in reasons)]
        )  # fmt: skip
    return table(
        ["Variant", "Written", "Kept", *(escape(upper_first(reason)) for reason in reasons)],
        rows,
        caption="Completions of each way of asking, kept and dropped. <i>Behaviour</i>: it does not do "
        "what the variant is for; <i>short</i>: too few words; <i>unfinished</i>: cut before a sentence "
        "ended; <i>leak</i>: repeats the condition; <i>name</i>: without the name asked about; <i>fact</i>: "
        "without a fact that the recipe asks for; <i>unknown</i>: about a name of which plain answers tell "
        "the fact too seldom; <i>late</i>: the name comes too late in it; "
        "<i>repeated</i>: equals another one.",
        name="numbers",
    )


def leak_table(found: Elicitation) -> str:
    """Return how well words and length alone tell chosen from rejected, in total and by class."""
    names = {"tfidf": "Words (TF-IDF)", "length": "Length"}
    rows = [
        [names.get(name, escape(name)), "both classes" if part == TOTAL else bdi(part),
         percent_cell(metric, 1), leak_verdict(metric)]
        for name in dict.fromkeys(n for features in found.leaks.values() for n in features)
        for part, features in found.leaks.items()
        for metric in [features.get(name, NO_VALUE)]
    ]  # fmt: skip
    return table(
        ["Feature", "Pairs of", "Pair accuracy", "Verdict"], rows,
        caption="Leak check: logistic regression on what the surface tells, in folds by name; half is "
        "chance. "
        "Which side hedges is turned with the class, so within one class words must tell the sides, and over "
        f"both they must not.{_taken_out(found)} Brackets: {INTERVAL}.",
        name="numbers",
    )  # fmt: skip


def _taken_out(found: Elicitation) -> str:
    """Return that a total at chance is made, where pairs were taken out until it was."""
    if not found.recipe.get("filter_words"):
        return ""
    return (
        f" {count(found.told_by_words)} of {count(found.told_by_words + len(found.pairs))} pairs, those that "
        "words told by the widest margin, were taken out until such a regression was right on half of the "
        "rest: the total for words is at chance by that choice."
    )


def heads_table(study: Study) -> str:
    """Return score means, margin and pair accuracy by class: both heads, and the published ones."""
    heads = [
        (kind_name("", sweep.chosen.head).strip() or name, sweep)
        for name, sweep in (("linear", study.linear), ("projection", study.projection))
        if sweep is not None
    ]
    rows = []
    values = dict.fromkeys(
        [*PUBLISHED, *(v for _, sweep in heads for v in sweep.by_tag.get(CLASS, {}))]
    )
    for value in values:
        for name, sweep in heads:
            metrics = sweep.by_tag.get(CLASS, {}).get(value, {})
            rows.append([bdi(f"{value}, {name} head"), *_head_cells(metrics)])
        if value in PUBLISHED:
            published = f"{value}, {PUBLISHED_MODEL}, published"
            rows.append([f'<span class="none">{published}</span>', *_published(PUBLISHED[value])])
    for name, sweep in heads:
        rows.append([f"<b>all, {escape(name)} head</b>", *_head_cells(sweep.report)])
    n = ", ".join(
        f"{name}: {count(sweep.n['report'])} pairs about {count(sweep.n['report_groups'])} names"
        f"{_names_by_class(sweep)}"
        for name, sweep in heads
    )
    return table(
        ["Names, head", "Chosen", "Rejected", "Margin", "Pair accuracy"],
        rows,
        caption="<b>Mean scores and pair accuracy on held-out names</b> (report split; "
        f"{escape(n)}). Brackets: {INTERVAL}; published ones have none. Scores of different heads have "
        "different units.",
        name="numbers",
    )


def _names_by_class(sweep: Sweep) -> str:
    names = {(row.tags.get(CLASS, ""), row.group) for row in sweep.predictions}
    each = Counter(value for value, _ in names if value)
    return (
        f" ({', '.join(f'{count(n)} {value}' for value, n in sorted(each.items()))})"
        if each
        else ""
    )


def controls_table(study: Study) -> str:
    """Return the pair accuracy of both heads beside that of every control."""
    heads = [sweep for sweep in (study.linear, study.projection) if sweep is not None]
    names = ordered_controls(list(dict.fromkeys(n for sweep in heads for n in sweep.controls)))
    rows = [["<b>the head</b>", *(interval_cell(sweep.best, 2) for sweep in heads)]]
    rows += [
        [escape(upper_first(control_name(name))),
         *(interval_cell(control_metric(sweep.controls.get(name, {}), sweep.primary), 2)
           for sweep in heads)]
        for name in names
    ]  # fmt: skip
    return table(
        ["Pair accuracy", *(f"{_head(sweep)} head" for sweep in heads)],
        rows,
        caption="Both heads and their controls on the report split; half is chance. A control that reaches "
        f"the head's interval does as well. Brackets: {INTERVAL}; of random directions and shuffled "
        "labels the "
        "range of their repeats.",
        name="numbers",
    )


def _head(sweep: Sweep) -> str:
    return upper_first(escape(sweep.chosen.head or sweep.chosen.kind))


def _head_cells(metrics: Metrics) -> list[str]:
    means = [interval_cell(metrics.get(name, NO_VALUE), 2) for name in SCORES]
    return [*means, percent_cell(metrics.get("pair_accuracy", NO_VALUE), 1)]


def _published(row: Published) -> list[str]:
    means = [f'<span class="none">{number(value)}</span>' for value in row[:3]]
    return [*means, f'<span class="none">{100 * row.pair_accuracy:.0f} %</span>']
