"""Rows that are in memory: lists of dicts, `datasets.Dataset`, pandas and polars frames, as records."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from probekit.data.rows import Example, Message
from probekit.errors import DataError

Rows: TypeAlias = Any
"""A list of dicts (or of texts, for prompts), a `datasets.Dataset`, a pandas or a polars frame."""
NAME = "rows in memory"
EXPECTED = (
    "Expected a path, hf:NAME, demo:NAME, a list of dicts, a datasets.Dataset, or a pandas or polars "
    "frame."
)


def kept(source: Rows) -> Rows:
    """Return rows that can be read more than once: what can be read once only becomes a list."""
    if isinstance(source, (str, Path)):
        return str(source)
    return list(source) if isinstance(source, Iterator) else source


def name_of(source: Rows) -> str:
    """Return what messages and records call a source."""
    return source if isinstance(source, str) else NAME


def read_memory(
    source: Rows, wanted: Collection[str], *, text_is: str = "prompt"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row as plain Python values with its place, `rows[0]`; of a table nothing that is empty.

    Parameters
    ----------
    source
        The rows.
    wanted
        Columns to read of a `datasets.Dataset`: decoding others, such as images, would take long.
    text_is
        Field that a row is which is a text alone.

    Raises
    ------
    DataError
        When it is nothing that holds rows, or a row is none.
    """
    for index, row in enumerate(_rows(source, wanted)):
        if isinstance(row, str):
            row = {text_is: row}
        if not isinstance(row, Mapping):
            raise DataError(f"rows[{index}]: is a {type(row).__name__}, expected a dict of fields.")
        yield f"rows[{index}]", {str(key): plain(value) for key, value in row.items()}


def _rows(source: Rows, wanted: Collection[str]) -> Iterator[Any]:
    kind = type(source).__module__.partition(".")[0]
    if kind == "pandas" and hasattr(source, "columns"):
        names, nothing = list(source.columns), sys.modules["pandas"].isna
        for values in source.itertuples(index=False, name=None):
            yield {n: v for n, v in zip(names, values, strict=True) if not _is(nothing, v)}
    elif kind == "polars" and hasattr(source, "iter_rows"):
        for row in source.iter_rows(named=True):
            yield {name: value for name, value in row.items() if value is not None}
    elif kind == "datasets" and isinstance(source, Mapping):
        raise DataError(f"rows: are split into {', '.join(source)}. Give one split, rows['train'].")
    elif kind == "datasets" and hasattr(source, "with_format"):
        names = source.column_names or []
        if any(name not in wanted for name in names):
            source = source.select_columns([name for name in names if name in wanted])
        for row in source.with_format(None):
            yield {name: value for name, value in row.items() if value is not None}
    elif isinstance(source, Iterable) and not isinstance(source, (str, bytes, Mapping)):
        yield from source
    else:
        raise DataError(f"rows: got a {type(source).__name__}. {EXPECTED}")


def _is(nothing: Any, value: Any) -> bool:  # noqa: ANN401 - pandas.isna, and a cell
    """Return whether a cell of a pandas frame is empty; one that holds a list is not."""
    return value is None or (not hasattr(value, "__len__") and bool(nothing(value)))


def plain(value: Any) -> Any:  # noqa: ANN401 - any value of a table
    """Return a value as JSON has it: arrays as lists, NumPy's and torch's numbers as Python's."""
    if isinstance(value, (str, int, float, type(None))) and type(value).__module__ == "builtins":
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str):  # numpy's
        return str(value)
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def row_of(unit: Sequence[Example]) -> dict[str, Any]:
    """Return an example, or both sides of a pair, as the row that reads as it."""
    first = unit[0]
    row: dict[str, Any] = {"id": first.id}
    if first.prompt is not None:
        row["prompt"] = _prompt(first.prompt)
    if first.side is not None:
        row |= {str(example.side): example.completion for example in unit}
    elif first.completion is not None:
        row["text" if first.prompt is None else "completion"] = first.completion
    if first.completion_ids is not None:
        row["completion_ids"] = list(first.completion_ids)
    row |= {k: v for k, v in (("label", first.label), ("score", first.score)) if v is not None}
    return {**row, "group": first.group, **({"tags": dict(first.tags)} if first.tags else {})}


def _prompt(turns: tuple[Message, ...]) -> str | list[dict[str, str]]:
    if len(turns) == 1 and turns[0].role == "user" and turns[0].content.strip():
        return turns[0].content
    return [{"role": turn.role, "content": turn.content} for turn in turns]
