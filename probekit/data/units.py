"""`RowReader`: the rows of a source as examples, read again and again under the same rules."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from probekit.data.columns import OWN, renamed
from probekit.data.layouts import Dropped, layout_named, recognise, to_rows
from probekit.data.memory import Rows, name_of
from probekit.data.readers import Record, read_records
from probekit.data.rows import Example
from probekit.data.validate import infer_kind, to_examples, to_texts
from probekit.errors import DataError

TEXTS = "text"
"""Kind of rows of which only the texts are read."""


@dataclass
class RowReader:
    """Reads a source's units again and again under the same rules."""

    source: Rows
    kind: str | None
    layout: str
    columns: Mapping[str, str]
    """Columns of probekit's own fields, named or known."""
    named: Mapping[str, str]
    """Those that the user named."""
    tags: tuple[str, ...]
    split: str
    limit: int | None
    dropped: Counter[str] = field(default_factory=Counter)
    unseen: set[str] = field(default_factory=set)
    """Fields named as tags that no record had yet."""
    fields: dict[str, str] = field(default_factory=dict)
    """What the first row was read from, by field."""

    def units(self) -> Iterator[tuple[str, list[Example]]]:
        """Yield the place and the examples of every row."""
        return itertools.islice(self._all(), self.limit)

    def _all(self) -> Iterator[tuple[str, list[Example]]]:
        self.dropped, self.unseen, number = Counter(), set(self.tags), 0
        records = read_records(
            self.source, split=self.split, more=self.tags, names={**self.columns, **self.named}
        )
        for place, record in records:
            named = {tag: record[tag] for tag in self.tags if tag in record}
            self.unseen -= named.keys()
            for row in self.rows(place, record):
                if isinstance(row, Dropped):
                    self.dropped[row.reason] += 1
                    continue
                number += 1
                if self.kind is None:
                    self.kind = infer_kind(row, place)
                if number == 1:
                    self.fields = {f: self.columns.get(f, f) for f in OWN if f in row}
                    if self.kind == TEXTS:
                        self.fields = {
                            f: c for f, c in self.fields.items() if f not in ("label", "score")
                        }
                if self.kind == TEXTS:
                    yield place, to_texts(row, place, number=number, tags=named)
                else:
                    yield (
                        place,
                        to_examples(row, place, kind=self.kind, number=number, tags=named),  # type: ignore[arg-type]
                    )

    def rows(self, place: str, record: Record) -> list[Record | Dropped]:
        """Return the rows of a record in probekit's own fields."""
        if self.columns:
            record = renamed(record, self.columns, self.named, place)
        try:
            return list(to_rows(record, self.layout))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{place}: does not have the columns of layout {self.layout} "
                f"({type(error).__name__}: {error}). Force another with --layout."
            ) from error

    def check_read(self, n_rows: int) -> None:
        """Refuse a source of which no row is left, or that lacks a field named as a tag."""
        if n_rows == 0:
            raise DataError(
                f"{name_of(self.source)}: every row was left out by layout {self.layout} "
                f"({', '.join(self.dropped)})."
            )
        if self.unseen:
            raise DataError(
                f"{name_of(self.source)}: no row has the field {min(self.unseen)!r} named as a tag. "
                "Expected a top-level field; those inside tags need no --tag."
            )


def reader_of(
    source: Rows,
    names: Mapping[str, str],
    kind: str | None,
    layout: str | None,
    *,
    tags: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
) -> RowReader:
    """Return a reader whose layout and columns are those of the first record.

    Raises
    ------
    DataError
        When the source has no rows, or an option is not one of it.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: expected 1 or more rows.")
    first = next(read_records(source, split=split, more=tags, names=names, look=True), None)
    if first is None:
        raise DataError(f"{name_of(source)}: has no rows. Expected at least one; see docs/data.md.")
    place, record = first
    if layout is not None:
        found, columns = layout_named(layout), dict(names)
        if found.startswith("columns"):
            found, columns = recognise(record, names, place)
    else:
        found, columns = recognise(record, names, place)
    return RowReader(source, kind, found, columns, names, tuple(tags), split, limit)


def canonical(unit: list[Example]) -> bytes:
    """Return what the fingerprint of a data set is made of."""
    values = [
        [
            e.id,
            e.group,
            None if e.prompt is None else [[m.role, m.content] for m in e.prompt],
            e.completion,
            e.label,
            e.score,
            e.side,
            sorted(e.tags.items()),
            *([] if e.completion_ids is None else [e.completion_ids]),
        ]
        for e in unit
    ]
    return json.dumps(values).encode()
