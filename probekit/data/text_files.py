"""Records out of text files: json lines, json arrays, tables of separated values, plain text."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from probekit.errors import DataError

Record = dict[str, Any]
Placed = tuple[str, Record]
"""Where a record stands (`file:12` or `file: row 12`), and the record."""
Numbers = Mapping[str, Callable[[str], float | None]]
"""Columns of a table that hold numbers, and how one is read out of text."""

LINE = 32 << 20
"""Bytes that a line may have."""
PACKED = (EOFError, gzip.BadGzipFile, zlib.error)
"""Errors of a damaged gzip stream."""
SEPARATORS = ",;\t|"


@contextlib.contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn errors of the file system into one line."""
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
    try:
        while line := handle.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise DataError(
                    f"{source}:{number}: is longer than {LINE >> 20} MiB, the most of a line. Split the row."
                )
            yield line
    except PACKED as error:
        what = f"breaks off after line {number}" if number else "cannot be read"
        raise DataError(
            f"{source}: the gzip stream {what} ({error}). Fetch the file again."
        ) from error


@contextlib.contextmanager
def _bytes(path: Path, source: str) -> Iterator[IO[bytes]]:
    """Open a file, unpacked where its name ends with .gz."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with readable(source):
        try:
            with opener(path, "rb") as handle:
                yield cast(IO[bytes], handle)
        except PACKED as error:
            raise DataError(
                f"{source}: the gzip stream cannot be read ({error}). Fetch the file again."
            ) from error


def read_jsonl(path: Path, source: str) -> Iterator[Placed]:
    """Yield one JSON object a line."""
    with _bytes(path, source) as handle:
        for number, line in enumerate(_decoded(_lines(handle, source), source), 1):
            if line.strip():
                yield f"{source}:{number}", _object(f"{source}:{number}", line)


def read_txt(path: Path, source: str) -> Iterator[Placed]:
    """Yield every line that is not empty as a text."""
    with _bytes(path, source) as handle:
        for number, line in enumerate(_decoded(_lines(handle, source), source), 1):
            if line.strip():
                yield f"{source}:{number}", {"text": line.rstrip("\r\n")}


def read_json(path: Path, source: str) -> Iterator[Placed]:
    """Yield the objects of an array, one in memory at a time; a file of one object a line is one too."""
    with _bytes(path, source) as handle:
        first = next((c for c in iter(lambda: handle.read(1), b"") if not c.isspace()), b"")
        if first == b"\xef":  # a byte order mark
            handle.read(2)
            first = next((c for c in iter(lambda: handle.read(1), b"") if not c.isspace()), b"")
        if first == b"[":
            yield from _array(handle, source)
            return
    if first == b"{":
        yield from read_jsonl(path, source)
    elif first:
        raise DataError(f"{source}: is neither a JSON array nor one JSON object a line.")


def _array(handle: IO[bytes], source: str) -> Iterator[Placed]:
    """Yield the objects of an array whose bracket has been read."""
    decode, decoder = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    text, number, size, ended = "", 0, 1 << 16, False
    while True:
        text = text.lstrip(" \t\r\n") if number == 0 else text.lstrip(" \t\r\n,")
        place = f"{source}: row {number + 1}"
        if text.startswith("]"):
            return
        problem = "it breaks off"
        if text:
            try:
                found, end = decoder.raw_decode(text)
            except (ValueError, RecursionError) as error:
                problem = str(error)
            else:
                if not isinstance(found, dict):
                    raise DataError(
                        f"{place}: is a JSON {type(found).__name__}, expected an object."
                    )
                text, number, size = text[end:], number + 1, 1 << 16
                yield place, found
                continue
        if ended or len(text) > LINE:
            what = problem if ended else f"it is longer than {LINE >> 20} MiB"
            raise DataError(
                f"{place}: cannot be read as JSON ({what}). Expected an array of objects."
            )
        try:
            read = handle.read(size)
            ended, size = not read, size * 2  # a long object is not tried again too often
            text += decode.decode(read, final=not read)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{place}: is not UTF-8 ({error.reason}). Save the file as UTF-8."
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


def read_table(path: Path, source: str, numbers: Numbers) -> Iterator[Placed]:
    """Yield the rows below a header; the separator is the one that divides the header most.

    An empty field is an absent one, for such files have no null; only `numbers` are not text.
    """
    with _bytes(path, source) as handle:
        lines = _decoded(_lines(handle, source), source)
        header = next(lines, "")
        sign = max(SEPARATORS, key=lambda sign: len(_cells(header, sign)))
        rows = csv.DictReader(_first(header, lines), strict=True, delimiter=sign)
        try:
            twice = [name for name, n in Counter(rows.fieldnames or ()).items() if n > 1]
            if twice:
                raise DataError(f"{source}:1: has the column {twice[0]!r} twice. Rename one.")
            for row in rows:
                place = f"{source}:{rows.line_num}"
                if None in row or None in row.values():
                    what = {",": "commas", "\t": "tabs"}.get(sign, repr(sign))
                    raise DataError(
                        f"{place}: has another number of fields than the header "
                        f"({len(rows.fieldnames or ())}). Quote fields that contain {what}."
                    )
                yield place, {k: _number(k, v, numbers) for k, v in row.items() if v != ""}
        except csv.Error as error:
            raise DataError(f"{source}:{rows.line_num}: is not valid csv ({error}).") from error


def _cells(header: str, sign: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=sign), [])
    except csv.Error:  # its reader says so
        return []


def _first(header: str, lines: Iterator[str]) -> Iterator[str]:
    if header:
        yield header
    yield from lines


def _number(key: str, text: str, numbers: Numbers) -> Any:  # noqa: ANN401 - a field of a table
    number = numbers[key](text) if key in numbers else None
    return text if number is None else number
