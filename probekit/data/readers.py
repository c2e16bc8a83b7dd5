"""Records out of files: json, tables, plain text, parquet, `hf:` data sets and `demo:` files.

Every reader streams: it yields (place, record) and holds one record, or one batch, in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from probekit.data.columns import ALIASED, COMPARED, LABELS, SCORES
from probekit.data.footer import columns_of
from probekit.data.memory import Rows, read_memory
from probekit.data.text_files import (
    LINE,
    Numbers,
    Placed,
    Record,
    read_json,
    read_jsonl,
    read_table,
    read_txt,
)
from probekit.errors import DataError, with_extra
from probekit.foreign import at_home
from probekit.numbers import plain_integer, plain_number

__all__ = ["LINE", "READ", "Placed", "Record", "locate", "read_records"]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")
"""Of text files, each also with .gz behind it."""
EXPECTED = f"{', '.join(SUFFIXES)} (each also .gz), .parquet"
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
READ = {
    "id", "prompt", "completion", "completion_ids", "text", "label", "score", "chosen", "rejected", "group",
    "tags", "instruction", "completions", "source", "response", "score_chosen", "score_rejected", *HELPSTEER,
    *COMPARED,
}  # fmt: skip
"""Columns that some row format or layout has. Of a table no other column is decoded: it may hold images."""
EXPANDED = 256 << 20
"""Bytes that a column of a parquet file may unpack to, however few it has packed."""
BATCH = 256 << 20
"""Bytes that the rows of a batch of a parquet file may share out of a dictionary."""
RATIO = 200
"""Times that a larger one may grow."""
UNREAD = "(a column that is not read)"


def read_records(
    source: Rows,
    *,
    split: str = "train",
    more: Collection[str] = (),
    names: Mapping[str, str] = MappingProxyType({}),
    look: bool = False,
) -> Iterator[Placed]:
    """Yield every record of `source` with its place.

    Parameters
    ----------
    source
        What the user named, or rows in memory.
    split
        Split of a Hugging Face data set.
    more
        Columns to read beside those of `READ`; others of a table are `UNREAD`.
    names
        Columns that hold probekit's own fields, by field.
    look
        Read columns of every name that a field may have, to see which of them are there.

    Raises
    ------
    DataError
        When the source is missing, of an unknown type, or damaged at some line.
    """
    wanted = READ.union(more, names.values(), ALIASED if look else ())
    if not isinstance(source, str):
        return read_memory(source, wanted)
    if source.startswith("hf:"):
        return _huggingface(source.removeprefix("hf:"), split, wanted)
    path = locate(source)
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    if kind in TEXT:
        return TEXT[kind](path, source)
    if kind in (".csv", ".tsv"):
        return read_table(path, source, _numbers(names))
    if name.endswith(".parquet"):
        return _parquet(path, source, wanted)
    raise DataError(f"{source}: unknown file type. Expected {EXPECTED}, hf:NAME or demo:NAME.")


TEXT = {".jsonl": read_jsonl, ".json": read_json, ".txt": read_txt}


def _numbers(names: Mapping[str, str]) -> Numbers:
    """Return the columns that hold numbers by their meaning; a table of text has only text."""
    labels = {"label", *LABELS, *(v for k, v in names.items() if k == "label")}
    scores = {"score", "score_chosen", "score_rejected", *HELPSTEER, *SCORES, *COMPARED}
    scores |= {column for field, column in names.items() if field == "score"}
    return {**dict.fromkeys(scores, plain_number), **dict.fromkeys(labels, plain_integer)}


def locate(source: str) -> Path:
    """Return the file that a source names; `demo:NAME` is a file that ships with probekit."""
    if source.startswith("demo:"):
        return demo_path(source.removeprefix("demo:"))
    path = at_home(source)
    if path.is_dir():
        raise DataError(f"{source}: is a folder. Expected a file ({EXPECTED}).")
    if not path.exists():
        raise DataError(f"{source}: no such file. Check the path.")
    if not path.is_file():
        raise DataError(
            f"{source}: is not a regular file, and it must be read more than once. Save it first."
        )
    return path


def demo_path(name: str) -> Path:
    """Return the path of a data set that ships with probekit."""
    folder = Path(str(resources.files("probekit.data") / "demo"))
    path = at_home(folder / f"{name}.jsonl")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        raise DataError(f"demo:{name}: no such demo data. Expected one of {known}.")
    return path


def _present(record: Record) -> Record:
    """Return the fields that hold something: in a table, null is absent."""
    return {key: value for key, value in record.items() if value is not None}


def _parquet(path: Path, source: str, wanted: Collection[str]) -> Iterator[Placed]:
    import pyarrow.parquet as parquet
    from pyarrow.lib import ArrowException

    number = 0
    try:
        # A buffered stream reads a column page by page; the default holds whole row groups.
        with parquet.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
            names = file.schema_arrow.names
            read = [name for name in names if name in wanted]
            unread = {name: UNREAD for name in names if name not in wanted}
            size = _batch_size(path, source, read)
            for batch in file.iter_batches(batch_size=size, use_threads=False, columns=read):
                for i in range(batch.num_rows):
                    number += 1
                    (record,) = batch.slice(i, 1).to_pylist()
                    yield f"{source}: row {number}", {**_present(record), **unread}
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: row {number}: is not UTF-8 ({error.reason}). Save the text as UTF-8."
        ) from error
    except (ArrowException, OSError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise DataError(f"{source}: is not a readable parquet file ({first}).") from error


def _batch_size(path: Path, source: str, read: Collection[str]) -> int:
    """Return how many rows may be in memory at once, each as long as a whole column's dictionary.

    A file of which a column unpacks to far more than is there is refused before any is unpacked.
    """
    largest = 1
    for name, packed, unpacked in columns_of(path):
        if name in read and unpacked > max(EXPANDED, RATIO * packed):
            raise DataError(
                f"{source}: column {name} unpacks to {unpacked / 1e6:,.0f} MB from "
                f"{packed / 1e6:,.1f} MB, expected {RATIO} times at most. "
                "Write it again as jsonl, if it is to be trusted."
            )
        if name in read:
            largest = max(largest, unpacked)
    return max(1, min(256, BATCH // largest))


def _huggingface(name: str, split: str, wanted: Collection[str]) -> Iterator[Placed]:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise DataError(f"hf:{name}: needs the datasets library. {with_extra('hf')}") from error
    try:
        rows = _hf_rows(datasets, name, split)
        names = rows.column_names or []  # unknown for streamed jsonl, which holds nothing to decode
        unread = {column: UNREAD for column in names if column not in wanted}
        if unread:
            rows = rows.select_columns([column for column in names if column in wanted])
        for number, record in enumerate(rows, 1):
            yield f"hf:{name}: row {number}", {**_present(record), **unread}
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        first = " ".join(str(error).split())[:200]
        raise DataError(
            f"hf:{name}: could not be read ({first}). Expected org/name[:config] or a local folder, "
            f"with split {split}."
        ) from error


def _hf_rows(datasets: Any, name: str, split: str) -> Any:  # noqa: ANN401 - its module and rows
    """Return the rows of a hub id, a local folder of data files, or a `save_to_disk` folder."""
    folder = at_home(name)
    if any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        rows = datasets.load_from_disk(str(folder))  # mapped from disk, not read into memory
        if isinstance(rows, datasets.DatasetDict):
            if split not in rows:
                raise ValueError(f"its splits are {', '.join(rows)}")
            rows = rows[split]
        return rows
    path, config = (str(folder), None) if folder.exists() else _config(name)
    return datasets.load_dataset(path, config, split=split, streaming=True)


def _config(name: str) -> tuple[str, str | None]:
    path, _, config = name.partition(":")
    return path, config or None
