"""One field of a row: its value, or one line that says what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from probekit.data.columns import OWN, option
from probekit.data.readers import Record
from probekit.data.rows import Message
from probekit.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
NAME_LIMIT = 100_000
"""Most characters of an id, a group or a tag: they are kept in memory, texts are not."""
TEXT_LIMIT = 10_000_000
"""Most characters of a text: far more than any model reads, and tokenizers take 50 times as many bytes."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(value: Any, place: str, field: str) -> str:  # noqa: ANN401 - a field of any type
    """Return a field that must be text with something in it."""
    if not isinstance(value, str):
        raise DataError(f"{place}: {field} is {kind_of(value)} ({short(value)}), expected text.")
    if not value.strip():
        raise DataError(f"{place}: {field} is empty. Remove the row or give it some text.")
    return _encodable(value, place, field)


def read_messages(value: list[Any], place: str, field: str) -> tuple[Message, ...]:
    """Return a list of `{"role", "content"}` as turns; single turns may be empty, not all."""
    if not value:
        raise DataError(f"{place}: {field} is an empty list, expected messages.")
    found = []
    for i, item in enumerate(value):
        where = f"{field}[{i}]"
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            raise DataError(f"{place}: {where} is not a message, expected role and content.")
        if item["role"] not in ROLES:
            raise DataError(
                f"{place}: {where} has role {short(item['role'])}, expected one of "
                f"{', '.join(ROLES)}."
            )
        if not isinstance(item["content"], str):
            raise DataError(
                f"{place}: {where}.content is {kind_of(item['content'])}, expected text."
            )
        found.append(Message(item["role"], _encodable(item["content"], place, where)))
    if not any(turn.content.strip() for turn in found):
        raise DataError(f"{place}: {field} has no text in any message. Remove the row.")
    return tuple(found)


def read_score(record: Record, place: str) -> float:
    """Return `score` as a finite number."""
    value = record.get("score")
    if value is None:
        raise missing(record, place, "score")
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise DataError(f"{place}: score is {kind_of(value)} ({short(value)}), expected a number.")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{place}: score is {number}, expected a finite number. Remove the row.")
    return number


def read_label(record: Record, place: str) -> int | str:
    """Return `label` as an integer or a name."""
    value = record.get("label")
    if value is None:
        raise missing(record, place, "label")
    if isinstance(value, (float, Decimal)) and float(value).is_integer():
        return int(value)  # gaps in a table make 1 a 1.0
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (int, str)) or (isinstance(value, str) and not value.strip()):
        raise DataError(
            f"{place}: label is {kind_of(value)} ({short(value)}), expected an integer or a name."
        )
    # White space around a name is a slip, and would make another class of it.
    return _encodable(value.strip(), place, "label") if isinstance(value, str) else value


def read_ids(record: Record, place: str) -> tuple[int, ...] | None:
    """Return `completion_ids` as token ids, None where a row has none."""
    value = record.get("completion_ids")
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or not value
        or any(type(i) is not int or not 0 <= i < 2**31 for i in value)
    ):
        raise DataError(
            f"{place}: completion_ids is {short(value)}, expected a list of token ids. Leave it out to "
            "have the completion tokenised."
        )
    return tuple(value)


def read_tags(record: Record, named: Mapping[str, Any], place: str) -> dict[str, str]:
    """Return the row's tags and the top-level fields `named` as tags, all as text."""
    value = record.get("tags")
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise DataError(f"{place}: tags is {kind_of(value)}, expected an object of names to text.")
    found = {str(key): tag for key, tag in {**value, **named}.items() if tag is not None}
    return {key: read_name(tag, place, f"tag {key!r}") for key, tag in found.items()}


def read_name(value: Any, place: str, field: str) -> str:  # noqa: ANN401 - a field of any type
    """Return a tag, group or id as text; numbers and booleans as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float, Decimal)):
        raise DataError(f"{place}: {field} is {kind_of(value)}, expected text.")
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):  # rows without a group would share the group nan
            raise DataError(f"{place}: {field} is {value}, expected text. Leave it out.")
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            value = int(value)  # 1.0 is 1: gaps in a table make floats of a column
    if len(text := str(value)) > NAME_LIMIT:
        raise DataError(
            f"{place}: {field} has {len(text):,} characters, expected {NAME_LIMIT:,} at most. Shorten "
            "it; without a group, rows with one prompt share one."
        )
    return _encodable(text, place, field)


def missing(record: Record, place: str, wanted: str) -> DataError:
    """Return the error for a row without the field `wanted`."""
    found = ", ".join(map(repr, record)) or "none"
    named = [field for field in OWN if re.search(rf"\b{field}\b", wanted)]
    which = " or ".join(map(option, named))
    remedy = f" Where it has another name, say it: {which}." if named else ""
    return DataError(f"{place}: has no {wanted} (its fields: {found}).{remedy} See docs/data.md.")


def kind_of(value: Any) -> str:  # noqa: ANN401 - a field of any type
    """Return what a value is, in words."""
    names = {str: "text", int: "a number", float: "a number", bool: "true or false"}
    names |= {list: "a list", tuple: "a list", dict: "an object", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")


def short(value: Any) -> str:  # noqa: ANN401 - a field of any type
    """Return a value for a message, 40 characters at most."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a very long integer"  # Python refuses to print some of them
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _encodable(text: str, place: str, field: str) -> str:
    """Refuse what no tokenizer can take: half a surrogate pair, or a text that ends the process."""
    if len(text) > TEXT_LIMIT:
        raise DataError(
            f"{place}: {field} has {len(text):,} characters, the most is {TEXT_LIMIT:,}. Split or "
            "shorten the row."
        )
    half = _SURROGATE.search(text)
    if half:
        raise DataError(
            f"{place}: {field} holds \\u{ord(half[0]):04x}, half of a surrogate pair and no "
            "character. Remove it."
        )
    return text
