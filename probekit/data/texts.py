"""`open_unlabelled`: the texts of any source, labelled or not, read again and again in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probekit.data.columns import check_names
from probekit.data.memory import Rows, kept, name_of
from probekit.data.rows import Example
from probekit.data.units import TEXTS, canonical, reader_of


@dataclass(frozen=True)
class Texts:
    """Texts of one source, every one of which can be read. `examples()` reads the source again."""

    source: str
    """What the user named."""
    layout: str
    n_rows: int
    n_examples: int
    """Texts: a row with a chosen and a rejected answer has two."""
    fingerprint: str
    """SHA-256 of the content of all texts, 16 hex digits."""
    dropped: dict[str, int]
    """Rows that the layout left out, by reason."""
    fields: dict[str, str]
    """What the first row was read from: probekit's field, then the column that holds it."""
    placed: Callable[[], Iterator[tuple[str, list[Example]]]] = field(repr=False)

    @property
    def understood(self) -> str:
        """What was understood, in a line: fields and rows."""
        parts = [f if f == column else f"{f} = {column}" for f, column in self.fields.items()]
        layout = "" if self.layout == "probekit" else f", layout {self.layout}"
        return f"texts{layout}: {', '.join(parts)}; {self.n_rows:,} rows"

    def examples(self) -> Iterator[Example]:
        """Yield every text in the order of the source."""
        for _, unit in self.placed():
            yield from unit


def open_unlabelled(
    source: str | Path | Rows,
    *,
    layout: str | None = None,
    tags: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
    **fields: str | None,
) -> Texts:
    """Open the texts of a source; labels, ratings and groups are not looked at.

    The source is read once to see that every row has a text, and again for its texts; nothing is kept but
    counts, so there may be any number of rows. Ids are not compared with each other.

    Parameters
    ----------
    source
        What `open_dataset` takes, and .txt files, of which every line is a text.
    layout, tags, split, limit
        As in `open_dataset`.
    **fields
        Columns under other names, `text_field=` and its like, as in `open_dataset`.

    Raises
    ------
    DataError
        At the first row without a text, with its place and what it holds.
    """
    names = check_names({name.removesuffix("_field"): column for name, column in fields.items()})
    names = {field: column for field, column in names.items() if field not in ("label", "score")}
    source = kept(source)
    reader = reader_of(source, names, TEXTS, layout, tags=tags, split=split, limit=limit)
    digest, n_rows, n_examples = hashlib.sha256(), 0, 0
    for _, unit in reader.units():
        digest.update(canonical(unit))
        n_rows, n_examples = n_rows + 1, n_examples + len(unit)
    reader.check_read(n_rows)
    return Texts(
        name_of(source), reader.layout, n_rows, n_examples, digest.hexdigest()[:16],
        dict(sorted(reader.dropped.items())), reader.fields, reader.units,
    )  # fmt: skip
