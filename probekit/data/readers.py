"""Records out of files: jsonl, jsonl.gz, csv, parquet, `hf:` data sets and `demo:` files.

Every reader streams: it yields (place, record) and holds one record, or one batch, in memory.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import IO, Any, cast

from probekit.data.footer import columns_of
from probekit.data.memory import Rows, read_memory
from probekit.errors import DataError, with_extra
from probekit.foreign import at_home
from probekit.numbers import plain_integer, plain_number

Record = dict[str, Any]
Placed = tuple[str, Record]
"""Where a record stands (`file:12` or `file: row 12`), and the record."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
READ = {
    "id", "prompt", "completion", "completion_ids", "text", "label", "score", "chosen", "rejected", "group",
    "tags", "instruction", "completions", "source", "response", "score_chosen", "score_rejected", *HELPSTEER,
}  # fmt: skip
"""Columns that some row format or layout has. Of a table no other column is decoded: it may hold images."""
LINE = 32 << 20
"""Bytes that a line may have."""
EXPANDED = 256 << 20
"""Bytes that a column of a parquet file may unpack to, however few it has packed."""
BATCH = 256 << 20
"""Bytes that the rows of a batch of a parquet file may share out of a dictionary."""
RATIO = 200
"""Times that a larger one may grow."""
UNREAD = "(a column that is not read)"


def read_records(
    source: Rows, *, split: str = "train", more: Collection[str] = ()
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

    Raises
    ------
    DataError
        When the source is missing, of an unknown type, or damaged at some line.
    """
    if not isinstance(source, str):
        return read_memory(source, READ.union(more))
    if source.startswith("hf:"):
        return _huggingface(source.removeprefix("hf:"), split, READ.union(more))
    path = locate(source)
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl(path, source)
    if name.endswith(".csv"):
        return _csv(path, source)
    if name.endswith(".parquet"):
        return _parquet(path, source, READ.union(more))
    hint = " Write a JSON list as one object a line." if name.endswith(".json") else ""
    raise DataError(
        f"{source}: unknown file type. Expected {', '.join(SUFFIXES)}, hf:NAME or demo:NAME.{hint}"
    )


def locate(source: str) -> Path:
    """Return the file that a source names; `demo:NAME` is a file that ships with probekit."""
    if source.startswith("demo:"):
        return demo_path(source.removeprefix("demo:"))
    path = at_home(source)
    if path.is_dir():
        raise DataError(f"{source}: is a folder. Expected a file ({', '.join(SUFFIXES)}).")
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


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror or error}). Check the file."
        ) from error


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    """Yield the lines as text. Decoding one by one names the very line that is not UTF-8."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source}:{number}: is not UTF-8 (byte 0x{line[error.start]:02x}). "
                "Save the file as UTF-8."
            ) from error


def _lines(handle: IO[bytes], source: str) -> Iterator[bytes]:
    """Yield the lines of a stream, none longer than `LINE`: a packed file may hold one of gigabytes."""
    number = 0
    while line := handle.readline(LINE + 1):
        number += 1
        if len(line) > LINE:
            raise DataError(
                f"{source}:{number}: is longer than {LINE >> 20} MiB, the most of a line. Split the row."
            )
        yield line


def _jsonl(path: Path, source: str) -> Iterator[Placed]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    number = 0
    with _readable(source):
        try:
            with opener(path, "rb") as handle:
                lines = _lines(cast(IO[bytes], handle), source)
                for number, line in enumerate(_decoded(lines, source), 1):
                    if line.strip():
                        yield f"{source}:{number}", _object(f"{source}:{number}", line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = f"breaks off after line {number}" if number else "cannot be read"
            raise DataError(
                f"{source}: the gzip stream {what} ({error}). Fetch the file again."
            ) from error


def _object(place: str, line: str) -> Record:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: is not valid JSON ({error.msg} at column {error.colno}). "
            "Expected one JSON object a line."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 nested lists
        raise DataError(
            f"{place}: holds JSON that cannot be read ({error}). Remove the row."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{place}: is a JSON {type(found).__name__}, expected an object.")
    return found


def _csv(path: Path, source: str) -> Iterator[Placed]:
    with _readable(source), path.open("rb") as handle:
        rows = csv.DictReader(_decoded(_lines(handle, source), source), strict=True)
        try:
            twice = [name for name, n in Counter(rows.fieldnames or ()).items() if n > 1]
            if twice:
                raise DataError(f"{source}:1: has the column {twice[0]!r} twice. Rename one.")
            for row in rows:
                place = f"{source}:{rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{place}: has another number of fields than the header "
                        f"({len(rows.fieldnames or ())}). Quote fields that contain commas."
                    )
                # An empty field is an absent one: csv has no null.
                yield place, {key: _number(key, text) for key, text in row.items() if text != ""}
        except csv.Error as error:
            raise DataError(f"{source}:{rows.line_num}: is not valid csv ({error}).") from error


def _number(key: str, text: str) -> Any:  # noqa: ANN401 - a csv field
    """Return numbers of the fields that are numbers by their meaning; csv has only text."""
    number: float | None = None
    if key == "label":
        number = plain_integer(text)
    if key in ("score", "score_chosen", "score_rejected", *HELPSTEER):
        number = plain_number(text)
    return text if number is None else number


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
