"""Read the output directory of a command part by part, with one line for whatever is wrong with it.

Shared by the reports: what differs between a fit and a steering run is in a `Kind`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from probekit.container import atomic_file, refuse_existing
from probekit.errors import OutputError, ProbeError

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Kind:
    """What a command's output is called and how it is told apart."""

    command: str
    """Its name: `fit` or `steer`."""
    words: str
    """What it leaves, in words: `a fit`, `a steering run`."""
    file: str
    """The JSON file at its heart."""
    format: str
    version: int
    """The newest that is read."""

    @property
    def again(self) -> str:
        """The remedy for a damaged output."""
        return f"Run probekit {self.command} again with --force."

    @property
    def give(self) -> str:
        """The remedy for a directory that is none."""
        return f"Give the directory that probekit {self.command} wrote to --out."

    def read(self, directory: Path) -> dict[str, Any]:
        """Return the JSON object at the heart of the output, its header checked."""
        expected = f"expected the output of {self.words}"
        if not directory.is_dir():
            raise ProbeError(f"{directory}: no such directory, {expected}. {self.give}")
        path = directory / self.file
        if not path.is_file():
            raise ProbeError(f"{directory}: has no {self.file}, {expected}. {self.give}")
        value = self.read_json(path)
        self._check_header(path, value)
        return value

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return the JSON object in a file."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ProbeError(
                f"{path}:{error.lineno}: not JSON ({error.msg}), the file is partial or damaged. "
                f"{self.again}"
            ) from error
        except UnicodeDecodeError as error:
            raise ProbeError(
                f"{path}: not UTF-8 text, the file is damaged. {self.again}"
            ) from error
        if not isinstance(value, dict):
            raise ProbeError(
                f"{path}: got a {type(value).__name__}, expected an object. {self.again}"
            )
        return value

    def read_rows(
        self, path: Path, parse: Callable[[Any], _Read], what: str, *, growing: bool = False
    ) -> list[_Read]:
        """Return the rows of a jsonl file; `what` names one, as in `not a prediction row`.

        A `growing` file is appended to while the command runs: one that was killed may not have
        begun it, or may leave a last row without its end, which is left out.
        """
        if growing and not path.is_file():
            return []
        if not path.is_file():
            raise ProbeError(
                f"{path}: missing, the output of this {self.words.split()[-1]} is partial. "
                f"{self.again}"
            )
        found = []
        # Only \n ends a row: str.splitlines would also break at the U+2028 a text may hold.
        lines = path.read_bytes().split(b"\n")
        if growing:
            lines = lines[:-1]
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found.append(parse(json.loads(line)))
            except KeyError as error:
                raise ProbeError(
                    f"{path}:{number}: key {error.args[0]!r} is missing, the file is damaged. "
                    f"{self.again}"
                ) from error
            except (ValueError, TypeError, AttributeError) as error:
                raise ProbeError(
                    f"{path}:{number}: not a {what} row ({error}), the file is partial or "
                    f"damaged. {self.again}"
                ) from error
        return found

    def whole(self, path: Path, read: Callable[[], _Read]) -> _Read:
        """Return what `read` makes of the file's values, or say which one it can not use."""
        try:
            return read()
        except KeyError as error:
            raise ProbeError(
                f"{path}: key {error.args[0]!r} is missing, the file is partial or damaged. "
                f"{self.again}"
            ) from error
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise ProbeError(
                f"{path}: holds a value of the wrong type ({error}). {self.again}"
            ) from error

    def _check_header(self, path: Path, value: dict[str, Any]) -> None:
        if value.get("format") != self.format:
            raise ProbeError(
                f"{path}: format is {value.get('format')!r}, expected {self.format!r}. {self.give}"
            )
        version = value.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise ProbeError(
                f"{path}: format_version is {version!r}, expected a number. {self.again}"
            )
        if version > self.version:
            raise ProbeError(
                f"{path}: format version is {version}, this probekit reads up to {self.version}. "
                "Upgrade probekit."
            )
        if value.get("complete", True) is not True:
            words = self.words.split()[-1]
            raise ProbeError(
                f"{path}: the {words} did not finish, the file is partial. {self.again}"
            )


def json_number(value: Any) -> float:  # noqa: ANN401 - a JSON value
    """Return a JSON number, NaN for null."""
    return math.nan if value is None else float(value)


def write_page(
    directory: Path, render: Callable[[], str], *, out: Path | None, force: bool
) -> Path:
    """Write what `render` returns to `out`, `report.html` in the directory by default.

    Raises
    ------
    OutputError
        When `out` exists and `force` is not set, or can not be written.
    """
    path = Path(out) if out is not None else directory / "report.html"
    if path.is_dir():
        raise OutputError(f"{path}: is a directory, expected a file. Give a name ending in .html.")
    refuse_existing(path, force=force)
    text = render()
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
