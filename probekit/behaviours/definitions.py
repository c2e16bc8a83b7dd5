"""Behaviours files: named categories of completions, in an order of precedence."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from probekit.errors import BehaviourError

EXPECTED_KEYS = ("description", "patterns", "function")
Function = Callable[[str, str], bool]


@dataclass(frozen=True)
class Category:
    """One behaviour: a completion shows it when a pattern is found in it or the function says so."""

    name: str
    description: str
    """For readers and for a judge."""
    patterns: tuple[re.Pattern[str], ...]
    """Searched anywhere in the completion, without regard to case."""
    function: Function | None = None
    """Called with the prompt's text and the completion's."""

    def holds(self, prompt: str, completion: str) -> bool:
        """Return whether the completion shows the behaviour."""
        if any(pattern.search(completion) for pattern in self.patterns):
            return True
        if self.function is None:
            return False
        try:
            return bool(self.function(prompt, completion))
        except Exception as error:  # whatever a user's function raises
            raise BehaviourError(
                f"category {self.name!r}: its function raised {type(error).__name__}: {error} on "
                f"the completion {completion[:60]!r}."
            ) from error


@dataclass(frozen=True)
class Behaviours:
    """Categories in their order of precedence, and the one that is left when none holds."""

    name: str
    categories: tuple[Category, ...]
    """Highest precedence first."""
    default: str
    path: Path | None = None

    @property
    def names(self) -> list[str]:
        """Every category a completion can fall into, the default last."""
        return [category.name for category in self.categories] + [self.default]

    def classify(self, prompt: str, completion: str) -> str:
        """Return the first category that holds, or the default.

        Parameters
        ----------
        prompt
            Text of the last user turn.
        completion
            What the model wrote. Typographic apostrophes count as straight ones.
        """
        plain = _straight(completion)
        for category in self.categories:
            if category.holds(prompt, plain):
                return category.name
        return self.default

    def describe(self) -> list[Any]:
        """Return everything that decides a category, with the source text of functions."""
        return [
            self.default,
            *(
                [
                    category.name,
                    category.description,
                    [pattern.pattern for pattern in category.patterns],
                    category.function and _source(category.function),
                ]
                for category in self.categories
            ),
        ]

    @classmethod
    def load(cls, source: str | Path) -> Behaviours:
        """Read a behaviours file, or one that ships with probekit by its name.

        Raises
        ------
        BehaviourError
            When there is no such file, or it is malformed; a bad pattern is named with its line.
        """
        return _read(find(str(source)))


def shipped() -> list[str]:
    """Return the names of the behaviours files that ship with probekit."""
    folder = Path(str(resources.files("probekit.behaviours")))
    return sorted(file.stem for file in folder.glob("*.toml"))


def find(source: str) -> Path:
    """Return the path of a behaviours file given by name or path."""
    if source in shipped():
        return Path(str(resources.files("probekit.behaviours") / f"{source}.toml"))
    path = Path(source).expanduser()
    if not path.is_file():
        raise BehaviourError(
            f"behaviours {source!r}: no such file. Expected a .toml file, or one that ships with "
            f"probekit: {', '.join(shipped())}."
        )
    return path


def _read(path: Path, above: tuple[Path, ...] = ()) -> Behaviours:
    """Read a file; `above` are those that extend it, from the first on."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BehaviourError(f"{path}: cannot be read ({error}).") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BehaviourError(f"{path}: is not TOML ({error}). See docs/behaviours.md.") from error
    return _parse(table, path, text, above)


def _parse(table: dict[str, Any], path: Path, text: str, above: tuple[Path, ...]) -> Behaviours:
    base = _base(table, path, above)
    categories = table.get("categories")
    if not isinstance(categories, dict) or not categories:
        raise BehaviourError(f"{path}: has no [categories.NAME] table. See docs/behaviours.md.")
    unknown = table.keys() - {"name", "extends", "order", "default", "categories"}
    if unknown:
        raise BehaviourError(
            f"{path}: has unknown key {min(unknown)!r}. Expected name, extends, order, default, categories."
        )
    parsed = {name: _category(name, item, path, text) for name, item in categories.items()}
    # Own categories come first, and stand for the other file's of the same name.
    for item in base.categories if base else ():
        parsed.setdefault(item.name, item)
    order = table.get("order", list(parsed))
    if not isinstance(order, list) or sorted(map(repr, order)) != sorted(map(repr, parsed)):
        raise BehaviourError(
            f"{path}: order is {order!r}, expected every category once: {', '.join(parsed)}."
        )
    default = table.get("default", base.default if base else "other")
    if not isinstance(default, str) or not default or default in parsed:
        raise BehaviourError(
            f"{path}: default is {default!r}, expected a name that is no category's."
        )
    listed = tuple(parsed[name] for name in order)
    return Behaviours(str(table.get("name", path.stem)), listed, default, path)


def _base(table: dict[str, Any], path: Path, above: tuple[Path, ...]) -> Behaviours | None:
    """Return the file whose categories this one has too; a shipped one by its name."""
    source = table.get("extends")
    if source is None:
        return None
    if not isinstance(source, str):
        raise BehaviourError(f"{path}: extends is {source!r}, expected the name of a file.")
    found = find(source) if source in shipped() else find(str(path.parent / source))
    chain = (*above, path)
    if found.resolve() in [one.resolve() for one in chain]:
        raise BehaviourError(f"{path}: extends itself. Expected another file.")
    return _read(found, chain)


def _category(name: str, table: Any, path: Path, text: str) -> Category:  # noqa: ANN401
    where = f"{path}: category {name!r}"
    if not isinstance(table, dict):
        raise BehaviourError(f"{where}: is not a table. Expected [categories.{name}].")
    unknown = table.keys() - set(EXPECTED_KEYS)
    if unknown:
        raise BehaviourError(
            f"{where}: has unknown key {min(unknown)!r}. Expected {', '.join(EXPECTED_KEYS)}."
        )
    patterns = table.get("patterns", [])
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise BehaviourError(f"{where}: patterns is not a list of texts.")
    if not patterns and "function" not in table:
        raise BehaviourError(f"{where}: has neither patterns nor a function.")
    compiled = tuple(_pattern(pattern, name, path, text) for pattern in patterns)
    function = _function(table["function"], where) if "function" in table else None
    return Category(name, str(table.get("description", "")), compiled, function)


def _pattern(pattern: str, name: str, path: Path, text: str) -> re.Pattern[str]:
    try:
        found = re.compile(_straight(pattern), re.IGNORECASE)
    except re.error as error:
        raise BehaviourError(
            f"{path}:{_line(pattern, text)}: category {name!r}: pattern {pattern!r} is not a regular "
            f"expression ({error}). Escape what is meant literally with a backslash."
        ) from error
    if found.search(""):
        raise BehaviourError(
            f"{path}:{_line(pattern, text)}: category {name!r}: pattern {pattern!r} matches every "
            "text, even an empty one."
        )
    return found


def _source(function: Function) -> str:
    """Return the text of the module that defines a function, or its name where there is none."""
    module = inspect.getmodule(function)
    try:
        return inspect.getsource(module) if module else repr(function)
    except (OSError, TypeError):
        return f"{function.__module__}:{function.__qualname__}"


def _straight(text: str) -> str:
    """Return text with typographic apostrophes as straight ones."""
    return text.replace("\u2019", "'")


def _line(pattern: str, text: str) -> int:
    """Return the 1-based line of the file that spells `pattern`; tomllib keeps no positions."""
    for number, line in enumerate(text.splitlines(), 1):
        for token in re.findall(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"", line):
            try:
                if tomllib.loads(f"x = {token}")["x"] == pattern:
                    return number
            except tomllib.TOMLDecodeError:
                continue
    return next((i for i, line in enumerate(text.splitlines(), 1) if pattern[:20] in line), 1)


def _function(spec: Any, where: str) -> Function:  # noqa: ANN401
    module, _, name = str(spec).partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing a module runs it, and it may raise anything
        raise BehaviourError(
            f"{where}: function {spec!r} cannot be imported ({error}). Expected module:function "
            "of an installed module."
        ) from error
    if not callable(function):
        raise BehaviourError(f"{where}: {spec!r} is not a function.")
    return function  # type: ignore[no-any-return]
