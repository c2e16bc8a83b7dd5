"""Tables of an RL report: before and after, alarms and refits, settings, definitions, provenance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from probekit.reports.rl_changes import change
from probekit.reports.rl_rows import ALL, RLRun
from probekit.reports.rl_verdict import model_name
from probekit.reports.rl_words import (
    changed_text,
    code,
    definition,
    head_name,
    level_text,
    measure,
    part_name,
    ranges,
)
from probekit.reports.rows import Metric
from probekit.reports.steer_tables import NONE
from probekit.reports.tables import recorded_html, table
from probekit.reports.words import count, number, upper_first

_FIRST = ("wanted", "score", "score_first", "distance_to_chosen")


def changes_html(run: RLRun) -> str:
    """Return every measure before and after with its paired change: all prompts, then each part."""
    whole = _changes(run, ALL, open_=None)
    return whole + "".join(_changes(run, part, open_=True) for part in run.parts if part != ALL)


def spanned(text: str) -> str:
    """Return `value [low, high]` with its interval in small figures."""
    value, bracket, rest = text.partition(" [")
    return f'{value} <span class="interval">[{rest}</span>' if bracket else value


def level_cell(name: str, metric: Metric) -> str:
    """Return a measure with its interval as a cell."""
    return spanned(level_text(name, metric)) if metric.known else NONE


def change_cell(name: str, metric: Metric) -> str:
    """Return a change with its interval as a cell; bold where the interval leaves 0."""
    if not metric.known:
        return NONE
    text = spanned(changed_text(name, metric))
    moved = metric.has_interval and (metric.low > 0 or metric.high < 0)
    return f"<b>{text}</b>" if moved else text


def alarms_html(run: RLRun) -> str:
    """Return the alarms with the steps at which they were raised, and the refits."""
    at: dict[str, list[tuple[int, str]]] = {}
    for step, alarm in run.alarms:
        # The same alarm may say another number at every step.
        at.setdefault(re.sub(r"\d[\d.,]*", "#", alarm), []).append((step, alarm))
    alarms = [
        [escape(upper_first(found[-1][1])), count(len({step for step, _ in found})),
         ranges([step for step, _ in found])]
        for found in sorted(at.values(), key=lambda found: -len(found))
    ]  # fmt: skip
    found = (
        table(
            ["Alarm", "Steps", "Which"],
            alarms,
            caption="Alarms raised while training, as they were worded last.",
        )
        if alarms
        else f"<p>No alarm was raised in {count(len(run.steps))} training steps.</p>"
    )
    refits = [
        [str(row.step), _whole(row.refit.n_outputs), _whole(row.refit.n_wanted_left_out),
         number(row.refit.accuracy, 3), number(row.refit.cosine, 3)]
        for row in run.steps if row.refit is not None
    ]  # fmt: skip
    if refits:
        found += table(
            ["At step", "Outputs of the policy", "Wanted, left out", "Accuracy", "Cosine"], refits,
            caption="At the start of these steps the optimised heads were fitted again with outputs of the "
            "policy among the negatives. <i>Wanted, left out</i>: outputs that show the wanted "
            "behaviour and so are no negatives. <i>Cosine</i>: of the new direction with the one before.",
            name="numbers",
        )  # fmt: skip
    return found


def settings_table(run: RLRun) -> str:
    """Return how the run was trained."""
    settings, record = run.settings, run.record
    heads = "<br>".join(escape(head_name(name)) for name in run.optimised)
    prompts = [
        f"{count(int(record[key]))} {words}"
        for key, words in (("n_train", "to train on"), ("n_held_out", "held out"))
        if record.get(key) is not None
    ]
    rows = [
        ("Model", escape(model_name(run))),
        ("Optimised heads", heads),
        ("Read along", "<br>".join(escape(upper_first(measure(n).label)) for n in run.independent)),
        ("Target", escape(_target(run))),
        ("Wanted behaviour", escape(run.behaviour or "")),
        ("Prompts", ", ".join(prompts)),
        ("Trainable parameters", count(int(record.get("n_trainable") or 0))),
        *((label, _setting(settings, keys)) for label, keys in _SETTINGS),
    ]
    shown = [row for row in rows if row[1] not in ("", "0")]
    return table(["", "Value"], shown, caption="Heads, prompts and settings.", name="settings")


def definitions_html(run: RLRun) -> str:
    """Return what each measure is, and what the report does not show."""
    names = [name for name in _order(run) if definition(name)]
    items: dict[str, str] = {}
    for name in names:
        label = {"rate": "rates of categories", "head": "other heads"}.get(name.split(":")[0])
        items.setdefault(upper_first(label or measure(name).label), definition(name))
    items["√KL"] = "Root of the mean KL per token: how far the policy has gone."
    items["Change"] = (
        "Last minus first evaluation, paired over prompts that are answered with the same luck; "
        "95 % percentile interval of 1,000 bootstrap draws of prompts. It <i>moves</i> when the "
        "interval leaves 0."
    )
    items["Not shown"] = (
        "One run with one seed: the intervals are over prompts, and another seed of training may "
        "end elsewhere. Intervals are not corrected for the number of measures. Behaviours are "
        "found by rules on the words, which miss and mistake some, and no person read the texts. "
        "Heads that nothing optimises share the model and often the data of the optimised one, so "
        "they can be fooled along with it. The sweet spot was picked on the prompts it is shown on, "
        "which flatters it. A risen score alone is no sign of better texts."
    )
    body = "".join(f"<dt>{escape(term)}</dt><dd>{text}</dd>" for term, text in items.items())
    return f'<dl class="method">{body}</dl>'


def rl_provenance(run: RLRun) -> str:
    """Return model, probes, command, seed and versions; everything that was recorded folds out."""
    record = run.record
    argv, versions = record.get("argv"), record.get("versions")
    command = "probekit " + " ".join(str(item) for item in argv) if isinstance(argv, list) else ""
    listing = versions.items() if isinstance(versions, dict) else ()
    rows = [
        ("Model", escape(" ".join(str(record[k]) for k in ("model", "revision") if record.get(k)))),
        ("Probes", "<br>".join(code(probe) for probe in record.get("probes") or [])),
        ("Command", code(command)),
        ("Seed", escape(str("" if record.get("seed") is None else record["seed"]))),
        ("Created", escape(str(record.get("created") or ""))),
        ("Git commit", code(record.get("git_commit"))),
        ("Versions", escape(", ".join(f"{name} {version}" for name, version in listing))),
    ]
    # The chosen scores are thousands of numbers, which the figure shows.
    shown = {key: value for key, value in record.items() if key != "target"}
    return recorded_html([row for row in rows if row[1]], shown)


_SETTINGS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("Steps", ("steps",)),
    ("Prompts a step × completions", ("prompts", "group")),
    ("New tokens at most", ("max_new_tokens",)),
    ("Temperature, top-p", ("temperature", "top_p")),
    ("Advantage", ("estimator",)),
    ("KL weight", ("kl_coeff",)),
    ("KL in", ("kl_in",)),
    ("Further rewards", ("rewards",)),
    ("Clip margin", ("clip_margin",)),
    ("Refit every, outputs kept, rate", ("refit_every", "refit_keep", "refit_rate")),
    ("All weights trained", ("full_weights",)),
    ("Entropy bonus", ("entropy_bonus",)),
    ("Bonus moved to hold this share of the starting entropy", ("entropy_target",)),
    ("Clip, passes", ("clip", "epochs")),
    ("Learning rate, warm-up steps", ("learning_rate", "warmup")),
    ("Learning rate after the warm-up", ("decay",)),
    ("LoRA rank, alpha", ("rank", "alpha")),
    ("Ensemble penalty", ("ensemble_penalty",)),
    ("Evaluated every", ("eval_every",)),
)


_OFF = ("rewards", "clip_margin", "refit_every", "full_weights", "entropy_target")
"""Settings that are left out where they are off."""


def _setting(settings: dict[str, Any], keys: tuple[str, ...]) -> str:
    if any(key not in settings for key in keys):
        return ""
    joint = " × " if keys == ("prompts", "group") else ", "
    if not settings[keys[0]] and keys[0] in _OFF:
        return ""
    return escape(joint.join(_value(settings[key]) for key in keys))


def _value(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _target(run: RLRun) -> str:
    found = str(run.settings.get("target") or "")
    tag = run.settings.get("target_tag")
    n = len(run.chosen.get("", []))
    return (
        f"{found}{f', for each {tag}' if tag else ''}{f'; {count(n)} chosen scores' if n else ''}"
    )


def _order(run: RLRun) -> list[str]:
    rates = [name for name in run.measures if name.startswith("rate:")]
    heads = [name for name in run.measures if name.startswith("head:")]
    lead = [name for name in _FIRST[:1] if name in run.measures]
    rest = [name for name in _FIRST[1:] if name in run.measures]
    other = [n for n in run.measures if n not in {*lead, *rest, *rates, *heads, "disjoint"}]
    # The head that is optimised alone says what the score says.
    own = [f"head:{name}" for name in run.optimised] if len(run.optimised) == 1 else []
    disjoint = ["disjoint"] if "disjoint" in run.measures else []
    return [*lead, *rates, *rest, *(h for h in heads if h not in own), *disjoint, *other]


def _changes(run: RLRun, part: str, *, open_: bool | None) -> str:
    rows = []
    for name in _order(run):
        if not any(item.value(name, part).known for item in (run.first, run.last)):
            continue
        unit = measure(name).unit
        label = escape(upper_first(measure(name).label))
        small = f' <small class="none">{escape(unit)}</small>' if unit and unit != "share" else ""
        rows.append(
            [
                f"<b>{label}</b>" if name in (run.wanted, "score") else label + small,
                level_cell(name, run.first.value(name, part)),
                level_cell(name, run.last.value(name, part)),
                change_cell(name, change(run, name, part)),
            ]
        )
    n = f"n = {count(run.prompts(part))} held-out prompts"
    found = table(
        ["Measure", f"First, step {run.first.step}", f"Last, step {run.last.step}",
         "Paired change"],
        rows,
        caption=f"{escape(upper_first(part_name(part)))}, {n}. Brackets: 95 % bootstrap intervals "
        "over prompts. Bold: the change's interval leaves 0. Shares change in percentage points.",
        name="numbers",
    )  # fmt: skip
    if open_ is None:
        return found
    return (
        f"<details open><summary>{escape(upper_first(part_name(part)))}</summary>{found}</details>"
    )


def _whole(value: float) -> str:
    return NONE if value != value else count(int(value))
