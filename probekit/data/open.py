"""`open_dataset`: validate a whole source in one streaming pass, then stream its examples."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probekit.data.layouts import Dropped, layout_named, recognise, to_rows
from probekit.data.memory import Rows, kept, name_of, row_of
from probekit.data.readers import Record, read_records
from probekit.data.rows import Example, Kind
from probekit.data.validate import infer_kind, to_examples
from probekit.errors import DataError
from probekit.foreign import Shown
from probekit.numbers import in_order

KINDS: tuple[Kind, ...] = ("label", "rating", "pair")


@dataclass(frozen=True, repr=False)
class Dataset(Shown):
    """Validated rows of one source. `examples()` reads the source again, a row at a time.

    A sequence of dicts too, in probekit's own fields: `len(rows)`, `rows[0]["text"]`, `for row in rows`.
    """

    source: str
    """What the user named."""
    kind: Kind
    layout: str
    """Column layout: `probekit`, `ultrafeedback`, `ultrafeedback_binarized`, `hh-rlhf`, `helpsteer` or
    `trl`, with its option after a colon where one was given."""
    n_rows: int
    n_groups: int
    fingerprint: str
    """SHA-256 of the content of all rows, 16 hex digits."""
    dropped: dict[str, int]
    """Rows that the layout left out, by reason (ties, known slips, empty responses)."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, numbers in their order and names in that of text; only for labels. The second
    is the positive one."""
    score_range: tuple[float, float] | None = None
    """Lowest and highest rating."""
    placed: Callable[[], Iterator[tuple[str, list[Example]]]] = field(
        repr=False, default=lambda: iter(())
    )
    """Reads the source again: the place of every row, and its example or both sides of a pair."""

    @property
    def n_dropped(self) -> int:
        """Rows that the layout left out."""
        return sum(self.dropped.values())

    @property
    def n_examples(self) -> int:
        """Texts to run: a pair is two."""
        return self.n_rows * (2 if self.kind == "pair" else 1)

    def examples(self) -> Iterator[Example]:
        """Yield every example in the order of the source."""
        for _, unit in self.placed():
            yield from unit

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[Record]:
        """Yield every row as a dict that reads as the same row."""
        return (row_of(unit) for _, unit in self.placed())

    def __getitem__(self, index: int) -> Record:
        """Return one row; the source is read up to it."""
        at = range(self.n_rows)[index]  # raises IndexError, as a list does
        return next(itertools.islice(self, at, None))

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        found = {"kind": self.kind, "rows": self.n_rows, "groups": self.n_groups}
        more = {"layout": self.layout, "classes": self.classes, "score_range": self.score_range}
        return {"source": self.source, **found, **more, "left_out": self.dropped}


def open_dataset(
    source: str | Path | Rows,
    *,
    kind: str | None = None,
    layout: str | None = None,
    tags: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
) -> Dataset:
    """Open and validate a data source; nothing of it is kept in memory.

    Parameters
    ----------
    source
        A .jsonl, .jsonl.gz, .csv or .parquet file, `hf:org/name[:config]`, `demo:NAME`; or rows in memory:
        a list of dicts, a `datasets.Dataset`, a pandas or polars frame. A `Dataset` is returned as it is.
    kind
        `label`, `rating` or `pair`; inferred from the first row when not given.
    layout
        A public column layout, `NAME` or `NAME:OPTION` (`ultrafeedback:keep-slips`,
        `helpsteer:correctness`); recognised from the first row when not given.
    tags
        Top-level fields to use as tags.
    split
        Split of a Hugging Face data set.
    limit
        Read only the first `limit` rows.

    Raises
    ------
    DataError
        At the first row that is not valid, with its place, what was found and what was expected.

    Examples
    --------
    >>> from probekit.data import open_dataset
    >>> rows = open_dataset([{"text": "a fine day", "label": "good"}, {"text": "hail", "label": "bad"}])
    >>> rows.kind, rows.classes, len(rows), rows[1]["text"]
    ('label', ('bad', 'good'), 2, 'hail')
    """
    if callable(getattr(source, "examples", None)):  # a `Dataset`, or what reads as one
        return source  # type: ignore[return-value]
    source = kept(source)
    name = name_of(source)
    if kind is not None and kind not in KINDS:
        raise DataError(f"kind {kind!r}: unknown. Expected {', '.join(KINDS)}.")
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: expected 1 or more rows.")
    first = next(read_records(source, split=split, more=tags), None)
    if first is None:
        raise DataError(f"{name}: has no rows. Expected at least one; see docs/data.md.")
    layout = recognise(first[1]) if layout is None else layout_named(layout)
    reader = _Reader(source, kind, layout, tuple(tags), split, limit)
    return _survey(reader)


read_rows = open_dataset  # the name it has in `import probekit as pk`


@dataclass
class _Reader:
    """Reads a source's units again and again under the same rules."""

    source: Rows
    kind: str | None
    layout: str
    tags: tuple[str, ...]
    split: str
    limit: int | None
    dropped: Counter[str] = field(default_factory=Counter)
    unseen: set[str] = field(default_factory=set)
    """Fields named as tags that no record had yet."""

    def units(self) -> Iterator[tuple[str, list[Example]]]:
        """Yield the place and the examples of every row."""
        return itertools.islice(self._all(), self.limit)

    def _all(self) -> Iterator[tuple[str, list[Example]]]:
        self.dropped, self.unseen, number = Counter(), set(self.tags), 0
        for place, record in read_records(self.source, split=self.split, more=self.tags):
            named = {tag: record[tag] for tag in self.tags if tag in record}
            self.unseen -= named.keys()
            for row in self._rows(place, record):
                if isinstance(row, Dropped):
                    self.dropped[row.reason] += 1
                    continue
                number += 1
                self.kind = self.kind or infer_kind(row, place)
                yield (
                    place,
                    to_examples(
                        row,
                        place,
                        kind=self.kind,  # type: ignore[arg-type]
                        number=number,
                        tags=named,
                    ),
                )

    def _rows(self, place: str, record: Record) -> list[Record | Dropped]:
        try:
            return list(to_rows(record, self.layout))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{place}: does not have the columns of layout {self.layout} "
                f"({type(error).__name__}: {error}). Force another with --layout."
            ) from error


def _survey(reader: _Reader) -> Dataset:
    """Validate every row and collect what is true of all of them."""
    digest, ids, groups = hashlib.sha256(), set[bytes](), set[bytes]()
    classes: dict[str, str] = {}
    low, high = math.inf, -math.inf
    n_rows, number_types = 0, set[type]()
    for place, unit in reader.units():
        n_rows += 1
        example = unit[0]
        digest.update(_canonical(unit))
        _once(ids, example.id, place)
        groups.add(_short_hash(example.group))
        if example.label is not None:
            number_types.add(type(example.label))
            classes.setdefault(str(example.label), place)
            _two_classes(classes, number_types, place)
        if example.score is not None:
            low, high = min(low, example.score), max(high, example.score)
    if n_rows == 0:
        reasons = ", ".join(reader.dropped)
        raise DataError(
            f"{name_of(reader.source)}: every row was left out by layout {reader.layout} ({reasons})."
        )
    if reader.unseen:
        raise DataError(
            f"{name_of(reader.source)}: no row has the field {min(reader.unseen)!r} named as a tag. "
            "Expected a top-level field; those inside tags need no --tag."
        )
    return Dataset(
        source=name_of(reader.source),
        kind=reader.kind,  # type: ignore[arg-type]
        layout=reader.layout,
        n_rows=n_rows,
        n_groups=len(groups),
        fingerprint=digest.hexdigest()[:16],
        dropped=dict(sorted(reader.dropped.items())),
        classes=tuple(in_order(classes)) if classes else None,
        score_range=(low, high) if low <= high else None,
        placed=reader.units,
    )


def _once(seen: set[bytes], name: str, place: str) -> None:
    key = _short_hash(name)
    if key in seen:
        raise DataError(f"{place}: id {name!r} occurs twice. Ids must be unique; leave them out.")
    seen.add(key)


def _two_classes(classes: dict[str, str], types: set[type], place: str) -> None:
    if len(types) > 1:
        raise DataError(f"{place}: labels are numbers in some rows and names in others.")
    if len(classes) > 2:
        raise DataError(
            f"{place}: a third class ({', '.join(map(repr, classes))}). Expected two classes."
        )


def _canonical(unit: list[Example]) -> bytes:
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


def _short_hash(text: str) -> bytes:
    # 12 bytes a row bound the memory; a clash among a billion rows is 1 in 10^11.
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
