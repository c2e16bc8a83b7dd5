"""The study `ratings`: does a model represent the rating that its completions would get?

Read ratings at every position and token, tune on preferences, amplify what tuning changed, steer along the
direction, and compare models of several sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from probekit.data import open_dataset
from probekit.errors import DataError
from probekit.probes.units import scale_ends
from probekit.reports.ratings import context
from probekit.results.ratings_study import AMPLIFIED, POSITIONS, model_name
from probekit.results.sweep import SweepRun
from probekit.studies.stages import Setting, Stage, Word
from probekit.studies.study import Study


@dataclass(frozen=True)
class RatingsSize:
    """How much of everything."""

    rows: int
    """Rated rows that are read at most; 0 for all."""
    every: int
    """Every n-th layer is stacked."""
    steps: int
    """Steps of preference tuning."""
    tokens: int
    """Tokens of a pair's side that are learned from."""
    prompts: int
    """Held-out prompts that the tuned and amplified models answer."""
    steered: int
    """Those that are steered."""
    samples: int
    """Answers to each of these."""
    controls: int
    """Random directions, directions of shuffled ratings, and placebos of steering."""
    coeffs: str
    new_tokens: int


FULL = RatingsSize(
    rows=0, every=2, steps=60, tokens=384, prompts=64, steered=24, samples=4, controls=9,
    coeffs="-0.2:0.2:0.1", new_tokens=72,
)  # fmt: skip
QUICK = RatingsSize(
    rows=600, every=4, steps=16, tokens=192, prompts=16, steered=8, samples=2, controls=3,
    coeffs="-0.2:0.2:0.2", new_tokens=32,
)  # fmt: skip


def stages(s: Setting) -> None:
    """Add the stages of the study: those that need prompts, or several answers to one, where there are."""
    has_prompts, has_pairs = _kinds(str(s.data), s.scale)
    read: list[Word] = ["--data", s.data, *(("--limit", str(s.size.rows)) if s.size.rows else ())]
    rules = [rule for rule in POSITIONS if has_prompts or rule != "prompt_end"]
    reading = [rule for rule in rules if rule != "prompt_end"]
    store = s.stage(
        "cache", "cache", *read, "--positions", ",".join(rules), "--too-long", "drop", *s.with_model,
        output="acts.h5",
    )  # fmt: skip
    fit = s.stage("fit", "fit", store, "--positions", ",".join(reading), *_fitted(s))
    for rule in rules:
        s.stage(
            f"positions/{rule}", "fit", store, "--positions", rule, *_fitted(s),
            output=f"positions/{rule.replace(':', '-')}",
        )  # fmt: skip
    s.stage("tokens", "tokens", "--probe", fit, "--store", store, *s.options)
    every = s.stage(
        "tokens_cache", "cache", *read, "--positions", "all", fit.after(_layer), "--too-long", "drop",
        *s.with_model, output="tokens.h5",
    )  # fmt: skip
    s.stage(
        "stack", "stack", "--probe", fit, "--store", store, "--every", str(s.size.every),
        "--tokens", every,
    )  # fmt: skip
    if has_prompts:
        prompts = s.stage(
            "prompts", "data", "split", "--probe", fit, "--store", store, "--prompts", s.data
        )
        _steer(s, fit, prompts)
    if has_prompts and has_pairs:
        adapter = _tune(s, fit, store, read, rules)
        _amplify(s, fit, prompts, adapter)
    for model in s.models:
        name = model_name(model)
        own = s.stage(
            f"scaling/{name}/cache", "cache", *read, "--positions", "last", "--too-long", "drop",
            "--model", model, *s.options, output=f"scaling/{name}.h5",
        )  # fmt: skip
        s.stage(f"scaling/{name}", "fit", own, *_fitted(s), output=f"scaling/{name}")


def _layer(fit: Path) -> list[str]:
    """Return the option that keeps a capture to the layer that a fit chose."""
    return ["--layers", str(SweepRun.open(fit).record["chosen"]["layer"])]


def _fitted(s: Setting) -> list[str]:
    """Return the options of every fit."""
    return [*s.with_seed, *(("--scale", s.scale) if s.scale else ())]


def _steer(s: Setting, fit: Stage, prompts: Stage) -> None:
    s.stage(
        "steer", "steer", "--probe", fit, "--prompts", prompts / "held_out.jsonl",
        "--coeff", s.size.coeffs, "--limit", str(s.size.steered),
        "--max-new-tokens", str(s.size.new_tokens), "--samples", str(s.size.samples),
        "--random-controls", str(s.size.controls), "--shuffled-controls", str(s.size.controls),
        "--placebo-controls", str(min(6, s.size.controls)), "--temperature", "0.8",
        *s.with_model, *s.with_seed,
    )  # fmt: skip


def _tune(s: Setting, fit: Stage, store: Stage, read: list[Word], rules: list[str]) -> Stage:
    """Add tuning on preferences, and the same sweep after it."""
    pairs = s.stage(
        "pairs", "data", "pairs", *read, "--probe", fit, "--store", store, output="pairs.jsonl"
    )
    tuned = s.stage(
        "dpo",
        "dpo",
        "--data",
        pairs,
        "--learning-rate",
        "1e-4",
        "--steps",
        str(s.size.steps),
        "--max-tokens",
        str(s.size.tokens),
        *s.with_model,
        *s.with_seed,
    )
    after = s.stage(
        "after/cache", "cache", *read, "--positions", ",".join(rules), "--too-long", "drop",
        "--adapter", tuned, *s.with_model, output="after/acts.h5",
    )  # fmt: skip
    again = s.stage(
        "after/fit", "fit", after, "--positions", ",".join(r for r in rules if r != "prompt_end"),
        *_fitted(s), output="after/fit",
    )  # fmt: skip
    s.stage("compare", "compare", fit, again, "--store", store, "--store", after)
    return tuned


def _amplify(s: Setting, fit: Stage, prompts: Stage, adapter: Stage) -> None:
    """Add completions of the base, the tuned and amplified models, each read by the base model's probe."""
    for k in AMPLIFIED:
        more = ("--adapter", adapter, "--amplify", f"{k:g}") if k else ()
        rows = s.stage(
            f"amplify/{k:g}", "sample", "--prompts", prompts / "held_out.jsonl",
            "--limit", str(s.size.prompts), "--samples", str(s.size.samples),
            "--max-new-tokens", str(s.size.new_tokens), "--temperature", "1.0",
            *more, *s.with_model, *s.with_seed, output=f"amplify/{k:g}.jsonl",
        )  # fmt: skip
        s.stage(
            f"amplify/{k:g}/score", "score", "--probe", fit, "--data", rows, *s.with_model,
            output=f"amplify/{k:g}.scores.jsonl",
        )  # fmt: skip


def _kinds(source: str, scale: str) -> tuple[bool, bool]:
    """Return whether rated rows have prompts, and whether a prompt has two ratings that differ.

    Raises
    ------
    DataError
        When rows are no ratings, all rated alike, or rated outside of the scale: before any work.
    """
    dataset = open_dataset(source)
    if dataset.kind != "rating":
        raise DataError(
            f"{source}: has {dataset.kind} rows, expected ratings: prompt, completion, score. Give rated "
            "rows; probekit data check FILE says how a file is read."
        )
    low, high = scale_ends(scale) if scale else (-math.inf, math.inf)
    prompts, several = False, False
    seen: dict[str, float] = {}
    for example in dataset.examples():
        score = float(example.score or 0.0)
        if not low <= score <= high:
            raise DataError(
                f"{example.where}: rating {score:g} is outside of the scale {scale}. Correct the row or the "
                "scale."
            )
        prompts |= bool(example.prompt)
        several |= score != seen.setdefault(example.group, score)
    if not several and len(set(seen.values())) < 2:  # noqa: PLR2004
        raise DataError(f"{source}: every rating is {score:g}. Give rows with different ratings.")
    return prompts, several


STUDY = Study(
    name="ratings",
    stages=stages,
    full=FULL,
    quick=QUICK,
    template="ratings.html.j2",
    page=context,
    data="demo:ratings",
)
