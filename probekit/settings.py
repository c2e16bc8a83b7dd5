"""Settings, declared once: type, bounds, default and meaning of a key.

The settings of a room are a frozen dataclass over `Settings`. The command line makes options from it, the
reference lists it, and a run writes its labels beside its values, for reports to print. pydantic checks
the values, and is loaded when there are some: help needs none.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

from probekit.errors import ProbekitError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import ErrorDetails

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


def joined(value: object) -> object:
    """Return numbers and lists as the text with commas that stands for them; anything else as it is."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple, range)):
        return ",".join(str(joined(part)) for part in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if number else value


class Rule(NamedTuple):
    """What is done to a value of an annotated type beside checking it, said without loading pydantic."""

    before: Callable[[Any], object] | None = None
    """Called before the type is checked."""
    after: Callable[[Any], object] | None = None
    """Called with the checked value."""
    strict: bool = True
    """Whether no other type is taken, such as a list where a tuple is expected."""

    def __get_pydantic_core_schema__(self, source: object, handler: Any) -> Any:  # noqa: ANN401
        from pydantic_core import core_schema

        schema = handler(source)
        if not self.strict:
            schema["strict"] = False
        if self.before:
            schema = core_schema.no_info_before_validator_function(self.before, schema)
        if self.after:
            schema = core_schema.no_info_after_validator_function(self.after, schema)
        return schema


_Number = Annotated[float, Rule(strict=False)]
Numbers = Annotated[tuple[_Number, ...], Rule(before=split, strict=False)]
"""A list of numbers, or one text with commas."""
Listed = Annotated[str, Rule(before=joined)]
"""Text with commas; a number, or a list of numbers or names, becomes it."""
Texts = Annotated[tuple[str, ...], Rule(before=one, strict=False)]
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
        Bounds: `ge`, `gt`, `le`, `lt`, `min_length`.
    """
    shown = {"group": group, "common": common, "option": option, "repeat": repeat}
    return field(default=default, metadata={"key": {"title": title, **shown}, "rule": rule})


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


@dataclass(frozen=True)
class Settings:
    """Base of all settings: a bad value raises the room's error with one line.

    A model is called with keywords, and works with `dataclasses.replace` and `asdict`.
    """

    error: ClassVar[type[ProbekitError]] = ProbekitError
    """What a bad value raises."""

    def __new__(cls, *_: Any, **given: Any) -> Self:  # noqa: ANN401
        """Refuse a key that there is not."""
        if line := unknown_key(given, cls.keys()):
            raise cls.error(line)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Put checked values in the place of those given."""
        from pydantic import ValidationError

        try:
            checked = self._checker().validate_python(vars(self))
        except ValidationError as error:
            owner = self.keys()[str(error.errors()[0]["loc"][0])].owner
            raise owner.error(problem(error)) from None
        vars(self).update(checked)

    @classmethod
    def of_keys(cls, config: Self | None, keys: dict[str, Any]) -> Self:
        """Return settings with some keys changed: what Python functions take as `layers=[4, 8]`."""
        if config is not None and not isinstance(config, cls):
            raise cls.error(f"config: got a {type(config).__name__}, expected a {cls.__name__}.")
        config = config or cls()
        return cls(**{**vars(config), **keys}) if keys else config

    @classmethod
    @functools.cache
    def _checker(cls) -> TypeAdapter[dict[str, Any]]:
        from pydantic import ConfigDict, Field, TypeAdapter, with_config
        from typing_extensions import TypedDict

        hints = typing.get_type_hints(cls, include_extras=True)
        typed = {k.name: Annotated[hints[k.name], Field(**k.metadata["rule"])] for k in fields(cls)}
        config = ConfigDict(strict=True, allow_inf_nan=False)  # no other type, no infinity
        table: Any = with_config(config)(TypedDict(cls.__name__, typed))  # type: ignore[operator]
        return TypeAdapter(table)

    @classmethod
    @functools.cache
    def keys(cls) -> dict[str, Key]:
        """Return what there is to know of every key, a class's own before those that it inherits."""
        found: dict[str, Key] = {}
        known, hints = {key.name: key for key in fields(cls)}, typing.get_type_hints(cls)
        for owner in cls.__mro__[:-2]:
            sentences = _sentences(owner)
            for name in owner.__annotations__:
                if name in known and name not in found:
                    made, kind = known[name], hints[name]
                    optional = type(None) in typing.get_args(kind)
                    if optional:
                        kind = next(k for k in typing.get_args(kind) if k is not type(None))
                    found[name] = Key(
                        sentence=sentences.get(name, ""), type=kind, optional=optional,
                        default=made.default, owner=owner, **made.metadata["key"],
                    )  # fmt: skip
        return found

    @classmethod
    def labels(cls) -> dict[str, str]:
        """Return the label of every key, for a run's record."""
        return {name: key.title for name, key in cls.keys().items()}


def _sentences(owner: type) -> dict[str, str]:
    """Return the docstring under each key that a class declares."""
    tree = ast.parse(inspect.getsource(sys.modules[owner.__module__]))
    body = next(
        x.body for x in tree.body if isinstance(x, ast.ClassDef) and x.name == owner.__name__
    )
    return {
        key.target.id: " ".join(str(text.value.value).split())
        for key, text in pairwise(body)
        if isinstance(key, ast.AnnAssign)
        and isinstance(key.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
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
    import difflib

    near = difflib.get_close_matches(str(value), list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
