"""Public column layouts, mapped to probekit's own rows."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from probekit.data.columns import ANSWERED, VERDICTS, WINNERS, guess, own_rows, turns_of
from probekit.data.readers import HELPSTEER, Record
from probekit.errors import DataError
from probekit.numbers import plain_number


class Dropped(NamedTuple):
    """A row that a layout leaves out, because its source is known to hold such rows."""

    reason: str


Rows = Iterator[Record | Dropped]
SIDES = ("chosen", "rejected")
MARKER = re.compile(r"\s*<extra_id_[01]>(System|User|Assistant)(?:\n|$)")
CLOSING = "\u3002\uff01\uff1f\uff1a"
"""Full stop, exclamation mark, question mark and colon of scripts that put no space after them."""


def recognise(
    record: Record, names: Mapping[str, str] = MappingProxyType({}), place: str = "row 1"
) -> tuple[str, dict[str, str]]:
    """Return the layout that a record's columns belong to, and which columns hold which fields.

    Parameters
    ----------
    record
        The first record of a source.
    names
        Columns that the user named, by field: other than that of the group they rule out a public layout.
    place
        Where it stands, for messages.
    """
    found = "" if set(names) - {"group"} else _public(record)
    if found:
        return found, dict(names)
    columns = {**guess(record, names, place), **names}
    sides = [columns.get(side, side) for side in SIDES]
    if columns or any(_foreign(record, name) for name in ("prompt", "completion", *sides)):
        return "columns", columns
    if "prompt" not in record and all(isinstance(record.get(side), str) for side in SIDES):
        return "trl", {}
    return "probekit", {}


def _public(record: Record) -> str:
    keys = record.keys()
    completions, sides = record.get("completions"), [record.get(side) for side in SIDES]
    if isinstance(completions, list):
        if "instruction" in keys:
            return "ultrafeedback"
        if isinstance(record.get("labels"), list):
            return "stepwise"
    if {"chosen", "rejected", "score_chosen", "score_rejected"} <= keys and isinstance(
        sides[0], list
    ):
        return "ultrafeedback_binarized"
    if {"chosen", "rejected"} <= keys and "prompt" not in keys and _is_transcript(sides[0]):
        return "hh-rlhf"
    if all(isinstance(side, list) and side and _texts(side) for side in sides):
        return "rewardbench2"
    if _answers(record) and _verdict_column(record):
        return "compared"
    return "helpsteer" if {"prompt", "response", "helpfulness"} <= keys else ""


def _texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _foreign(record: Record, name: str) -> bool:
    """Return whether a conversation is written in another way than as messages."""
    value = record.get(name)
    whole = name == "completion" and isinstance(value, list) and len(value) > 1
    return turns_of(value) != value or (whole and record.get("prompt") is None)


def layout_named(name: str) -> str:
    """Return `name`, or raise `DataError` when there is no such layout or it has no such option."""
    base, colon, option = name.partition(":")
    if base not in LAYOUTS:
        raise DataError(f"layout {name!r}: unknown. Expected {', '.join(LAYOUTS)}.")
    if colon and option not in OPTIONS.get(base, ()):
        known = ", ".join(f"{base}:{known}" for known in OPTIONS.get(base, ()))
        raise DataError(f"layout {name!r}: unknown option. Expected {known or base}.")
    return name


def to_rows(record: Record, layout: str) -> Rows:
    """Yield the rows of a record in probekit's own fields, and why others are left out.

    Parameters
    ----------
    record
        One record of the source.
    layout
        `NAME` or `NAME:OPTION`, as `layout_named` accepts it.
    """
    base, _, option = layout.partition(":")
    return LAYOUTS[base](record, option)


def _own(record: Record, option: str) -> Rows:
    yield record


def _columns(record: Record, option: str) -> Rows:
    """Columns under other names, and conversations written in other ways; see `data.columns`."""
    for row in own_rows(record):
        yield from _trl(row, option)


def _ultrafeedback(record: Record, option: str) -> Rows:
    """openbmb/UltraFeedback: several rated completions of one instruction.

    A known slip of the data writes a critique's 1 as overall score 10
    (https://github.com/OpenBMB/UltraFeedback/issues/8); such completions, recognised by fine-grained
    ratings of 2 and less on average, are left out unless the option is `keep-slips`.
    """
    for completion in record["completions"]:
        score = completion.get("overall_score")
        if score is None:
            yield Dropped("no overall score")
        elif _blank(completion["response"]):
            yield Dropped("empty response")
        elif option != "keep-slips" and _slipped(completion):
            yield Dropped("overall score 10 beside fine-grained ratings of 2 or less")
        else:
            tags = {"model": completion.get("model"), "source": record.get("source")}
            yield {
                "prompt": record["instruction"],
                "completion": completion["response"],
                "score": _rating(score),
                "tags": {key: value for key, value in tags.items() if value},
            }


def _slipped(completion: Record) -> bool:
    if _rating(completion["overall_score"]) != 10.0:
        return False
    ratings = []
    for aspect in (completion.get("annotations") or {}).values():
        for item in aspect if isinstance(aspect, list) else [aspect]:
            rating = plain_number(str((item or {}).get("Rating", "")))  # text, sometimes "N/A"
            if rating is not None:
                ratings.append(rating)
    if not ratings:
        mean = completion.get("fine-grained_score")
        return mean is not None and _rating(mean) <= 2.0
    return sum(ratings) / len(ratings) <= 2.0


def _stepwise(record: Record, option: str) -> Rows:
    """TRL's stepwise supervision: a row for every step, with the steps before it in its completion."""
    steps, labels = record["completions"], record["labels"]
    if len(steps) != len(labels):
        raise ValueError(f"{len(steps)} completions and {len(labels)} labels")
    for k, label in enumerate(labels):
        yield {
            "prompt": record["prompt"], "completion": "\n".join(steps[: k + 1]), "label": label,
            "tags": {"step": str(k + 1)},
        }  # fmt: skip


def _rewardbench2(record: Record, option: str) -> Rows:
    """allenai/reward-bench-2: lists of right and of wrong answers; every one of both is a pair."""
    tags = {"subset": record["subset"]} if record.get("subset") else {}
    for chosen in record["chosen"]:
        for rejected in record["rejected"]:
            if _blank(chosen) or _blank(rejected):
                yield Dropped("empty response")
            elif chosen == rejected:
                yield Dropped("identical sides")
            else:
                yield {
                    "prompt": record["prompt"], "chosen": chosen, "rejected": rejected, "tags": tags,
                }  # fmt: skip


def _compared(record: Record, option: str) -> Rows:
    """Two answers and which is better: HelpSteer2's preferences, HelpSteer3, arenas, SHP."""
    names, column = _answers(record), _verdict_column(record)
    if names is None or column is None:
        raise LookupError("two answers and a column that says which is better")
    first, second = (turns_of(record[name]) for name in names)
    better = _better(record, column)
    if better is None:
        yield Dropped("no answer is better")
        return
    chosen, rejected = (first, second) if better == 0 else (second, first)
    if _blank(chosen) or _blank(rejected):
        yield Dropped("empty response")
        return
    row: Record = {"chosen": chosen, "rejected": rejected}
    for name in ("prompt", "context", "history", "question", "instruction"):
        if record.get(name):
            row["prompt"] = turns_of(_marked_turns(record[name]))
            break
    if isinstance(row.get("prompt"), list) and row["prompt"][-1]["role"] == "assistant":
        yield Dropped("prompt ends with an answer")
        return
    tags = {name: record[name] for name in ("domain", "language") if record.get(name)}
    if column in VERDICTS:
        tags["strength"] = f"{abs(_rating(record[column])):g}"
    yield {**row, "tags": tags}


def _answers(record: Record) -> tuple[str, str] | None:
    there = (names for names in ANSWERED if all(record.get(name) is not None for name in names))
    return next(there, None)


def _verdict_column(record: Record) -> str | None:
    there = (name for name in (*VERDICTS, *WINNERS) if record.get(name) is not None)
    return next(there, None)


def _better(record: Record, column: str) -> int | None:
    """Return which answer is better, 0 or 1; None for neither."""
    value = record[column]
    if column in VERDICTS:
        sign = _rating(value)
        return None if sign == 0 else int(sign > 0)
    if column == "labels":  # SHP: 1 for the first
        return {1: 0, 0: 1}[int(_rating(value))]
    words = {"a": 0, "1": 0, "b": 1, "2": 1}
    name = str(value).strip().lower()
    if name.startswith("tie") or name in ("both", "neither", "0", "same", "equal"):
        return None
    return words[name.rpartition("_")[2].removeprefix("response").removeprefix("model").strip()]


def _binarized(record: Record, option: str) -> Rows:
    """ultrafeedback_binarized: whole conversations on both sides; ties are dropped.

    `prompt_id` is not taken as the row's id: it names the prompt, and prompts repeat.
    """
    if record["score_chosen"] == record["score_rejected"]:
        yield Dropped("tie")
    elif any(_blank(record[side][-1]["content"]) for side in SIDES):
        yield Dropped("empty response")
    elif record["chosen"] == record["rejected"]:
        yield Dropped("identical sides")
    else:
        yield {"chosen": record["chosen"], "rejected": record["rejected"]}


def _hh(record: Record, option: str) -> Rows:
    """Anthropic/hh-rlhf: two transcripts that differ in their last Assistant turn.

    Pairs that differ earlier, or whose last turn is empty, are no comparison of answers to one
    prompt and are left out.
    """
    sides = {side: _turns(record[side]) for side in SIDES}
    chosen, rejected = sides.values()
    if any(turns[-1]["role"] != "assistant" for turns in (chosen, rejected)):
        yield Dropped("does not end with an answer")
    elif chosen[:-1] != rejected[:-1]:
        yield Dropped("sides answer different conversations")
    elif any(_blank(turns[-1]["content"]) for turns in (chosen, rejected)):
        yield Dropped("empty response")
    elif all(_blank(turn["content"]) for turn in chosen[:-1]):
        yield Dropped("empty prompt")
    elif chosen[-2]["role"] == "assistant":
        yield Dropped("prompt ends with an answer")
    elif chosen == rejected:
        yield Dropped("identical sides")
    else:
        yield dict(sides)


def _turns(transcript: str) -> list[dict[str, str]]:
    parts = re.split(r"\n\n(Human|Assistant): ?", transcript)
    if len(parts) == 1 or parts[0].strip():
        raise ValueError("a transcript does not begin with a blank line and Human:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": text.strip()}
        for who, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _helpsteer(record: Record, option: str) -> Rows:
    """nvidia/HelpSteer and HelpSteer2: one attribute is the score, the others become tags.

    The option names the attribute; `helpfulness` when there is none.
    """
    attribute = option or "helpfulness"
    if _blank(record["response"]):
        yield Dropped("empty response")
        return
    others = {key: record.get(key) for key in HELPSTEER if key != attribute}
    prompt = _marked_turns(record["prompt"])
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        yield Dropped("prompt ends with an answer")
        return
    yield {
        "prompt": prompt,
        "completion": record["response"],
        "score": _rating(record[attribute]),
        "tags": {key: f"{_rating(value):g}" for key, value in others.items() if value is not None},
    }


def _marked_turns(prompt: Any) -> Any:  # noqa: ANN401 - a field of any type
    """Return a prompt with turn markers, as HelpSteer2 writes those of several turns, as turns."""
    if not isinstance(prompt, str):
        return prompt
    first, *parts = MARKER.split(prompt)
    if not parts:
        return prompt
    turns = [{"role": "user", "content": first.strip()}] if first.strip() else []
    for who, text in zip(parts[::2], parts[1::2], strict=True):
        turns.append({"role": who.lower(), "content": text.strip()})
    if len(turns) > 1 and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()  # the marker that opens the response
    return turns


def _trl(record: Record, option: str) -> Rows:
    """TRL's preferences with an implicit prompt: what both texts begin with is the prompt.

    It ends at the last line break of what they share, else at the last space or end of a sentence, and
    leaves both sides something. Texts that share no word have no prompt and are raw text.
    """
    if "prompt" in record or not all(isinstance(record.get(side), str) for side in SIDES):
        yield record
        return
    one, other = (record[side].strip() for side in SIDES)
    end = 0 if one == other else _prompt_end(one, other)
    if not end:
        yield record
        return
    parts = {"prompt": one[:end], "chosen": one[end:], "rejected": other[end:]}
    yield record | {name: text.strip() for name, text in parts.items()}


def _prompt_end(one: str, other: str) -> int:
    """Return where the shared beginning of two texts may end, 0 for nowhere."""
    shared = len(os.path.commonprefix([one, other]))

    def between(i: int) -> bool:
        before, after = one[i - 1], (one[i], other[i])
        if any(unicodedata.combining(character) for character in after):
            return False
        return before.isspace() or before in CLOSING or all(map(str.isspace, after))

    # Both texts go on after the cut: neither side may be empty.
    last = min(shared, len(one) - 1, len(other) - 1)
    lines = (i for i in range(last, 0, -1) if one[i - 1] == "\n" and between(i))
    words = (i for i in range(last, 0, -1) if between(i))
    return next(lines, 0) or next(words, 0)


def _rating(value: Any) -> float:  # noqa: ANN401 - a field of any type
    """Return a rating, which some sources write as text."""
    number = plain_number(value) if isinstance(value, str) else value
    if number is None or isinstance(number, bool):
        raise ValueError(f"{value!r:.40} is no rating")
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _blank(text: Any) -> bool:  # noqa: ANN401 - a field of any type
    return text is None or (isinstance(text, str) and not text.strip())


def _is_transcript(value: Any) -> bool:  # noqa: ANN401 - a field of any type
    return isinstance(value, str) and value.startswith("\n\nHuman:")


LAYOUTS: dict[str, Callable[[Record, str], Rows]] = {
    "probekit": _own,
    "columns": _columns,
    "ultrafeedback": _ultrafeedback,
    "ultrafeedback_binarized": _binarized,
    "hh-rlhf": _hh,
    "helpsteer": _helpsteer,
    "trl": _trl,
    "stepwise": _stepwise,
    "rewardbench2": _rewardbench2,
    "compared": _compared,
}
OPTIONS: dict[str, tuple[str, ...]] = {"ultrafeedback": ("keep-slips",), "helpsteer": HELPSTEER}
