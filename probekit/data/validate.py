"""One record in probekit's fields to examples, or one line that says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from probekit.data.readers import Record
from probekit.data.rows import Example, Kind, Message
from probekit.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
FIELDS = {
    "label": "label, and completion, text or prompt",
    "rating": "score, and completion or text",
    "pair": "chosen and rejected",
}


def infer_kind(record: Record, place: str) -> Kind:
    """Return the kind of row that a record's fields make it."""
    if "chosen" in record and "rejected" in record:
        return "pair"
    if "score" in record:
        return "rating"
    if "label" in record:
        return "label"
    raise DataError(
        f"{place}: has fields {', '.join(map(repr, record)) or 'none'}; expected label, or score, or "
        "chosen and rejected. See docs/data.md for the row formats."
    )


def to_examples(
    record: Record, place: str, *, kind: Kind, number: int, tags: Sequence[str]
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
        Top-level fields that become tags.

    Raises
    ------
    DataError
        When a field is missing or has another type or an unusable value.
    """
    found = infer_kind(record, place)
    if found != kind and not (kind == "label" and "label" in record):
        raise DataError(
            f"{place}: is a {found} row where {kind} rows were expected ({FIELDS[kind]}). Put kinds "
            "in separate files, or force one with --data-kind."
        )
    name = str(record["id"]) if record.get("id") is not None else f"row-{number:06d}"
    own_tags = _tags(record, tags, place)
    if kind == "pair":
        return _pair(record, place, name, own_tags)
    prompt = _prompt(record.get("prompt"), place)
    completion = _completion(record, place, prompt is not None and kind == "label")
    if completion is None and prompt is None:
        raise _missing(record, place, "completion, text or prompt")
    if "text" in record and record.get("completion") is None:
        prompt = None
    example = Example(
        id=name,
        group=_group(record, prompt, completion, place),
        prompt=prompt,
        completion=completion,
        label=_label(record, place) if kind == "label" else None,
        score=_score(record, place) if kind == "rating" else None,
        tags=own_tags,
    )
    return [example]


def _pair(record: Record, place: str, name: str, tags: dict[str, str]) -> list[Example]:
    prompt = _prompt(record.get("prompt"), place)
    texts = {}
    for side in ("chosen", "rejected"):
        value = record[side]
        if isinstance(value, list):
            turns = _messages(value, place, side)
            if turns[-1].role != "assistant":
                raise DataError(
                    f"{place}: {side} ends with a turn of {turns[-1].role}, expected assistant."
                )
            head = turns[:-1]
            if prompt is None or side == "chosen":
                prompt = head or prompt
            elif head and head != prompt:
                raise DataError(
                    f"{place}: chosen and rejected answer different conversations. A pair must "
                    "differ in its last assistant turn only."
                )
            value = turns[-1].content
        texts[side] = _text(value, place, side)
    group = _group(record, prompt, texts["chosen"], place)
    return [
        Example(id=name, group=group, prompt=prompt, completion=text, side=side, tags=tags)  # type: ignore[arg-type]
        for side, text in texts.items()
    ]


def _prompt(value: Any, place: str) -> tuple[Message, ...] | None:  # noqa: ANN401
    if value is None or value == "":
        return None
    if isinstance(value, list):
        return _messages(value, place, "prompt")
    return (Message("user", _text(value, place, "prompt")),)


def _messages(value: list[Any], place: str, field: str) -> tuple[Message, ...]:
    if not value:
        raise DataError(f"{place}: {field} is an empty list, expected messages.")
    found = []
    for i, item in enumerate(value):
        where = f"{field}[{i}]"
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            raise DataError(f"{place}: {where} is not a message, expected role and content.")
        if item["role"] not in ROLES:
            raise DataError(
                f"{place}: {where} has role {item['role']!r}, expected one of {', '.join(ROLES)}."
            )
        if not isinstance(item["content"], str):
            raise DataError(f"{place}: {where}.content is not text.")
        found.append(Message(item["role"], item["content"]))
    return tuple(found)


def _completion(record: Record, place: str, optional: bool) -> str | None:  # noqa: FBT001
    for field in ("completion", "text"):
        value = record.get(field)
        if isinstance(value, list):  # TRL's conversational completion
            turns = _messages(value, place, field)
            value = turns[-1].content
        if value is not None:
            return _text(value, place, field)
    if optional:
        return None
    raise _missing(record, place, "completion or text")


def _text(value: Any, place: str, field: str) -> str:  # noqa: ANN401
    if not isinstance(value, str):
        raise DataError(f"{place}: {field} is {_kind_of(value)} ({_short(value)}), expected text.")
    if not value.strip():
        raise DataError(f"{place}: {field} is empty. Remove the row or give it some text.")
    return value


def _score(record: Record, place: str) -> float:
    value = record.get("score")
    if value is None:
        raise _missing(record, place, "score")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(
            f"{place}: score is {_kind_of(value)} ({_short(value)}), expected a number."
        )
    if not math.isfinite(value):
        raise DataError(f"{place}: score is {value}, expected a finite number. Remove the row.")
    return float(value)


def _label(record: Record, place: str) -> int | str:
    value = record.get("label")
    if value is None:
        raise _missing(record, place, "label")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, (int, str)) or value == "":
        raise DataError(
            f"{place}: label is {_kind_of(value)} ({_short(value)}), expected an integer or a name."
        )
    return value


def _tags(record: Record, fields: Sequence[str], place: str) -> dict[str, str]:
    value = record.get("tags") or {}
    if not isinstance(value, dict):
        raise DataError(f"{place}: tags is {_kind_of(value)}, expected an object of names to text.")
    found = dict(value)
    for field in fields:
        if field in record:
            found[field] = record[field]
    for key, tag in found.items():
        if isinstance(tag, (dict, list)):
            raise DataError(f"{place}: tag {key!r} is {_kind_of(tag)}, expected text.")
    return {str(key): str(tag) for key, tag in found.items() if tag is not None}


def _group(record: Record, prompt: tuple[Message, ...] | None, text: str | None, place: str) -> str:
    value = record.get("group")
    if value is not None:
        if isinstance(value, (dict, list)) or str(value) == "":
            raise DataError(f"{place}: group is {_kind_of(value)}, expected a name.")
        return str(value)
    about = text or "" if prompt is None else json.dumps([[m.role, m.content] for m in prompt])
    return hashlib.sha256(about.encode("utf-8", "replace")).hexdigest()[:16]


def _missing(record: Record, place: str, wanted: str) -> DataError:
    found = ", ".join(map(repr, record)) or "none"
    return DataError(f"{place}: has no {wanted} (its fields: {found}). See docs/data.md.")


def _kind_of(value: Any) -> str:  # noqa: ANN401
    names = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "nothing")


def _short(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
