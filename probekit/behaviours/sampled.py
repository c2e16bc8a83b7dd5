"""Completions that the model writes itself as data rows, so that a head is fitted on-policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.behaviours.definitions import Behaviours, Wanted
from probekit.container import write_jsonl
from probekit.data.prompts import open_prompts
from probekit.data.rows import Example
from probekit.digests import SEAL, digest_file, sealed
from probekit.errors import DataError
from probekit.models.chat import render, text_of
from probekit.models.load import LoadedModel, adapter_folder, add_adapter, at_date_of, load_model
from probekit.models.sampling import Batches, Completion, check_drawing, sample
from probekit.models.sampling_config import SamplingConfig
from probekit.outputs import claim
from probekit.parsing import read_jsonl
from probekit.partial import PartialFolder
from probekit.provenance import run_record

REST = "other"
"""Label of completions that do not do what is wanted."""


def sampled_rows(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    prompts: Sequence[Example] | Any,  # noqa: ANN401 - or any source of prompts
    config: SamplingConfig,
    *,
    behaviours: Behaviours | None = None,
    wanted: Wanted | None = None,
    amplify: float | None = None,
    kept: Batches | None = None,
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
    amplify
        k of `probekit.models.amplify`, of a model with an adapter in it; becomes the tag `amplify`.
    kept
        Where the completions of a batch lie; see `probekit.models.sampling.sample`.
    progress
        Told how many completions are done.

    Raises
    ------
    DataError
        When no row is left.
    """
    loaded, prompts = load_model(loaded), open_prompts(prompts)
    rendered = [render(prompt, loaded.tokenizer) for prompt in prompts]
    rows, seen = list[dict[str, Any]](), set[tuple[int, str]]()
    how: dict[str, Any] = {"amplify": amplify, "kept": kept, "progress": progress}
    for done in sample(loaded, rendered, config, **how):
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
            "tags": {**prompt.tags, **({} if amplify is None else {"amplify": f"{amplify:g}"})},
        }
        again = render(dataclasses.replace(prompt, completion=text), loaded.tokenizer)
        if not row.header and again.ids.tolist() != row.ids.tolist():
            record["completion_ids"] = row.ids[row.start : row.stop].tolist()
        if behaviours is not None:
            question = prompt.prompt[-1].content if prompt.prompt else ""
            plain = loaded.tokenizer.decode(done.ids, skip_special_tokens=True)
            category = behaviours.classify(question, plain)
            record["tags"]["category"] = category
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


class Drawn(PartialFolder):
    """The folder `OUT.partial`: the completions of every batch that is done."""

    WORK = "sampling"

    def read(self, number: int) -> list[Completion] | None:
        """Return the completions of a batch; None where it is still to be drawn."""
        path = self._file(number)
        if not path.is_file():
            return None
        again = "Remove it to draw this batch again, or pass --force."
        return [
            Completion(
                row["prompt"],
                row["sample"],
                np.array(row["ids"], dtype=np.int32),
                np.array(row["logprobs"], dtype=np.float32),
                row["finished"],
            )
            for row in read_jsonl(path, self.ERROR, again)
        ]

    def write(self, number: int, completions: Sequence[Completion]) -> None:
        """Keep the completions of a batch."""
        rows = [dataclasses.asdict(done) for done in completions]
        write_jsonl(self._file(number), rows, seal=True)

    def _file(self, number: int) -> Path:
        return self.path / f"{number:05d}.jsonl"


def write_sampled(
    loaded: LoadedModel,
    prompts: Sequence[Example],
    out: str | Path,
    config: SamplingConfig,
    *,
    adapter: str | Path | None = None,
    amplify: float | None = None,
    behaviours: Behaviours | None = None,
    wanted: Wanted | None = None,
    resume: bool = False,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Write `sampled_rows` to a file, with its run record; until then every batch is kept beside it.

    Parameters
    ----------
    loaded, prompts, config, amplify, behaviours, wanted, progress
        See `sampled_rows`.
    out
        The file, `.jsonl`.
    adapter
        LoRA adapter that is put into the model: its folder, or that of the run that wrote it.
    resume, force
        Continue an interrupted run of the same settings, which may label otherwise; replace `out`.
    arguments
        For the run record.

    Raises
    ------
    DataError, OutputError
        When no row is left; when `out` exists, or is of another run.
    """
    with claim(out, "sample", force=force, resume=resume, inputs=[adapter]) as path:
        drawn = Drawn.beside(path)
        if resume:
            drawn.refuse_whole(path)
            loaded = at_date_of(loaded, drawn.settings() or {})
        settings = {**loaded.describe(), **dataclasses.asdict(config)}
        if adapter is not None:
            loaded = add_adapter(loaded, adapter)
            settings["adapter"] = digest_file(adapter_folder(adapter) / "adapter_model.safetensors")
        if amplify is not None:
            settings["amplify"] = amplify
        rendered = [render(prompt, loaded.tokenizer) for prompt in prompts]
        check_drawing(loaded, rendered, config, amplify)
        asked = [[p.id, row.ids.tolist()] for p, row in zip(prompts, rendered, strict=True)]
        settings["prompts"] = sealed({"prompts": asked})[SEAL]
        drawn.open(settings, resume=resume, force=force, replaces=path.exists())
        rows = sampled_rows(
            loaded, prompts, config,
            behaviours=behaviours, wanted=wanted, amplify=amplify, kept=drawn, progress=progress,
        )  # fmt: skip
        record = {**run_record("sample", dict(arguments or {}), seed=config.seed), **settings}
        write_jsonl(path, rows, replace=force or drawn.replaces, record=record)
        drawn.remove()
        return rows
