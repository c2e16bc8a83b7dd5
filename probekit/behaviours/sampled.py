"""Completions that the model writes itself as data rows, so that a head is fitted on-policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from probekit.behaviours.definitions import Behaviours, Wanted
from probekit.data.prompts import open_prompts
from probekit.data.rows import Example
from probekit.errors import DataError
from probekit.models.chat import render, text_of
from probekit.models.load import LoadedModel, load_model
from probekit.models.sampling import sample
from probekit.models.sampling_config import SamplingConfig

REST = "other"
"""Label of completions that do not do what is wanted."""


def sampled_rows(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    prompts: Sequence[Example] | Any,  # noqa: ANN401 - or any source of prompts
    config: SamplingConfig,
    *,
    behaviours: Behaviours | None = None,
    wanted: Wanted | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Let the model complete every prompt; return rows in the order of the prompts.

    Empty completions are left out, and so are repeated ones of the same prompt: they would be the same
    row. A text is kept as it was written, white space and special tokens within it included, so that
    `render` gives its tokens back; where the tokenizer would make others of it, `completion_ids` has them.

    Parameters
    ----------
    loaded
        The model.
    prompts
        Rows that end with their prompt.
    config
        How completions are drawn, and how many of each prompt.
    behaviours
        Adds the category of every completion as the tag `category`.
    wanted
        Makes label rows: `wanted` for what does it, `other` for what does not. Completions of prompts
        for which nothing is wanted are left out.
    progress
        Told how many completions are done.

    Raises
    ------
    DataError
        When no row is left.
    """
    loaded, prompts = load_model(loaded), open_prompts(prompts)
    rendered = [render(prompt, loaded.tokenizer) for prompt in prompts]
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, str]] = set()
    for done in sample(loaded, rendered, config, progress=progress):
        prompt = prompts[done.prompt]
        row = done.rendered(rendered[done.prompt], loaded.turn)
        text = text_of(loaded.tokenizer, row, loaded.turn)
        if not text.strip() or (done.prompt, text) in seen:
            continue
        seen.add((done.prompt, text))
        record: dict[str, Any] = {
            "id": f"{prompt.id}-{done.sample:03d}",
            "prompt": [{"role": m.role, "content": m.content} for m in prompt.prompt or ()],
            "completion": text,
            "group": prompt.group,
            "tags": dict(prompt.tags),
        }
        again = render(dataclasses.replace(prompt, completion=text), loaded.tokenizer)
        if not row.header and again.ids.tolist() != row.ids.tolist():
            record["completion_ids"] = row.ids[row.start : row.stop].tolist()
        if behaviours is not None:
            question = prompt.prompt[-1].content if prompt.prompt else ""
            plain = loaded.tokenizer.decode(done.ids, skip_special_tokens=True)
            category = behaviours.classify(question, plain)
            record["tags"] = {**prompt.tags, "category": category}
            if wanted is not None:
                good = wanted.holds(category, prompt.tags)
                if good is None:
                    continue
                record["label"] = "wanted" if good else REST
        rows.append(record)
    if not rows:
        raise DataError(
            "completions: none is left, all are empty or of prompts for which nothing is wanted. Use "
            "more --samples or --max-new-tokens, or another --behaviour."
        )
    return rows
