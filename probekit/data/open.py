"""`open_dataset`: validate a whole source in one streaming pass, then stream its examples."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probekit.data.columns import check_names
from probekit.data.memory import Rows, kept, name_of, row_of
from probekit.data.readers import Record
from probekit.data.rows import Example, Kind
from probekit.data.units import RowReader, canonical, reader_of
from probekit.errors import DataError
from probekit.foreign import Shown
from probekit.numbers import in_order

KINDS: tuple[Kind, ...] = ("label", "rating", "pair")
SHOWN = 8
"""Names of classes that a message shows."""


@dataclass(frozen=True, repr=False)
class Dataset(Shown):
    """Validated rows of one source. `examples()` reads the source again, a row at a time.

    A sequence of dicts too, in probekit's own fields: `len(rows)`, `rows[0]["text"]`, `for row in rows`.
    """

    source: str
    """What the user named."""
    kind: Kind
    layout: str
    """Column layout: `probekit`, `columns`, or one of the public ones of docs/data.md, with its option after
    a colon where one was given."""
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
    fields: Mapping[str, str] = field(default_factory=dict)
    """What the first row was read from: probekit's field, then the column that holds it."""
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

    @property
    def understood(self) -> str:
        """What was understood, in a line: kind, fields, classes, rows and groups."""
        parts = [f if f == column else f"{f} = {column}" for f, column in self.fields.items()]
        layout = "" if self.layout == "probekit" else f", layout {self.layout}"
        classes = f"; classes {', '.join(self.classes)}" if self.classes else ""
        if self.classes and len(self.classes) == 2:  # noqa: PLR2004
            classes += f" (positive: {self.classes[1]})"
        rows = f"{self.n_rows:,} rows in {self.n_groups:,} groups"
        return f"{self.kind}{layout}: {', '.join(parts)}{classes}; {rows}"

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
        found: dict[str, object] = {"kind": self.kind, "rows": self.n_rows, "groups": self.n_groups}
        columns = {field: column for field, column in self.fields.items() if field != column}
        found |= {"layout": self.layout, "columns": columns}
        more = {"classes": self.classes, "score_range": self.score_range}
        return {"source": self.source, **found, **more, "left_out": self.dropped}


def open_dataset(
    source: str | Path | Rows,
    *,
    kind: str | None = None,
    layout: str | None = None,
    tags: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
    positive: str | None = None,
    several: bool = False,
    text_field: str | None = None,
    label_field: str | None = None,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    score_field: str | None = None,
    chosen_field: str | None = None,
    rejected_field: str | None = None,
    group_field: str | None = None,
) -> Dataset:
    """Open and validate a data source; nothing of it is kept in memory.

    Parameters
    ----------
    source
        A .jsonl, .json, .csv, .tsv or .parquet file, `hf:org/name[:config]`, `demo:NAME`; or rows in memory:
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
    positive
        Class that is told from the others, class 1; needed where there are three or more. Those are one
        class then, `not NAME`.
    several
        Keep three or more classes as they are, in place of refusing them.
    text_field, label_field, prompt_field, completion_field
        Columns that hold these fields, where they have other names than the usual ones.
    score_field, chosen_field, rejected_field, group_field
        The same.

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
    if kind is not None and kind not in KINDS:
        raise DataError(f"kind {kind!r}: unknown. Expected {', '.join(KINDS)}.")
    if isinstance(source, str) and source.lower().endswith((".txt", ".txt.gz")):
        raise DataError(
            f"{source}: is plain text, which has no labels, ratings or preferences. probekit score reads it."
        )
    names = check_names(
        {
            "text": text_field, "label": label_field, "prompt": prompt_field,
            "completion": completion_field, "score": score_field, "chosen": chosen_field,
            "rejected": rejected_field, "group": group_field,
        }
    )  # fmt: skip
    return _survey(
        reader_of(source, names, kind, layout, tags=tags, split=split, limit=limit),
        positive,
        several=several,
    )


read_rows = open_dataset  # the name it has in `import probekit as pk`


def _survey(reader: RowReader, positive: str | None, *, several: bool) -> Dataset:
    """Validate every row and collect what is true of all of them."""
    digest, ids, groups = hashlib.sha256(), set[bytes](), set[bytes]()
    classes: dict[str, str] = {}
    low, high = math.inf, -math.inf
    n_rows, number_types = 0, set[type]()
    for place, unit in reader.units():
        n_rows += 1
        example = unit[0]
        digest.update(canonical(unit))
        _once(ids, example.id, place)
        groups.add(_short_hash(example.group))
        if example.label is not None:
            number_types.add(type(example.label))
            if len(number_types) > 1:
                raise DataError(f"{place}: labels are numbers in some rows and names in others.")
            if len(classes) <= SHOWN:
                classes.setdefault(str(example.label), place)
        if example.score is not None:
            low, high = min(low, example.score), max(high, example.score)
    reader.check_read(n_rows)
    if several and positive is None and 2 < len(classes) <= SHOWN:  # noqa: PLR2004
        known: tuple[tuple[str, ...] | None, str | None] = (tuple(in_order(classes)), None)
    else:
        known = _classes(classes, positive, name_of(reader.source), reader.kind)
    names, rest = known
    if positive is not None:
        digest.update(positive.encode())
    placed = reader.units if rest is None else _against_rest(reader.units, str(positive), rest)
    return Dataset(
        source=name_of(reader.source),
        kind=reader.kind,  # type: ignore[arg-type]
        layout=reader.layout,
        n_rows=n_rows,
        n_groups=len(groups),
        fingerprint=digest.hexdigest()[:16],
        dropped=dict(sorted(reader.dropped.items())),
        classes=names,
        score_range=(low, high) if low <= high else None,
        fields=reader.fields,
        placed=placed,
    )


def _classes(
    found: Mapping[str, str], positive: str | None, source: str, kind: str | None
) -> tuple[tuple[str, ...] | None, str | None]:
    """Return the classes, the positive one second, and what the others are called where they are several."""
    names = in_order(found)
    if positive is None:
        if len(names) > 2:  # noqa: PLR2004
            place = list(found.values())[2]
            raise DataError(
                f"{place}: a third class ({_shown(names)}). Say which is to be told from the others: "
                "--positive NAME."
            )
        return tuple(names) or None, None
    if kind != "label":
        raise DataError(f"{source}: --positive {positive}: {kind} rows have no classes.")
    if positive not in names and len(names) <= SHOWN:
        raise DataError(f"{source}: --positive {positive}: the classes are {_shown(names)}.")
    others = [name for name in names if name != positive]
    rest = others[0] if len(others) == 1 else f"not {positive}"
    return ((rest, positive) if others else (positive,)), rest if len(others) > 1 else None


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (" and more" if len(names) > SHOWN else "")


def _against_rest(
    units: Callable[[], Iterator[tuple[str, list[Example]]]], positive: str, rest: str
) -> Callable[[], Iterator[tuple[str, list[Example]]]]:
    """Return a reader of the same rows, of which every other class is `rest`."""

    def read() -> Iterator[tuple[str, list[Example]]]:
        for place, (example,) in units():
            label = positive if str(example.label) == positive else rest
            yield place, [dataclasses.replace(example, label=label)]

    return read


def _once(seen: set[bytes], name: str, place: str) -> None:
    key = _short_hash(name)
    if key in seen:
        raise DataError(f"{place}: id {name!r} occurs twice. Ids must be unique; leave them out.")
    seen.add(key)


def _short_hash(text: str) -> bytes:
    # 12 bytes a row bound the memory; a clash among a billion rows is 1 in 10^11.
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
