"""Settings and the files that users write, declared once: type, bounds, default and meaning of a key.

The settings of a room are a frozen pydantic dataclass over `Settings`. The command line makes options
from it, the reference lists it, and a run writes its labels beside its values, for reports to print.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs, ErrorDetails

from probekit.errors import ProbekitError

CHECKED = ConfigDict(
    extra="forbid",
    strict=True,
    validate_default=True,
    allow_inf_nan=False,
    use_attribute_docstrings=True,
)
"""Of every model: no unknown key, no other type, no infinity; the docstring of a key is its sentence."""
TABLE = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
"""Of every table of a file. Numbers are `StrictInt` and the like there, lists may become tuples."""
RULES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least {min_length} value",
    "dict_type": "a table",
    "dataclass_type": "a table",
    "callable_type": "a function",
    "is_instance_of": "a name in quotes",
    "string_pattern_mismatch": "a word",
    "pattern_type": "a regular expression in quotes",
}
"""pydantic's type of error to what was expected instead."""


def split(value: object) -> object:
    """Return text as a tuple of its different parts between commas; anything else as it is."""
    if isinstance(value, str):
        return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    return value


def one(value: object) -> object:
    """Return a text as a tuple of one; anything else as it is."""
    return (value,) if isinstance(value, str) else value


_Number = Annotated[float, Strict(strict=False)]
Numbers = Annotated[tuple[_Number, ...], BeforeValidator(split), Strict(strict=False)]
"""A list of numbers, or one text with commas."""
Texts = Annotated[tuple[str, ...], BeforeValidator(one), Strict(strict=False)]
"""A list of texts that may hold commas, or one of them."""


def setting(
    default: Any,  # noqa: ANN401 - of the field's type
    title: str,
    *,
    group: str,
    common: bool = False,
    option: str | None = None,
    repeat: bool = False,
    **rule: Any,  # noqa: ANN401 - bounds, in pydantic's words
) -> Any:  # noqa: ANN401 - stands where the field's default would
    """Return a field of a settings model. The docstring under it is its sentence: help and documentation.

    Parameters
    ----------
    default
        Value where none is given.
    title
        Label of a few words, for a row of a report.
    group
        Heading under which the command line lists it.
    common
        Whether `--help` shows its option; all are in the reference and in `--print-config`.
    option
        Spelling of its option where that is not the key's, such as `--coeff` for `coeffs`.
    repeat
        Whether the option may be repeated, each time with one of several texts.
    rule
        Bounds: `ge`, `gt`, `le`, `lt`.
    """
    extra: JsonDict = {"group": group, "common": common, "option": option, "repeat": repeat}
    return Field(default, title=title, json_schema_extra=extra, **rule)


class Key(NamedTuple):
    """A key of a settings model, for command line and documentation."""

    title: str
    sentence: str
    type: Any
    """Without None."""
    optional: bool
    """Whether it may be None."""
    default: Any
    group: str
    common: bool
    option: str | None
    repeat: bool
    owner: type[Settings]
    """The model that declares it."""

    @classmethod
    def of(cls, field: FieldInfo, owner: type[Settings]) -> Key:
        """Read a field that `setting` made."""
        extra, words = field.json_schema_extra, " ".join((field.description or "").split())
        assert isinstance(extra, dict)
        kinds = typing.get_args(field.annotation)
        optional = type(None) in kinds
        kind = next(k for k in kinds if k is not type(None)) if optional else field.annotation
        return cls(field.title or "", words, kind, optional, field.default, owner=owner, **extra)  # type: ignore[arg-type]


@dataclass(frozen=True, config=CHECKED)
class Settings:
    """Base of all settings: a bad value raises the room's error with one line.

    A model is called with keywords, and works with `dataclasses.replace` and `asdict`.
    """

    error: ClassVar[type[ProbekitError]] = ProbekitError
    """What a bad value raises."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, data: Any, build: Any) -> Self:  # noqa: ANN401 - pydantic's own
        given = data.kwargs if isinstance(data, ArgsKwargs) else data
        if line := unknown_key(given or {}, cls.keys()):
            raise cls.error(line)
        try:
            return build(data)  # type: ignore[no-any-return]
        except ValidationError as error:
            owner = cls.keys()[str(error.errors()[0]["loc"][0])].owner
            raise owner.error(problem(error)) from None

    @classmethod
    @functools.cache
    def keys(cls) -> dict[str, Key]:
        """Return what there is to know of every key, a class's own before those that it inherits."""
        found: dict[str, Key] = {}
        for owner in cls.__mro__[:-1]:
            fields: Mapping[str, FieldInfo] = owner.__pydantic_fields__  # type: ignore[attr-defined]
            own = fields.keys() & owner.__dict__["__annotations__"].keys() - found.keys()
            found |= {
                name: Key.of(fields[name], owner) for name in owner.__annotations__ if name in own
            }
        return found

    @classmethod
    def labels(cls) -> dict[str, str]:
        """Return the label of every key, for a run's record."""
        return {name: key.title for name, key in cls.keys().items()}


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


def problem(error: ValidationError) -> str:
    """Return the first thing that is wrong: `key.path[0]: got value, expected rule. Remedy.`"""
    first = error.errors(include_url=False)[0]
    *above, last = first["loc"] or ("",)
    if first["type"] == "value_error":  # a rule of the model's own, in its own words
        return ": ".join(
            filter(None, [_path(first["loc"]), str((first.get("ctx") or {})["error"])])
        )
    if first["type"] == "missing":
        return ": ".join(filter(None, [_path(above), f"has no {last}. Add it."]))
    return f"{_path(first['loc'])}: got {first['input']!r}, expected {_expected(first)}"


def _path(parts: Iterable[int | str]) -> str:
    """Return the place of a value as a user writes it: `variants.plain.shots[0]`."""
    words = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return "".join(words).removeprefix(".")


def _line(value: object, text: str) -> str:
    """Return `:LINE` of the one line that spells a text, as tomllib keeps no positions; else nothing."""
    found = []
    for number, line in enumerate(text.splitlines(), 1) if isinstance(value, str) else ():
        for token in re.findall(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"", line):
            with contextlib.suppress(tomllib.TOMLDecodeError):
                if tomllib.loads(f"x = {token}")["x"] == value:
                    found.append(f":{number}")
    return found[0] if len(found) == 1 else ""


def _expected(details: ErrorDetails) -> str:
    context = details.get("ctx") or {}
    if details["type"] == "literal_error":
        words = context["expected"].replace("'", "")
        choices = words.replace(" or ", ", ").split(", ")
        return f"{words}.{_near(details['input'], choices)}"
    rule = RULES.get(details["type"])
    return f"{rule.format(**context) if rule else details['msg']}."


def unknown_key(given: Iterable[str], known: Iterable[str]) -> str | None:
    """Return a line about the first key that there is not, with the nearest that there is."""
    known = list(known)
    for key in given:
        if key not in known:
            remedy = _near(key, known) or f" Expected {', '.join(known)}."
            return f"{key}: unknown key.{remedy}"
    return None


def _near(value: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(value), list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
