"""TOML files that users write, declared once: a table is a frozen pydantic dataclass over `TomlTable`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from probekit.errors import ProbekitError
from probekit.parsing import parse_toml
from probekit.settings import problem, unknown_key

TABLE = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
"""Of every table of a file. Numbers are `StrictInt` and the like there, lists may become tuples."""


@dataclass(frozen=True, config=TABLE)
class TomlTable:
    """Base of the tables of a TOML file that a user writes."""

    error: ClassVar[type[ProbekitError]] = ProbekitError
    """What a bad table raises."""

    @classmethod
    def parse(cls, table: Mapping[str, Any], place: str, text: str = "") -> Self:
        """Return the checked table of a file.

        Raises
        ------
        ProbekitError
            The class's `error`: the file, the line in `text` of the text at fault, the path of its key,
            and what was expected there.
        """
        try:
            return cls(**table)
        except ValidationError as error:
            line = _line(error.errors()[0]["input"], text)
            raise cls.error(f"{place}{line}: {problem(error)}") from None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic's own
        given = data.kwargs if isinstance(data, ArgsKwargs) else data
        known = cls.__pydantic_fields__  # type: ignore[attr-defined]
        if isinstance(given, dict) and (line := unknown_key(given, known)):
            raise ValueError(line)
        return data


def named(tables: object) -> object:
    """Return a table of tables with the key of each as its `name`."""
    if not isinstance(tables, dict):
        return tables
    for key, table in tables.items():
        if isinstance(table, dict) and "name" in table:
            raise ValueError(f"{key}: name is an unknown key. The name of a table is its key.")
    return {
        key: {**table, "name": key} if isinstance(table, dict) else table
        for key, table in tables.items()
    }


def _line(value: object, text: str) -> str:
    """Return `:LINE` of the one line that spells a text, as tomllib keeps no positions; else nothing."""
    found = []
    for number, line in enumerate(text.splitlines(), 1) if isinstance(value, str) else ():
        for token in re.findall(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"", line):
            with contextlib.suppress(ValueError):
                if parse_toml(f"x = {token}")["x"] == value:
                    found.append(f":{number}")
    return found[0] if len(found) == 1 else ""
