"""`open_prompts`: the prompts of any source, each once, for commands that let the model write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from probekit.data.fields import missing, read_messages, read_name, read_tags
from probekit.data.layouts import Dropped, layout_named, recognise, to_rows
from probekit.data.readers import Record, read_records
from probekit.data.rows import Example, Message
from probekit.data.validate import answered, read_group, read_prompt
from probekit.errors import DataError


def open_prompts(
    source: str | Path,
    *,
    layout: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> list[Example]:
    """Read the prompts of rows of any kind, in the order of the source, each prompt once.

    Parameters
    ----------
    source
        A .jsonl, .jsonl.gz, .csv or .parquet file, `hf:org/name[:config]`, or `demo:NAME`.
    layout
        A public column layout; recognised from the first row when not given.
    split
        Split of a Hugging Face data set.
    limit
        Stop after this many different prompts.

    Returns
    -------
    list[Example]
        Rows that end with their prompt; completions, labels and scores are left out.

    Raises
    ------
    DataError
        At the first row without a prompt, or whose prompt has no user turn to answer.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: expected 1 or more prompts.")
    found: dict[tuple[Message, ...], Example] = {}
    names: set[str] = set()
    for place, row in _rows(str(source), layout, split):
        prompt = _conversation(row, place)
        if prompt in found:
            continue
        identity = row.get("id")
        name = f"row-{len(found) + 1:06d}" if identity is None else read_name(identity, place, "id")
        if name in names:
            raise DataError(
                f"{place}: id {name!r} occurs twice. Ids must be unique; leave them out."
            )
        names.add(name)
        found[prompt] = Example(
            id=name,
            group=read_group(row, prompt, None, place),
            prompt=prompt,
            tags=read_tags(row, {}, place),
            place=place,
        )
        if len(found) == limit:
            break
    if not found:
        raise DataError(f"{source}: has no prompts. Expected at least one; see docs/data.md.")
    return list(found.values())


def _rows(source: str, layout: str | None, split: str) -> Iterator[tuple[str, Record]]:
    named = None if layout is None else layout_named(layout)
    for place, record in read_records(source, split=split):
        named = named or recognise(record)
        try:
            rows = list(to_rows(record, named))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{place}: does not have the columns of layout {named} "
                f"({type(error).__name__}: {error}). Force another with --layout."
            ) from error
        yield from ((place, row) for row in rows if not isinstance(row, Dropped))


def _conversation(row: Record, place: str) -> tuple[Message, ...]:
    """Return the turns to answer, without the answer where the prompt ends with one."""
    prompt, answer = read_prompt(row, place)
    if answer is not None and any(row.get(own) for own in ("completion", "chosen", "rejected")):
        raise answered(place, "an answer")
    if prompt is None and isinstance(row.get("chosen"), list):
        prompt = read_messages(row["chosen"], place, "chosen")[:-1]
    if not prompt:
        raise missing(row, place, "prompt")
    if not any(turn.role == "user" and turn.content.strip() for turn in prompt):
        raise DataError(
            f"{place}: the prompt has no user turn (its roles: "
            f"{', '.join(turn.role for turn in prompt)}). Expected a question to answer."
        )
    if prompt[-1].role == "assistant":
        raise DataError(
            f"{place}: the prompt ends with a turn of the assistant, so there is nothing to answer. "
            "Expected the user's turn last."
        )
    return prompt
