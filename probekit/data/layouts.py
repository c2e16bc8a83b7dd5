"""Public column layouts, mapped to probekit's own rows."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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


def recognise(record: Record) -> str:
    """Return the layout that a record's columns belong to; `probekit` for its own."""
    keys = record.keys()
    if "instruction" in keys and isinstance(record.get("completions"), list):
        return "ultrafeedback"
    if {"chosen", "rejected", "score_chosen", "score_rejected"} <= keys and isinstance(
        record["chosen"], list
    ):
        return "ultrafeedback_binarized"
    if {"chosen", "rejected"} <= keys and "prompt" not in keys and _is_transcript(record["chosen"]):
        return "hh-rlhf"
    if {"prompt", "response", "helpfulness"} <= keys:
        return "helpsteer"
    if "prompt" not in keys and all(isinstance(record.get(side), str) for side in SIDES):
        return "trl"
    return "probekit"


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
    "ultrafeedback": _ultrafeedback,
    "ultrafeedback_binarized": _binarized,
    "hh-rlhf": _hh,
    "helpsteer": _helpsteer,
    "trl": _trl,
}
OPTIONS: dict[str, tuple[str, ...]] = {"ultrafeedback": ("keep-slips",), "helpsteer": HELPSTEER}
