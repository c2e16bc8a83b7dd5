"""One record in probekit's fields to examples, or one line that says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from probekit.data.fields import (
    kind_of,
    missing,
    read_ids,
    read_label,
    read_messages,
    read_name,
    read_score,
    read_tags,
    read_text,
)
from probekit.data.readers import Record
from probekit.data.rows import Example, Kind, Message
from probekit.errors import DataError

FIELDS = {
    "label": "label, and completion, text or prompt",
    "rating": "score, and completion or text",
    "pair": "chosen and rejected",
}
Prompt = tuple[Message, ...] | None


def infer_kind(record: Record, place: str) -> Kind:
    """Return the kind of row that a record's fields make it."""
    kind = _kind(record)
    if kind is None:
        raise DataError(
            f"{place}: has fields {', '.join(map(repr, record)) or 'none'}; expected label, or "
            "score, or chosen and rejected. Where they have other names, say them: --label-field, "
            "--score-field, or --chosen-field and --rejected-field."
        )
    return kind


def to_examples(
    record: Record, place: str, *, kind: Kind, number: int, tags: Mapping[str, Any]
) -> list[Example]:
    """Return the example of a record, or both sides of a pair.

    Parameters
    ----------
    record
        Fields of one row.
    place
        Where it stands, for messages.
    kind
        What the row must be.
    number
        1-based number of the row, for its default id.
    tags
        Fields outside the row's own tags that become tags.

    Raises
    ------
    DataError
        When a field is missing or has another type or an unusable value.
    """
    _expect_kind(record, place, kind)
    identity = record.get("id")
    name = f"row-{number:06d}" if identity is None else read_name(identity, place, "id")
    own_tags = read_tags(record, tags, place)
    if kind == "pair":
        return _pair(record, place, name, own_tags)
    prompt, answer = read_prompt(record, place)
    completion = read_completion(record, place, answer)
    if completion is None and (prompt is None or kind == "rating"):
        raise missing(record, place, FIELDS[kind].partition(", and ")[2])
    example = Example(
        id=name,
        group=read_group(record, prompt, completion, place),
        prompt=prompt,
        completion=completion,
        label=read_label(record, place) if kind == "label" else None,
        score=read_score(record, place) if kind == "rating" else None,
        tags=own_tags,
        completion_ids=read_ids(record, place),
        place=place,
    )
    return [example]


def to_texts(record: Record, place: str, *, number: int, tags: Mapping[str, Any]) -> list[Example]:
    """Return the texts of a record, one or both sides of a pair, whatever its label or score is."""
    if "chosen" in record and "rejected" in record:
        return to_examples(record, place, kind="pair", number=number, tags=tags)
    prompt, answer = read_prompt(record, place)
    completion = read_completion(record, place, answer)
    if prompt is None and completion is None:
        raise missing(record, place, "text, prompt or completion")
    identity = record.get("id")
    return [
        Example(
            id=f"row-{number:06d}" if identity is None else read_name(identity, place, "id"),
            group=read_group(record, prompt, completion, place),
            prompt=prompt,
            completion=completion,
            tags=read_tags(record, tags, place),
            completion_ids=read_ids(record, place),
            place=place,
        )
    ]


def _kind(record: Record) -> Kind | None:
    if "chosen" in record and "rejected" in record:
        return "pair"
    if "score" in record:
        return "rating"
    return "label" if "label" in record else None


def _expect_kind(record: Record, place: str, kind: Kind) -> None:
    needed = {"label": ("label",), "rating": ("score",), "pair": ("chosen", "rejected")}[kind]
    absent = [field for field in needed if field not in record]
    found = _kind(record)
    if absent and found in (None, kind):
        raise missing(record, place, " and ".join(absent))
    if absent or (found == "pair" and kind != "pair"):
        raise DataError(
            f"{place}: is a {found} row where {kind} rows were expected ({FIELDS[kind]}). Put kinds "
            "in separate files, or force one with --data-kind."
        )


def _pair(record: Record, place: str, name: str, tags: dict[str, str]) -> list[Example]:
    prompt, answer = read_prompt(record, place)
    if answer is not None:
        raise answered(place, "chosen and rejected")
    texts, heads = {}, {}
    for side in ("chosen", "rejected"):
        value = record[side]
        if isinstance(value, list):
            heads[side], value = _last_answer(value, place, side)
        texts[side] = read_text(value, place, side)
    if heads:
        prompt = _shared_prompt(prompt, heads, place)
        if prompt and prompt[-1].role == "assistant":
            raise answered(place, "chosen and rejected")
    group = read_group(record, prompt, texts["chosen"], place)
    return [
        Example(
            id=name,
            group=group,
            prompt=prompt,
            completion=text,
            side=side,  # type: ignore[arg-type]
            tags=tags,
            place=place,
        )
        for side, text in texts.items()
    ]


def _shared_prompt(prompt: Prompt, heads: dict[str, tuple[Message, ...]], place: str) -> Prompt:
    """Return the conversation that both sides repeat before their last turn."""
    if len(set(heads.values())) > 1:
        raise DataError(
            f"{place}: chosen and rejected answer different conversations. A pair must "
            "differ in its last assistant turn only."
        )
    side, head = next(iter(heads.items()))
    if not head:
        return prompt
    if prompt is not None and not set(_stripped(prompt)) <= set(_stripped(head)):
        raise DataError(
            f"{place}: {side} does not repeat the prompt. Leave the prompt out, or give the answer "
            "alone."
        )
    return head


def _stripped(turns: tuple[Message, ...]) -> list[str]:
    return [turn.content.strip() for turn in turns]


def _last_answer(value: list[Any], place: str, field: str) -> tuple[tuple[Message, ...], str]:
    turns = read_messages(value, place, field)
    if turns[-1].role != "assistant":
        raise DataError(
            f"{place}: {field} ends with a turn of {turns[-1].role}, expected assistant."
        )
    return turns[:-1], turns[-1].content


def read_prompt(record: Record, place: str) -> tuple[Prompt, str | None]:
    """Return the conversation to answer, and the answer where the prompt itself ends with one.

    The conversation is None for an absent or empty prompt.
    """
    value = record.get("prompt")
    if value is None or value == "":
        return None, None
    if not isinstance(value, list):
        return (Message("user", read_text(value, place, "prompt")),), None
    turns = read_messages(value, place, "prompt")
    if turns[-1].role != "assistant":
        return turns, None
    if not any(turn.content.strip() for turn in turns[:-1]):
        raise DataError(
            f"{place}: prompt is a turn of the assistant and nothing before it. Expected a turn to answer."
        )
    return turns[:-1], read_text(turns[-1].content, place, "the prompt's last turn")


def answered(place: str, own: str) -> DataError:
    """Return the error for a row with two answers: the prompt's last turn, and `own`."""
    return DataError(
        f"{place}: the prompt ends with a turn of the assistant and the row has {own} of its own. "
        "Expected the user's turn last."
    )


def read_completion(record: Record, place: str, answer: str | None) -> str | None:
    """Return the row's own text, or `answer`, with which its prompt ends; None for a prompt alone."""
    value = record.get("completion")
    if answer is not None:
        if value is not None:
            raise answered(place, "a completion")
        if record.get("text") is None:
            return answer
    if isinstance(value, list):  # TRL's conversational completion: one turn of the assistant
        before, value = _last_answer(value, place, "completion")
        if before:
            raise DataError(
                f"{place}: completion has {len(before) + 1} turns, expected one of the assistant. "
                "Put earlier turns into prompt."
            )
    if value is not None:
        return read_text(value, place, "completion")
    value = record.get("text")
    if value is None:
        return None
    if record.get("prompt"):
        raise DataError(
            f"{place}: has both prompt and text, and text is raw text without a prompt. Name the "
            "answer completion, or leave the prompt out."
        )
    return read_text(value, place, "text")


def read_group(record: Record, prompt: Prompt, text: str | None, place: str) -> str:
    """Return the row's group, by default a hash of its prompt (of its text without one)."""
    value = record.get("group")
    if value is not None:
        if value == "":
            raise DataError(f"{place}: group is empty. Name it or leave it out.")
        if isinstance(value, (dict, list)):
            raise DataError(f"{place}: group is {kind_of(value)}, expected a name.")
        return read_name(value, place, "group")
    about = (text or "").strip()
    if prompt is not None:  # white space and empty turns make no other prompt
        turns = [[m.role, m.content.strip()] for m in prompt if m.content.strip()]
        about = json.dumps(turns)
    return hashlib.sha256(about.encode("utf-8")).hexdigest()[:16]
