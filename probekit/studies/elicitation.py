"""`elicit`: contrastive completions by conditioning, in parts that survive an interruption."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from probekit.activations.names import name_logprobs
from probekit.container import atomic_directory, write_json, write_jsonl
from probekit.data.prompts import open_prompts
from probekit.data.rows import Example, Message
from probekit.errors import DataError, OutputError
from probekit.models.chat import Rendered, render
from probekit.models.frame import continuation
from probekit.models.load import LoadedModel, at_date_of, load_model
from probekit.models.sampling import check_context, sample
from probekit.models.sampling_config import SamplingConfig
from probekit.outputs import claim
from probekit.parsing import read_jsonl
from probekit.partial import PartialFolder
from probekit.provenance import run_record
from probekit.results.elicit import COMPLETIONS, DOCUMENT, LEAKS, PAIRS
from probekit.studies.familiarity import familiar, summary
from probekit.studies.leaks import leak_check, without_telling_words
from probekit.studies.pairing import drops, judge, known, pair_rows, trim
from probekit.studies.recipe import OWN, Recipe, Variant

PART = 64
"""Prompts of a part: it is written whole, so that an interrupted run loses one at most."""


class Parts(PartialFolder):
    """The folder `OUT.partial`: the completions of every part that is written."""

    WORK = "elicitation"


@dataclass(frozen=True)
class Elicited:
    """What was written."""

    folder: Path
    n_pairs: int
    n_told_by_words: int
    """Pairs taken out because words alone told their sides."""
    drops: Mapping[str, Mapping[str, int]]
    """Completions of each variant that were kept and dropped, by reason."""
    leaks: Mapping[str, Any]
    """`leak_check` of the pairs."""
    familiarity: Mapping[str, Any] | None = None
    """How many prompts of each class were kept, and of how many; None where the recipe asks nothing."""
    known: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many groups of each class with `knows` were kept, and of how many."""


def elicit(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    recipe: Recipe,
    prompts: Sequence[Example] | Any,  # noqa: ANN401 - or any source of prompts
    out: str | Path,
    *,
    batch: int = 128,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Elicited:
    """Let a model answer prompts plainly and under conditions; write pair rows to `out`.

    The condition (a system turn, examples, or words put into the assistant's mouth) is stripped: what
    is left reads as an answer to the bare prompt.

    Parameters
    ----------
    loaded
        The model.
    recipe
        Variants, and their polarity by class.
    prompts
        Rows that end with their prompt, each with the class among its tags.
    out
        Directory: `pairs.jsonl`, `completions.jsonl` (all that was written, what was dropped and
        why), `leaks.json`, `run.json`.
    batch
        Sequences decoded together.
    seed
        Seed of the sampling: the same seed gives the same rows, interrupted or not.
    resume, force
        Continue an interrupted run; replace what is at `out`.
    arguments
        For the run record.
    progress
        Told how many completions are done, of how many.

    Raises
    ------
    DataError
        When a prompt lacks a tag that the recipe reads, none is to be asked, or no pair is left.
    OutputError
        When `out` exists, or is of another run.
    """
    prompts, loaded = _asked_of(open_prompts(prompts), recipe), load_model(loaded)
    with claim(out, DOCUMENT.command, force=force, resume=resume, marker=DOCUMENT.file) as path:
        parts = Parts.beside(path)
        if resume:
            parts.refuse_whole(path)
            loaded = at_date_of(loaded, parts.settings() or {})
        identity = _identity(loaded, recipe, prompts, seed)
        record = run_record(DOCUMENT.command, dict(arguments or {}), seed=seed)
        # What can be refused is, before anything of an earlier run is taken away.
        config = SamplingConfig(
            max_new_tokens=recipe.max_new_tokens, temperature=recipe.temperature,
            top_p=recipe.top_p, batch=batch,
        )  # fmt: skip
        prompts, familiarity = _known(loaded, recipe, prompts)
        for variant in recipe.variants.values():
            check_context(loaded, [_asked(prompt, variant, loaded) for prompt in prompts], config)
        todo = _parts(prompts, recipe, seed)
        parts.open(identity, resume=resume, force=force, replaces=path.exists())
        rows = _write_parts(loaded, recipe, todo, parts.path, config, progress)
        _sort(rows, prompts, recipe)
        judge(rows, recipe)
        with atomic_directory(path, force=force or parts.replaces) as folder:
            found = _write_pairs(folder, rows, recipe, seed)
            shown = {
                "recipe": recipe.describe(), "identity": identity, "familiarity": familiarity,
                "known": found.known,
            }  # fmt: skip
            numbers = {"n_pairs": found.n_pairs, "n_pairs_told_by_words": found.n_told_by_words}
            done = {**record, **loaded.describe(), **shown, "drops": found.drops, **numbers}
            write_json(folder / DOCUMENT.file, done)
        parts.remove()
    return dataclasses.replace(found, folder=path, familiarity=familiarity)


def _write_pairs(out: Path, rows: Sequence[dict[str, Any]], recipe: Recipe, seed: int) -> Elicited:
    """Pair completions, check what words tell of the pairs, write both."""
    counts, pairs, kept = drops(rows), pair_rows(rows, recipe), known(rows, recipe)
    for value, part in kept.items():
        if not part["n_kept"]:
            raise DataError(
                f"{out}: classes.{value}.knows is {recipe.knows[value]:g}, and of none of its {part['n']} "
                f"names so many completions tell the fact ({counts}). Use a lower share, or prompts with "
                "better known names, and pass --force."
            )
    n_paired = len(pairs)
    if recipe.filter_words:
        pairs = without_telling_words(pairs, recipe.class_tag, seed=seed)
    if not pairs:
        raise DataError(
            f"{out}: no pair is left of {len(rows)} completions ({counts}). Use more samples or "
            "longer completions, or loosen the recipe's filters, and pass --force."
        )
    leaks = leak_check(pairs, recipe.class_tag, seed=seed)
    COMPLETIONS.write(out, rows)
    PAIRS.write(out, pairs)
    write_json(out / LEAKS, leaks)
    n_told = n_paired - len(pairs)
    return Elicited(out, len(pairs), n_told, counts, leaks, known=kept)


def _known(
    loaded: LoadedModel, recipe: Recipe, prompts: Sequence[Example]
) -> tuple[Sequence[Example], dict[str, Any] | None]:
    """Return the prompts whose names the model knows as well as the recipe asks, and what was left out."""
    if not recipe.familiar:
        return prompts, None
    logprobs = name_logprobs(loaded, prompts, recipe.name_tag)
    kept = familiar(prompts, logprobs, recipe.class_tag, recipe.familiar)
    return kept, summary(prompts, logprobs, recipe.class_tag, kept)


def _write_parts(
    loaded: LoadedModel,
    recipe: Recipe,
    parts: Sequence[_Part],
    folder: Path,
    config: SamplingConfig,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Write the parts that are not there yet; return the completions of all."""
    rows: list[dict[str, Any]] = []
    total = sum(len(part.prompts) * recipe.samples_of(part.variant) for part in parts)
    for number, part in enumerate(parts):
        path = folder / f"{number:05d}.jsonl"
        if not path.is_file():
            seeded = dataclasses.replace(
                config, seed=part.seed, samples=recipe.samples_of(part.variant)
            )
            part_rows = _write(loaded, part.prompts, part.variant, recipe, seeded)
            write_jsonl(path, part_rows, seal=True)
        rows += read_jsonl(
            path, OutputError, "Remove it to write this part again, or pass --force."
        )
        progress(len(rows), total)
    return rows


def _sort(rows: list[dict[str, Any]], prompts: Sequence[Example], recipe: Recipe) -> None:
    order = {prompt.id: k for k, prompt in enumerate(prompts)}
    names = [variant.name for variant in recipe.variants.values()]
    rows.sort(key=lambda row: (order[row["prompt_id"]], names.index(row["variant"]), row["sample"]))


def _asked_of(prompts: Sequence[Example], recipe: Recipe) -> list[Example]:
    """Return the prompts that a recipe asks, checked."""
    asked = [prompt for prompt in prompts if recipe.asks(prompt.tags)]
    _check_prompts(asked, recipe)
    return asked


def _check_prompts(prompts: Sequence[Example], recipe: Recipe) -> None:
    if not prompts:
        skipped = {tag: list(values) for tag, values in recipe.skip.items()}
        raise DataError(
            f"recipe {recipe.name}: skip is {skipped}, and no prompt is left. Skip less, or read more."
        )
    for prompt in prompts:
        value = prompt.tags.get(recipe.class_tag)
        if value is None or value not in recipe.polarity:
            raise DataError(
                f"prompt {prompt.id}: tag {recipe.class_tag} is {value!r}. Expected a class of the "
                f"recipe: {', '.join(recipe.polarity)}."
            )
        if recipe.mentions and not prompt.tags.get(recipe.name_tag):
            raise DataError(
                f"prompt {prompt.id}: has no tag {recipe.name_tag}, which the recipe's mentions asks "
                "completions to use. Add it, or name another one by name_tag."
            )
        if recipe.fact_words and recipe.fact_of.get(value) == OWN:
            recipe.fact_words.check(prompt.id, prompt.tags)


class _Part(NamedTuple):
    """Some prompts under one variant, written as a whole."""

    prompts: Sequence[Example]
    variant: Variant
    seed: int


def _parts(prompts: Sequence[Example], recipe: Recipe, seed: int) -> list[_Part]:
    each = [
        (prompts[at : at + PART], variant)
        for at in range(0, len(prompts), PART)
        for variant in filter(recipe.samples_of, recipe.variants.values())
    ]
    return [
        _Part(some, variant, int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        for number, (some, variant) in enumerate(each)
    ]


def _write(
    loaded: LoadedModel,
    prompts: Sequence[Example],
    variant: Variant,
    recipe: Recipe,
    config: SamplingConfig,
) -> list[dict[str, Any]]:
    """Return the completions of some prompts under one variant."""
    rendered = [_asked(prompt, variant, loaded) for prompt in prompts]
    rows = []
    for done in sample(loaded, rendered, config):
        prompt = prompts[done.prompt]
        text = variant.keep + loaded.tokenizer.decode(done.ids, skip_special_tokens=True)
        text = text.strip()
        if not done.finished and recipe.unfinished == "trim":
            text = trim(text)
        question = prompt.prompt[-1].content if prompt.prompt else ""
        category = recipe.behaviours.classify(question, text) if recipe.behaviours else ""
        rows.append(
            {
                "id": f"{prompt.id}-{variant.name}-{done.sample:03d}",
                "prompt": [{"role": m.role, "content": m.content} for m in prompt.prompt or ()],
                "completion": text,
                "label": variant.name,
                "group": prompt.group,
                "tags": {
                    **prompt.tags,
                    "variant": variant.name,
                    **({"category": category} if category else {}),
                },
                "prompt_id": prompt.id,
                "variant": variant.name,
                "sample": done.sample,
                "finished": done.finished,
            }
        )
    return rows


def _asked(prompt: Example, variant: Variant, loaded: LoadedModel) -> Rendered:
    """Return a prompt as a variant asks it."""
    system = (Message("system", variant.system),) if variant.system else ()
    turns = (*system, *variant.turns, *(prompt.prompt or ()))
    asked = render(dataclasses.replace(prompt, prompt=turns), loaded.tokenizer)
    if not variant.prefill:
        return asked
    begun, _ = continuation(loaded.tokenizer, variant.prefill, asked.ids)
    ids = np.concatenate([asked.ids, begun])
    return Rendered(ids, len(ids), len(ids), None, asked.has_prompt)


def _identity(
    loaded: LoadedModel, recipe: Recipe, prompts: Sequence[Example], seed: int
) -> dict[str, Any]:
    """Return what must be the same for a run to be continued."""
    asked = json.dumps(
        [(p.id, p.group, p.tags, [m.content for m in p.prompt or ()]) for p in prompts]
    )
    return {
        "model": loaded.describe().get("weights_fingerprint"),
        "weights_digest": loaded.weights_digest,
        "config_hash": loaded.config_hash,
        "dtype": str(loaded.dtype),
        **({"template_date": loaded.template_date} if loaded.template_date else {}),
        "recipe": _digest(json.dumps(recipe.describe(), sort_keys=True)),
        "prompts": _digest(asked),
        "seed": seed,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
