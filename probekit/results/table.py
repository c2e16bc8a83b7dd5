"""Result files: columns and keys declared once, written by one room, read by one reader.

A table is a jsonl file whose row is a `TypedDict` (of typing_extensions, as pydantic asks for on
Python 3.11); a document is a JSON object with a header. Keys beyond the declared ones are kept.
Both are checked by pydantic as they are read, so a text where a number belongs is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config

from probekit.container import atomic_file, jsonable
from probekit.digests import check_file
from probekit.errors import ProbeError
from probekit.parsing import read_json
from probekit.results.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

Ends = Mapping[str, float | None] | None
"""An interval in JSON."""


@dataclass(frozen=True)
class Table:
    """A jsonl file of rows of one type."""

    file: str
    """Its name in the run's directory."""
    row: type
    """A `TypedDict`: keys that must be there, types, and what may be left out (`NotRequired`)."""
    what: str
    """Words for one row: `a prediction`."""
    growing: bool = False
    """Whether it is appended to while the command runs: it may be absent, its last line half written."""
    spread: Mapping[str, str] = field(default_factory=dict)
    """Keys that hold objects, and the prefix of the columns that their keys become."""

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(_open(self.row))

    def lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Return rows as they stand in the file, a line each."""
        return "".join(json.dumps(jsonable(dict(row)), ensure_ascii=False) + "\n" for row in rows)

    def write(self, directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows to the file in a directory, whole or not at all."""
        with atomic_file(directory / self.file) as temporary:
            temporary.write_text(self.lines(rows), encoding="utf-8")

    def read(self, directory: Path, again: str, expected: int | None = None) -> pd.DataFrame:
        """Return the rows of the file in a run's directory as a frame, a column a key.

        Numbers are float64, NaN for null and for what a row lacks. A file that is absent, a line that
        is no such row or another number of rows than expected raises ProbeError with a remedy: what to
        run `again`.
        """
        path = directory / self.file
        if not path.is_file() and not self.growing:
            raise ProbeError(f"{path}: missing, the output is partial. {again}")
        # Only \n ends a row: str.splitlines would also break at the U+2028 a text may hold.
        parts = path.read_bytes().split(b"\n") if path.is_file() else []
        rows = []
        for number, line in enumerate(parts[:-1] if self.growing else parts, start=1):
            if not line.strip():
                continue
            try:
                rows.append(self._adapter.validate_json(line))
            except ValidationError as error:
                what = f"{path}:{number}: not {self.what} row ({reason(error)})"
                raise ProbeError(f"{what}. {again}") from error
        check_file(path, ProbeError, again)
        if len(rows) != (len(rows) if expected is None else expected):
            raise ProbeError(
                f"{path}: has {len(rows)} rows, expected {expected}; the file is partial or from "
                f"another run. {again}"
            )
        return self.frame(rows)

    def in_memory(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Return rows as the frame that `read` gives of them once they are written."""
        lines = self.lines(rows).split("\n")
        return self.frame([self._adapter.validate_json(line) for line in lines if line])

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Return rows, checked, as `read` does."""
        import pandas as pd

        keys = dict.fromkeys([*self.row.__annotations__, *(key for row in rows for key in row)])
        frame = pd.DataFrame(rows, columns=list(keys))
        for name in keys:
            if frame[name].map(lambda v: v is None or isinstance(v, (int, float))).all():
                numbers = pd.to_numeric(frame[name])
                frame[name] = numbers if numbers.dtype.kind in "ib" else numbers.astype(float)
        for name, prefix in self.spread.items():
            objects = [value if isinstance(value, dict) else {} for value in frame.pop(name)]
            columns = pd.DataFrame(objects, index=frame.index).add_prefix(prefix)
            frame = pd.concat([frame, columns], axis=1)
        return frame


def measured(of: Sequence[str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return `metrics` of a run: a row's keys `of`, its measure, and the interval, as JSON or as it is."""
    import pandas as pd

    values = [(*keys, *Interval.from_json(ends)) for *keys, ends in rows]
    return pd.DataFrame(values, columns=[*of, "measure", *Interval._fields])


@dataclass(frozen=True)
class Document:
    """The JSON object at the heart of a command's output."""

    command: str
    words: str
    """What the command leaves: `a fit`."""
    file: str
    format: str | None
    """Its header, with the version; None: the file is a run record, told by its key `command`."""
    version: int
    content: type
    """A `TypedDict` of keys that readers need, with their types."""

    @property
    def again(self) -> str:
        """The remedy for a damaged output."""
        return f"Run probekit {self.command} again with --force."

    @property
    def give(self) -> str:
        """The remedy for a directory that is none."""
        return f"Give the directory that probekit {self.command} wrote to --out."

    @property
    def header(self) -> dict[str, Any]:
        """The keys that the writer puts first."""
        return {"format": self.format, "format_version": self.version, "complete": True}

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(_open(self.content))

    def read(self, directory: Path) -> dict[str, Any]:
        """Return the object in a run's directory, its header and its values checked.

        Raises ProbeError when it is missing, partial, damaged, foreign or newer.
        """
        path = directory / self.file
        if not path.is_file():
            lacks = f"has no {self.file}" if directory.is_dir() else "no such directory"
            raise ProbeError(
                f"{directory}: {lacks}, expected the output of {self.words}. {self.give}"
            )
        value = read_json(path, ProbeError, self.again)
        self._check_header(path, value)
        try:
            return dict(self._adapter.validate_python(value))
        except ValidationError as error:
            raise ProbeError(f"{path}: {reason(error)}. {self.again}") from error

    def _check_header(self, path: Path, value: dict[str, Any]) -> None:
        own = ("command", self.command) if self.format is None else ("format", self.format)
        if value.get(own[0]) != own[1]:
            got = f"{own[0]} is {value.get(own[0])!r}, expected {own[1]!r}"
            raise ProbeError(f"{path}: {got}. {self.give}")
        if self.format is None:
            return
        version = value.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool):
            got = f"format_version is {version!r}, expected a number"
            raise ProbeError(f"{path}: {got}. {self.again}")
        if version > self.version:
            got = f"format version is {version}, this probekit reads up to {self.version}"
            raise ProbeError(f"{path}: {got}. Upgrade probekit.")
        if value.get("complete", True) is not True:
            got = "the command did not finish, the file is partial"
            raise ProbeError(f"{path}: {got}. {self.again}")


def reason(error: ValidationError) -> str:
    """Return pydantic's first complaint as one clause: where, what was found, what was expected."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"key {place!r} is missing, the file is partial or damaged"
    if first["type"] == "json_invalid":
        return "not JSON, the file is partial or damaged"
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{place or 'the row'} holds a value of the wrong type: got {shown}, {message}"


def numbers(*texts: str) -> AfterValidator:
    """Return a check for objects whose keys are not declared one by one: only `texts` hold text.

    A page formats the others as numbers; a text there is from a file that probekit did not write.
    """

    def check(value: Any, place: str = "") -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, str):
            raise ValueError(f"{place.lstrip('.')} is text where a number belongs")
        items = value.items() if isinstance(value, dict) else ()
        for key, item in enumerate(value) if isinstance(value, list) else items:
            if key not in texts:
                check(item, f"{place}.{key}")
        return value

    return AfterValidator(lambda value: check(value))


def _open(row: type) -> type:
    """Return a `TypedDict` that keeps keys which it does not declare."""
    return with_config(ConfigDict(extra="allow"))(row)
