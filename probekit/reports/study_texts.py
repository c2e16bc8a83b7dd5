"""Text parts of a study: example pairs, methods, limitations, and the commands of the stages."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from probekit.reports.rl_rows import RLRun
from probekit.reports.steer_examples import PROMPT, text_html
from probekit.reports.study_rows import CLASS, Elicitation, Pair, Stage, Study
from probekit.reports.study_tables import bdi
from probekit.reports.tables import table
from probekit.reports.words import cell_name, count, kind_name, number, shorten, upper_first

MINUTES = 100
"""From this many seconds a time is written in minutes."""
EXAMPLES = 4
"""Example pairs, spread over the classes."""


def drawn_pairs(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Return pairs drawn with the seed, in turn from every class and none of one name twice."""
    rng = np.random.default_rng(seed)
    order = [pairs[int(index)] for index in rng.permutation(len(pairs))]
    queues: dict[str, list[Pair]] = {
        value: [] for value in sorted({p.tags.get(CLASS, "") for p in pairs})
    }
    seen = set()
    for pair in order:
        if pair.group not in seen:
            seen.add(pair.group)
            queues[pair.tags.get(CLASS, "")].append(pair)
    rounds = (queue[at] for at in range(EXAMPLES) for queue in queues.values() if at < len(queue))
    return [pair for pair, _ in zip(rounds, range(EXAMPLES), strict=False)]


def pairs_html(found: Elicitation, seed: int) -> str:
    """Return example pairs, chosen beside rejected."""
    shown = drawn_pairs(found.pairs, seed)
    body = "".join(
        '<tbody><tr><th scope="rowgroup" colspan="2"><small>'
        f"{bdi(shorten(pair.tags.get(CLASS, ''), 40))}</small> "
        f'<span dir="auto">{escape(shorten(pair.prompt, PROMPT))}</span></th></tr>'
        f"<tr><td>{text_html(pair.chosen)}</td><td>{text_html(pair.rejected)}</td></tr></tbody>"
        for pair in shown
    )
    return (
        '<div class="table"><table class="beforeafter"><caption>'
        f"{count(len(shown))} of {count(len(found.pairs))} pairs, drawn at random with seed {seed}, in "
        "turn from every class; none was picked by hand.</caption>"
        '<thead><tr><th scope="col">Chosen</th><th scope="col">Rejected</th></tr></thead>'
        f"{body}</table></div>"
    )


def methods_html(study: Study) -> str:
    """Return how the study was made, in words made of its records."""
    items: list[tuple[str, str]] = [("Model", escape(study.model))]
    items += _data_methods(study)
    items += _head_methods(study)
    for run in study.arms:
        items.append((f"RL, {run.name}", escape(_rl_method(run))))
    items.append(
        ("Seeds", f"{study.seed} for the study; " + ("" if study.arms else "no RL run")
         + ", ".join(f"{escape(run.name)} {escape(str(run.record.get('seed')))}" for run in study.arms))
    )  # fmt: skip
    if study.stages:
        each = "; ".join(
            f"{escape(stage.name)} "
            f"{_time(stage)}{'' if stage.state == 'done' else f' ({escape(stage.state)})'}"
            for stage in study.stages
        )
        total = sum(stage.seconds for stage in study.stages if math.isfinite(stage.seconds))
        items.append(("Time", f"{_duration(total)} in all{_at_once(study)}: {each}"))
    body = "".join(f"<dt>{escape(term)}</dt><dd>{text}</dd>" for term, text in items if text)
    return f'<dl class="method">{body}</dl>'


def limits_html(sentences: Sequence[str]) -> str:
    """Return the limitations as a list."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="warnings" aria-label="Limitations">{items}</ul>'


def stages_html(study: Study, base: Path) -> str:
    """Return links to the reports of the stages, and their commands folded.

    Parameters
    ----------
    study
        The study.
    base
        The folder of the page, to which links are relative.
    """
    reports = sorted(
        path for pattern in ("*/report.html", "rl/*/report.html") for path in study.path.glob(pattern)
    )  # fmt: skip
    links = "".join(
        f'<li><a href="{escape(_link(path, base))}">{escape(_name(path.parent, study.path))}</a></li>'
        for path in reports
    )
    found = (
        f"<p>Each stage has a page of its own, with all its figures:</p><ul>{links}</ul>"
        if links
        else "<p>No stage has left a report of its own.</p>"
    )
    rows = [
        [escape(stage.name), escape(stage.state), _time(stage),
         f"<code>{escape(_command(stage))}</code>"]
        for stage in study.stages
    ]  # fmt: skip
    if rows:
        listing = table(
            ["Stage", "State", "Time", "Command"], rows, caption="In the order they ran."
        )
        found += f"<details><summary>The command of every stage ({len(rows)})</summary>{listing}</details>"
    return found


def _familiarity(found: Elicitation) -> str:
    lowest = found.recipe.get("familiar") or {}
    rules = ", ".join(f"{escape(str(k))}: {number(float(v), 1)} nats" for k, v in lowest.items())
    kept = "; ".join(
        f"{escape(value)}: {count(int(part['n_kept']))} of {count(int(part['n']))} questions kept, median "
        f"{number(part['median_logprob_kept'], 1)}"
        for value, part in found.familiarity.items()
    )
    return (
        f"those that the model knows: log-probability of a name's later words given the first, at least "
        f"({rules}), then equally many of each class. {kept}"
    )


def _at_once(study: Study) -> str:
    jobs = (study.record.get("arguments") or {}).get("jobs") or 1
    return f" (a sum over stages, up to {count(jobs)} of which ran at once)" if jobs > 1 else ""


def _data_methods(study: Study) -> list[tuple[str, str]]:
    found = []
    if study.elicitation is not None:
        recipe = study.elicitation.recipe
        written = sum(sum(counts.values()) for counts in study.elicitation.drops.values())
        total = len(study.elicitation.pairs)
        names = len({pair.group for pair in study.elicitation.pairs})
        found.append((
            "Pairs",
            f"{count(total)} pairs about {count(names)} names, from {count(written)} "
            f"completions{escape(_sampling(recipe))}",
        ))  # fmt: skip
        if study.elicitation.familiarity:
            found.append(("Names", _familiarity(study.elicitation)))
        found.append(("Variants", _variants(recipe)))
        if told := _told(study.elicitation):
            found.append(("Completions", told))
        if taken := study.elicitation.told_by_words:
            whole = count(total + taken)
            said = f"{count(taken)} pairs that words alone told were taken out of {whole}"
            found.append(("Words", said))
        found.append(("Polarity", _polarity(recipe)))
    if study.sizes:
        sizes = "; ".join(
            f"{name.replace('_', ' ')}: {count(size.prompts)} about {count(size.names)} names"
            for name, size in study.sizes.items()
        )
        both = "no name is" if not study.shared else f"{count(study.shared)} names are"
        found.append(("RL prompts", f"{sizes}; {both} in both"))
    return found


def _head_methods(study: Study) -> list[tuple[str, str]]:
    found = []
    for sweep in (study.linear, study.projection):
        if sweep is None:
            continue
        chosen, n = sweep.chosen, sweep.n
        splits = ", ".join(
            f"{name} {count(n[name])} pairs about {count(n[f'{name}_groups'])} names"
            for name in ("fit", "choose", "report")
            if f"{name}_groups" in n
        )
        cells = len(sweep.rows)
        among = f", chosen among {count(cells)} cells on the choose split" if cells > 1 else ""
        found.append((
            f"Head, {chosen.head or chosen.kind}",
            escape(
                f"{kind_name(chosen.kind, chosen.head)} at {chosen.site} {cell_name(chosen)}{among}. Splits "
                f"by name: {splits}."
            ),
        ))  # fmt: skip
    return found


def _sampling(recipe: Mapping[str, Any]) -> str:
    parts = [
        words.format(recipe[key])
        for key, words in (("samples", "{} a prompt and side"),
                           ("max_new_tokens", "{} new tokens at most"),
                           ("temperature", "temperature {}"), ("top_p", "top-p {}"))
        if recipe.get(key) is not None
    ]  # fmt: skip
    return f" ({', '.join(parts)})" if parts else ""


def _variants(recipe: Mapping[str, Any]) -> str:
    parts = []
    for variant in recipe.get("variants") or []:
        shots = len(variant.get("shots") or []) // 2 or len(variant.get("shots") or [])
        how = [
            *(["a system turn"] if variant.get("system") else []),
            *([f"{shots} example{'' if shots == 1 else 's'}"] if shots else []),
            *([f"the answer begun with “{variant['prefill']}”"] if variant.get("prefill") else []),
        ]
        parts.append(
            f"<b>{escape(str(variant.get('name')))}</b>: {escape(', '.join(how) or 'as asked')}"
        )
    return (f"{'; '.join(parts)}. Conditions are stripped before any head reads the completion."
            if parts else "")  # fmt: skip


def _told(found: Elicitation) -> str:
    """Return what a completion has to say to be kept."""
    recipe = found.recipe
    parts = ["each uses the name that it is asked about"] if recipe.get("mentions") else []
    parts += [
        f"questions whose {tag} is {' or '.join(values)} were left out"
        for tag, values in (recipe.get("skip") or {}).items()
    ]
    parts += [
        f"{v.get('name')} has the name among its first {v['name_within']} words"
        for v in recipe.get("variants") or []
        if v.get("name_within")
    ]
    named = [str(v.get("name")) for v in recipe.get("variants") or [] if v.get("facts")]
    of, tags = recipe.get("fact_of") or {}, list(recipe.get("facts") or {})
    if named and tags:
        whose = "; ".join(f"{value}: {'its own' if of[value] == 'own' else 'any'}" for value in of)
        parts.append(f"{', '.join(named)} names a {tags[0]} ({whose})")
        parts += [
            f"{value} names are those of which at least {100 * float(least):.0f} % of these "
            f"completions do{_kept(found.known.get(value))}"
            for value, least in (recipe.get("knows") or {}).items()
        ]
    return escape(upper_first("; ".join(parts)))


def _kept(part: Mapping[str, int] | None) -> str:
    return f" ({count(part['n_kept'])} of {count(part['n'])})" if part else ""


def _polarity(recipe: Mapping[str, Any]) -> str:
    parts = [
        f"{value}: {' or '.join(sides[0])} chosen, {' or '.join(sides[1])} rejected"
        for value, sides in (recipe.get("polarity") or {}).items()
    ]
    return escape(upper_first("; ".join(parts)))


def _guides(settings: Mapping[str, Any]) -> list[str]:
    if not settings.get("guides"):
        return []
    steps = settings.get("guide_steps")
    return [f"{settings['guides']} guides a group in the first {steps} steps"]


def _decay(settings: Mapping[str, Any]) -> list[str]:
    decay = settings.get("decay") or "constant"
    return [] if decay == "constant" else [f"falling to 0 ({decay})"]


def _rl_method(run: RLRun) -> str:
    settings = run.settings

    def named(key: str, words: str) -> list[str]:
        value = settings.get(key)
        return [words.format(value)] if value not in (None, "", 0, False) else []

    parts = [
        f"target {settings.get('target') or 'not recorded'}",
        *named("target_tag", "for each {}"), *named("balance", "balanced by {}"),
        *named("prompts", "{} prompts a step"), *named("group", "{} completions a prompt"),
        *named("max_new_tokens", "{} new tokens at most"), *named("temperature", "temperature {}"),
        *named("learning_rate", "learning rate {:g}"), *_decay(settings),
        *named("kl_coeff", "KL weight {:g}"), *named("entropy_bonus", "entropy bonus {:g}"),
        *named("entropy_target", "moved to hold {:g} of the entropy at the start"),
        *named("ood_penalty", "OOD penalty {:g}"),
        *_guides(settings),
        *named("refit_every", "heads fitted again every {} steps on what it wrote that does not do what is "
               "wanted, by the patterns that count behaviour"),
        *named("ensemble_penalty", "ensemble penalty {:g}"),
        f"{count(len(run.optimised))} head{'' if len(run.optimised) == 1 else 's'}",
        f"{count(run.done)} of {count(run.planned)} steps",
    ]  # fmt: skip
    return upper_first(", ".join(parts)) + "."


def _time(stage: Stage) -> str:
    return _duration(stage.seconds)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < MINUTES:
        return f"{number(seconds, 0)} s"
    return f"{number(seconds / 60, 0)} min"


def _command(stage: Stage) -> str:
    argv = stage.argv[1:] if stage.argv[:1] == ("probekit",) else stage.argv
    return shlex.join(("probekit", *argv)) if argv else ""


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root).as_posix())


def _link(path: Path, base: Path) -> str:
    return quote(Path(relpath(path.resolve(), base.resolve())).as_posix())
