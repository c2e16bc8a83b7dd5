"""The one guarded place where files that probekit wrote are parsed: JSON, TOML, safetensors.

Whatever is wrong with a file ends in one line that names it and the remedy, never in a traceback: broken
syntax, another type at the top, nesting without end, NaN, text that is not UTF-8, a cut or damaged
tensor file. Users' own rows are read by `data.readers`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probekit.digests import SEAL, check_file, seal_fits
from probekit.errors import OutputError, ProbekitError

CHANGED = (
    f"does not fit its checksum, it was damaged or changed (by hand? Then take out its {SEAL})"
)
DEPTH = 100
"""Nesting of tables and lists that a TOML file may have."""


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value.

    Raises
    ------
    ValueError
        When it is no JSON, not UTF-8, nested too deep, or holds NaN or infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, line {error.lineno})") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_json(path: Path, error: type[ProbekitError], again: str) -> dict[str, Any]:
    """Return the JSON object in a file, without its seal.

    Parameters
    ----------
    path
        The file.
    error
        Class of what is raised.
    again
        The remedy, a sentence.

    Raises
    ------
    ProbekitError
        When the file is absent, no JSON object, or not what was sealed.
    """
    value = object_of(_bytes(path, error, again), str(path), error, again)
    if seal_fits(value) is False:
        raise error(f"{path}: {CHANGED}. {again}")
    value.pop(SEAL, None)
    return value


def object_of(
    text: str | bytes, place: str, error: type[ProbekitError], again: str
) -> dict[str, Any]:
    """Return the JSON object in a text; see `read_json`."""
    try:
        value = parse_json(text)
    except ValueError as cause:
        raise error(f"{place}: {cause}, the file is partial or damaged. {again}") from cause
    if not isinstance(value, dict):
        raise error(f"{place}: got a {type(value).__name__}, expected an object. {again}")
    return value


def read_jsonl(
    path: Path, error: type[ProbekitError] = OutputError, again: str = "Make the file again."
) -> list[dict[str, Any]]:
    """Return the rows of a file that probekit wrote itself, without the row that seals them.

    Raises
    ------
    ProbekitError
        When the file is absent, a line is no JSON object, or the rows are not what was sealed.
    """
    # Not splitlines(): it also breaks at U+2028 and the like, which a text may hold.
    lines = _bytes(path, error, again).split(b"\n")
    check_file(path, error, again)
    rows = [
        object_of(line, f"{path}:{number}", error, again)
        for number, line in enumerate(lines, 1)
        if line
    ]
    if rows and len(rows[-1]) == 1 and seal_fits(rows[-1]) is not None:
        seal = rows.pop()
        if not seal_fits({"rows": rows, **seal}):
            raise error(f"{path}: {CHANGED}. {again}")
    return rows


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text.

    Raises
    ------
    ValueError
        When it is no TOML, nested deeper than `DEPTH`, or holds NaN or infinity.
    """
    try:
        table = tomllib.loads(text)
        _check_values(table, DEPTH)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return table


def read_toml(path: Path, error: type[ProbekitError], again: str) -> dict[str, Any]:
    """Return the table of a TOML file.

    Raises
    ------
    ProbekitError
        When the file cannot be read, is no TOML, or is nested too deep.
    """
    try:
        return parse_toml(_bytes(path, error, again).decode("utf-8-sig"))
    except ValueError as cause:
        raise error(f"{path}: cannot be read as TOML ({cause}). {again}") from cause


@contextmanager
def tensor_errors(path: Path, error: type[ProbekitError], again: str) -> Iterator[None]:
    """Turn what safetensors raises over a cut, damaged or absent file into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as cause:
        what = " ".join(str(cause).split())[:200]
        raise error(f"{path}: cannot be read as safetensors ({what}). {again}") from cause


def read_tensors(path: Path, error: type[ProbekitError], again: str) -> dict[str, Any]:
    """Return the torch tensors of a safetensors file by name, checked against its digest if it has one.

    Raises
    ------
    ProbekitError
        When the file is absent, cut, damaged, or not what was written.
    """
    from safetensors.torch import load_file

    check_file(path, error, again)
    with tensor_errors(path, error, again):
        return load_file(path)


def _bytes(path: Path, error: type[ProbekitError], again: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file. {again}") from cause
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}). {again}") from cause


def _refuse(name: str) -> float:
    raise ValueError(f"holds {name}, which is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else _refuse(text)


def _check_values(value: Any, left: int) -> None:  # noqa: ANN401 - any TOML value
    if not left:
        raise ValueError(f"nested deeper than {DEPTH}")
    if isinstance(value, float):
        _finite(str(value)) if value == value else _refuse("nan")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _check_values(item, left - 1)
