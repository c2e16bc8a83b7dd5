"""Records out of files: jsonl, jsonl.gz, csv, parquet, `hf:` data sets and `demo:` files.

Every reader streams: it yields (place, record) and holds one record, or one batch, in memory.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from probekit.errors import DataError

Record = dict[str, Any]
Placed = tuple[str, Record]
"""Where a record stands (`file:12` or `file: row 12`), and the record."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")


def read_records(source: str, *, split: str = "train") -> Iterator[Placed]:
    """Yield every record of `source` with its place.

    Raises
    ------
    DataError
        When the source is missing, of an unknown type, or damaged at some line.
    """
    if source.startswith("hf:"):
        return _huggingface(source.removeprefix("hf:"), split)
    path = locate(source)
    name = path.name
    if name.endswith(".jsonl") or name.endswith(".jsonl.gz"):
        return _jsonl(path, source)
    if name.endswith(".csv"):
        return _csv(path, source)
    if name.endswith(".parquet"):
        return _parquet(path, source)
    raise DataError(
        f"{source}: unknown file type. Expected {', '.join(SUFFIXES)}, hf:NAME or demo:NAME."
    )


def locate(source: str) -> Path:
    """Return the file that a source names; `demo:NAME` is a file that ships with probekit."""
    if source.startswith("demo:"):
        return demo_path(source.removeprefix("demo:"))
    path = Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{source}: is a folder. Expected a file ({', '.join(SUFFIXES)}).")
    if not path.is_file():
        raise DataError(f"{source}: no such file. Check the path.")
    return path


def demo_path(name: str) -> Path:
    """Return the path of a data set that ships with probekit."""
    folder = Path(str(resources.files("probekit.data") / "demo"))
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        raise DataError(f"demo:{name}: no such demo data. Expected one of {known}.")
    return path


def _jsonl(path: Path, source: str) -> Iterator[Placed]:
    opener = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{source}:{number}", _object(f"{source}:{number}", line)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}:{number + 1}: is not UTF-8 ({error.reason}). Save the file as UTF-8."
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{source}: the gzip stream breaks off after line {number} ({error}). Fetch it again."
        ) from error


def _object(place: str, line: str) -> Record:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{place}: is not valid JSON ({error}). Expected one JSON object a line."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{place}: is a JSON {type(found).__name__}, expected an object.")
    return found


def _csv(path: Path, source: str) -> Iterator[Placed]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = csv.DictReader(handle, strict=True)
            for row in rows:
                place = f"{source}:{rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{place}: has another number of fields than the header "
                        f"({len(rows.fieldnames or ())}). Quote fields that contain commas."
                    )
                # An empty field is an absent one: csv has no null.
                yield place, {key: _number(key, text) for key, text in row.items() if text != ""}
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{source}:{rows.line_num}: is not valid csv ({error}).") from error


def _number(key: str, text: str) -> Any:  # noqa: ANN401 - a csv field
    """Return numbers of the fields that are numbers by their meaning; csv has only text."""
    if key == "label" and text.lstrip("-").isdigit():
        return int(text)
    if key in ("score", "score_chosen", "score_rejected", *HELPSTEER):
        try:
            return float(text)
        except ValueError:
            return text
    return text


HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _parquet(path: Path, source: str) -> Iterator[Placed]:
    import pyarrow.parquet as parquet
    from pyarrow.lib import ArrowException

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=512):
                for record in batch.to_pylist():
                    number += 1
                    kept = {key: value for key, value in record.items() if value is not None}
                    yield f"{source}: row {number}", kept
    except (ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{source}: is not a readable parquet file ({first}).") from error


def _huggingface(name: str, split: str) -> Iterator[Placed]:
    try:
        from datasets import load_dataset, load_dataset_builder  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"hf:{name}: needs the datasets library. Install probekit with the extra hf: "
            "pip install 'probekit[hf]' (in a checkout: pip install -e '.[hf]')."
        ) from error
    path, _, config = name.partition(":")
    try:
        rows = load_dataset(path, config or None, split=split, streaming=True)
        for number, record in enumerate(rows, 1):
            kept = {key: value for key, value in record.items() if value is not None}
            yield f"hf:{name}: row {number}", kept
    except (OSError, ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:200]
        raise DataError(
            f"hf:{name}: could not be read ({first}). Expected org/name[:config] with split {split}."
        ) from error
