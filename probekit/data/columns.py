"""Which columns of a record hold probekit's own fields: those that options name, or well-known names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from probekit.errors import DataError

Record = dict[str, Any]
OWN = ("text", "label", "prompt", "completion", "score", "chosen", "rejected", "group")
"""Fields that may have another name in a file; the option is `--FIELD-field`."""
RIVALS = {
    "text": ("prompt", "completion"), "prompt": ("text",), "completion": ("text",),
    "label": ("score", "chosen", "rejected"), "score": ("label", "chosen", "rejected"),
    "chosen": ("label", "score"), "rejected": ("label", "score"),
}  # fmt: skip
"""What is not read where a field is named: who names a text wants no prompt."""

TEXTS = (
    "sentence", "review", "tweet", "comment", "content", "body", "statement", "claim", "headline", "title",
    "document", "passage", "article", "post", "utterance", "description", "message", "sms", "query", "input",
)  # fmt: skip
TALKS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
PROMPTS = ("question", "instruction", "query", "input", "anchor", "problem", "user")
ANSWERS = (
    "response",
    "answer",
    "output",
    "reply",
    "generation",
    "model_answer",
    "assistant",
    "solution",
)
LABELS = (
    "labels", "label_text", "sentiment", "class", "category", "target", "correct", "is_correct", "toxic",
    "is_toxic", "spam", "is_spam", "harmful", "is_harmful", "safe", "is_safe", "hate", "emotion", "topic",
    "intent", "stance", "verdict",
)  # fmt: skip
SCORES = ("rating", "stars", "reward", "grade", "overall", "overall_score", "toxicity", "quality")
SIDES = (
    ("positive", "negative"), ("winner", "loser"), ("preferred", "dispreferred"), ("accepted", "rejected"),
    ("win", "lose"), ("chosen_response", "rejected_response"), ("response_chosen", "response_rejected"),
    ("pos", "neg"),
)  # fmt: skip
ANSWERED = (
    ("response_1", "response_2"), ("response1", "response2"), ("response_a", "response_b"),
    ("answer_a", "answer_b"), ("answer_1", "answer_2"), ("completion_a", "completion_b"),
    ("conversation_a", "conversation_b"), ("human_ref_A", "human_ref_B"),
)  # fmt: skip
"""Columns of two answers of which a third column says which is better."""
VERDICTS = ("preference_strength", "overall_preference")
"""Columns whose sign says it: below 0 for the first answer."""
WINNERS = ("winner", "preference", "labels")
COMPARED = {
    *(name for pair in ANSWERED for name in pair), *VERDICTS, *WINNERS, "context", "history", "domain",
    "language", "subset", "system", "system_prompt", "input", "question",
}  # fmt: skip
"""Columns of comparisons."""
ALIASED = {
    *TEXTS,
    *TALKS,
    *PROMPTS,
    *ANSWERS,
    *LABELS,
    *SCORES,
    *(n for pair in SIDES for n in pair),
}
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "assistant": "assistant", "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Who speaks in ShareGPT's conversations, as a role."""


def option(field: str) -> str:
    """Return the option that names the column of a field."""
    return f"--{field}-field"


def check_names(names: Mapping[str, str | None]) -> dict[str, str]:
    """Return the columns that were named, by field; DataError for one field twice in one column."""
    given = {field: column for field, column in names.items() if column}
    columns = list(given.values())
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        fields = " and ".join(option(field) for field in given if given[field] == twice)
        raise DataError(f"column {twice!r}: is named by {fields}. Name one column for one field.")
    return given


def guess(record: Record, names: Mapping[str, str], place: str) -> dict[str, str]:
    """Return the columns of a record that hold fields which it has not under their own names.

    Parameters
    ----------
    record
        The first record of a source.
    names
        Columns that the user named, by field.
    place
        Where it stands, for messages.

    Raises
    ------
    DataError
        When two columns may hold the label, the score or the text.
    """
    free = {k: v for k, v in record.items() if v is not None and k not in names.values()}
    have = {field for field in OWN if field in free} | set(names)
    for field in names:
        have -= set(RIVALS.get(field, ())) - set(names)
    shut = {rival for field in names for rival in RIVALS.get(field, ())}
    found: dict[str, str] = {}

    def take(
        field: str, columns: tuple[str, ...], kind: tuple[type, ...], *, one: bool = False
    ) -> None:
        """Give a field the first of the columns that is there; `one` refuses a choice of several."""
        if field in have | found.keys() | shut:
            return
        there = [c for c in columns if isinstance(free.get(c), kind) and c not in found.values()]
        if one and len(there) > 1:
            raise DataError(
                f"{place}: {' and '.join(map(repr, there))} may each be the {field}. Say which: "
                f"{option(field)} {there[0]}."
            )
        if there:
            found[field] = there[0]

    if not {"chosen", "rejected", "label", "score"} & have:
        for sides in SIDES:
            if all(isinstance(free.get(side), (str, list, dict)) for side in sides):
                found |= dict(zip(("chosen", "rejected"), sides, strict=True))
                break
    pair = {"chosen", "rejected"} <= have | found.keys()
    whole = pair and isinstance(free.get(found.get("chosen", "chosen")), list)
    if "text" not in have and not (whole and len(free[found.get("chosen", "chosen")]) > 1):
        if "completion" not in have:
            take("prompt", TALKS, (list,))
        if not pair and "prompt" not in found:
            take("completion", ANSWERS, (str, list))
        if pair or "completion" in found:
            take("prompt", PROMPTS, (str, list))
        if not {"prompt", "completion"} & (have | found.keys()) and not pair:
            take("text", TEXTS[:-2], (str,), one=True)
            take("text", TEXTS[-2:], (str,), one=True)
            if "text" not in found:
                take("prompt", PROMPTS, (str, list))
    if not pair and not {"label", "score"} & have:
        numeric = [c for c in LABELS if isinstance(free.get(c), float) and not free[c].is_integer()]
        classes = tuple(c for c in LABELS if c not in numeric)
        take("label", classes, (str, int, float), one=True)
        if "label" not in found:
            take("score", (*SCORES, *numeric), (int, float), one=True)
    return found


def renamed(
    record: Record, columns: Mapping[str, str], named: Mapping[str, str], place: str
) -> Record:
    """Return a record with its columns under the names of the fields that they hold.

    Raises
    ------
    DataError
        When a column that the user named is not there.
    """
    absent = [field for field, column in named.items() if record.get(column) is None]
    for field in absent:
        there = ", ".join(map(repr, record)) or "none"
        what = "is empty" if named[field] in record else f"is not there (its columns: {there})"
        raise DataError(f"{place}: the column {named[field]!r} of {option(field)} {what}.")
    shut = {rival for field in named for rival in RIVALS.get(field, ())} - columns.keys()
    moved = {
        field: record[column] for field, column in columns.items() if record.get(column) is not None
    }
    kept = {k: v for k, v in record.items() if k not in {*columns.values(), *shut, *moved}}
    return {**moved, **kept}


def own_rows(record: Record) -> Iterator[Record]:
    """Yield a renamed record with conversations of every style as messages, and what goes before a prompt."""
    row = dict(record)
    for field in ("prompt", "completion", "chosen", "rejected", "text"):
        if field in row:
            row[field] = turns_of(row[field])
    if isinstance(row.get("text"), list):
        row["prompt"] = row.pop("text")
    completion = row.get("completion")
    if "prompt" not in row and isinstance(completion, list) and len(completion) > 1:
        row["prompt"] = row.pop("completion")  # a whole conversation: its last turn is the answer
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        if isinstance(more := row.get("input"), str) and more.strip():  # instruction, input, output
            row["prompt"] = prompt = f"{prompt}\n\n{more}"
        system = row.get("system") or row.get("system_prompt")
        if isinstance(system, str) and system.strip():
            row["prompt"] = [
                {"role": "system", "content": system}, {"role": "user", "content": prompt},
            ]  # fmt: skip
    yield row


def turns_of(value: Any) -> Any:  # noqa: ANN401 - a field of any type
    """Return a conversation as messages: those of ShareGPT, parts of text, one turn; else the value."""
    if isinstance(value, dict) and ({"from", "value"} <= value.keys() or "content" in value):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return value
    return [_turn(turn) for turn in value]


def _turn(turn: Record) -> Record:
    if {"from", "value"} <= turn.keys():
        return {"role": ROLES.get(str(turn["from"]), turn["from"]), "content": turn["value"]}
    content = turn.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return {**turn, "content": "".join(part["text"] for part in content)}
    return turn
