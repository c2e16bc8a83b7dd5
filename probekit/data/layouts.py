"""Public column layouts, mapped to probekit's own rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from probekit.data.readers import HELPSTEER, Record
from probekit.errors import DataError

Rows = Iterator[Record]


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
    return "probekit"


def to_rows(record: Record, layout: str) -> Rows:
    """Yield the rows of a record in probekit's own fields; none when the record is dropped."""
    return LAYOUTS[layout](record)


def _own(record: Record) -> Rows:
    yield record


def _ultrafeedback(record: Record) -> Rows:
    """openbmb/UltraFeedback: several rated completions of one instruction.

    A known slip of the data writes a critique's 1 as overall score 10
    (https://github.com/OpenBMB/UltraFeedback/issues/8); such completions, recognised by fine-grained
    ratings of 2 and less on average, are dropped.
    """
    for completion in record["completions"]:
        score = completion.get("overall_score")
        if score is None or _slipped(completion):
            continue
        tags = {key: str(completion[key]) for key in ("model",) if completion.get(key)}
        tags |= {"source": str(record["source"])} if record.get("source") else {}
        yield {
            "prompt": record["instruction"],
            "completion": completion.get("response"),
            "score": float(score),
            "tags": tags,
        }


def _slipped(completion: Record) -> bool:
    if float(completion["overall_score"]) != 10.0:
        return False
    ratings = []
    for aspect in (completion.get("annotations") or {}).values():
        for item in aspect if isinstance(aspect, list) else [aspect]:
            text = str((item or {}).get("Rating", ""))
            if re.fullmatch(r"\d+(\.\d+)?", text):
                ratings.append(float(text))
    return bool(ratings) and sum(ratings) / len(ratings) <= 2.0


def _binarized(record: Record) -> Rows:
    """ultrafeedback_binarized: whole conversations on both sides; ties are dropped."""
    if record["score_chosen"] == record["score_rejected"]:
        return
    yield {
        "chosen": record["chosen"],
        "rejected": record["rejected"],
        **({"id": record["prompt_id"]} if record.get("prompt_id") else {}),
    }


def _hh(record: Record) -> Rows:
    """Anthropic/hh-rlhf: transcripts whose last Assistant turn differs."""
    sides = {side: _turns(record[side]) for side in ("chosen", "rejected")}
    if record["chosen"] != record["rejected"]:
        yield dict(sides)


def _turns(transcript: str) -> list[dict[str, str]]:
    parts = re.split(r"\n\n(Human|Assistant): ?", transcript)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": text.strip()}
        for who, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _helpsteer(record: Record) -> Rows:
    """nvidia/HelpSteer and HelpSteer2: the score is `helpfulness`, other attributes become tags."""
    yield {
        "prompt": record["prompt"],
        "completion": record["response"],
        "score": float(record["helpfulness"]),
        "tags": {key: str(record[key]) for key in HELPSTEER[1:] if key in record},
    }


def _is_transcript(value: Any) -> bool:  # noqa: ANN401 - a field of any type
    return isinstance(value, str) and value.startswith("\n\nHuman:")


LAYOUTS: dict[str, Callable[[Record], Rows]] = {
    "probekit": _own,
    "ultrafeedback": _ultrafeedback,
    "ultrafeedback_binarized": _binarized,
    "hh-rlhf": _hh,
    "helpsteer": _helpsteer,
}


def layout_named(name: str) -> str:
    """Return `name`, or raise `DataError` when there is no such layout."""
    if name not in LAYOUTS:
        raise DataError(f"layout {name!r}: unknown. Expected {', '.join(LAYOUTS)}.")
    return name
