"""`open_prompts`: the prompts of any source, each once, for commands that let the model write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from probekit.data.fields import missing, read_ids, read_messages, read_name, read_tags
from probekit.data.layouts import Dropped
from probekit.data.memory import Rows, kept, name_of, read_memory
from probekit.data.readers import READ, Record, read_records
from probekit.data.rows import Example, Message
from probekit.data.units import reader_of
from probekit.data.validate import answered, read_completion, read_group, read_prompt
from probekit.errors import DataError


def open_prompts(
    source: str | Path | Rows,
    *,
    layout: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> list[Example]:
    """Read the prompts of rows of any kind, in the order of the source, each prompt once.

    Parameters
    ----------
    source
        A file that `open_dataset` reads, or a .txt file with a prompt a line; `hf:org/name[:config]`,
        `demo:NAME`; or rows in memory:
        a list of texts or dicts, a `datasets.Dataset`, a pandas or polars frame.
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
    source = kept(source)
    if isinstance(source, (list, tuple)) and all(type(row) is Example for row in source):
        return list(source[:limit])  # they were read already
    found: dict[tuple[Message, ...], Example] = {}
    names: set[str] = set()
    for place, row in _rows(source, layout, split):
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
        raise DataError(
            f"{name_of(source)}: has no prompts. Expected at least one; see docs/data.md."
        )
    return list(found.values())


def open_texts(texts: Rows) -> list[Example]:
    """Read texts to score, which need no label: texts, rows of `prompt` and `completion`, or conversations.

    Parameters
    ----------
    texts
        A text stands for raw text; a list of `{"role", "content"}` for a conversation, whose last turn is
        scored where it is the assistant's; a dict for a row in probekit's fields. Frames are rows too.

    Raises
    ------
    DataError
        At the first that is none of these.
    """
    if isinstance(texts, str):
        raise DataError("texts: got one text, expected a list of them. Put it in brackets.")
    found: list[Example] = []
    items = (
        [{"prompt": x} if isinstance(x, list) else x for x in texts]
        if type(texts) in (list, tuple)
        else texts
    )
    for place, row in read_memory(items, READ, text_is="text"):
        prompt, answer = read_prompt(row, place)
        completion = read_completion(row, place, answer)
        if prompt is None and completion is None:
            raise missing(row, place, "completion, text or prompt")
        name = (
            f"row-{len(found) + 1:06d}"
            if row.get("id") is None
            else read_name(row["id"], place, "id")
        )
        group, ids = read_group(row, prompt, completion, place), read_ids(row, place)
        found.append(Example(name, group, prompt, completion, completion_ids=ids, place=place))
    return found


def _rows(source: Rows, layout: str | None, split: str) -> Iterator[tuple[str, Record]]:
    if next(read_records(source, split=split), None) is None:
        return
    reader = reader_of(source, {}, None, layout, split=split)
    if isinstance(source, str) and source.lower().removesuffix(".gz").endswith(".txt"):
        yield from ((place, {"prompt": row["text"]}) for place, row in read_records(source))
        return
    for place, record in read_records(source, split=split, names=reader.columns):
        yield from ((place, x) for x in reader.rows(place, record) if not isinstance(x, Dropped))


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
