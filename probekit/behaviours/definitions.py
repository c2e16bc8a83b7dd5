"""Behaviours files: named categories of completions in an order of precedence, and those wanted."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, InstanceOf, model_validator
from pydantic.dataclasses import dataclass

from probekit import patterns
from probekit.errors import BehaviourError, ProbekitError
from probekit.foreign import at_home, inside
from probekit.parsing import parse_toml
from probekit.tables import TABLE, TomlTable, named

Function = Callable[[str, str], bool]
OWN_FUNCTIONS = frozenset(
    f"probekit.behaviours.functions:{name}"
    for name in ("asserts_about_person", "tells_all_the_same", "positive", "negative")
)
"""Those that the shipped files name; all others are code that a user has to allow."""


def _compiled(value: object) -> object:
    pattern = patterns.compiled(_straight(value) if isinstance(value, str) else value)
    if pattern.search(""):
        raise ValueError(f"pattern {value!r} matches every text, even an empty one.")
    return pattern


def _imported(spec: object) -> object:
    if not isinstance(spec, str):
        return spec
    module, _, name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # importing a module runs it, and it may raise anything
        raise ValueError(
            f"{spec!r} cannot be imported ({error}). Expected module:function of an installed module."
        ) from error


Pattern = Annotated[InstanceOf[patterns.Pattern], BeforeValidator(_compiled)]


@dataclass(frozen=True, config=TABLE)
class Category(TomlTable):
    """One behaviour: a completion shows it when a pattern is found in it or the function says so."""

    name: str
    description: str = ""
    """For readers and for a judge."""
    patterns: tuple[Pattern, ...] = ()
    """Searched anywhere in the completion, without regard to case."""
    function: Annotated[Function | None, BeforeValidator(_imported)] = None
    """Called with the prompt's text and the completion's."""

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if not self.patterns and self.function is None:
            raise ValueError("has neither patterns nor a function. Add one of them.")
        return self

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


@dataclasses.dataclass(frozen=True)
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
    def load(cls, source: str | Path, *, allow_code: bool = False) -> Behaviours:
        """Read a behaviours file, or one that ships with probekit by its name.

        Parameters
        ----------
        source
            File or name.
        allow_code
            Whether functions that the file, or one that it extends, names are imported, which runs
            their modules. Those of the shipped files always are.

        Raises
        ------
        BehaviourError
            When there is no such file, or it is malformed; a bad pattern is named with its line.
        """
        return _read(find(str(source)), allow_code=allow_code)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Categories that a completion should fall into.

    Written `NAME[,NAME...]`, or `TAG=VALUE:NAME[,NAME...]` for prompts whose tag has that value, which
    goes before one for all prompts. Several of the same prompts are taken together.
    """

    rules: tuple[tuple[str, str, frozenset[str]], ...]
    """(tag, value, names); an empty tag holds for every prompt."""

    @classmethod
    def parse(cls, specs: Sequence[str], behaviours: Behaviours | None) -> Wanted | None:
        """Read what was asked for; None when nothing was.

        Raises
        ------
        BehaviourError
            When a category is not in the behaviours file, or a spec is malformed.
        """
        rules: dict[tuple[str, str], frozenset[str]] = {}
        for spec in specs:
            where, colon, names = spec.rpartition(":")
            tag, equals, value = where.partition("=")
            if colon and not (tag.strip() and equals and value.strip()):
                raise BehaviourError(
                    f"behaviour {spec!r}: expected NAME[,NAME...] or TAG=VALUE:NAME[,NAME...]."
                )
            found = [name.strip() for name in names.split(",") if name.strip()]
            known = behaviours.names if behaviours else []
            for name in found or [""]:
                if name not in known:
                    words = ", ".join(known) or "none, without a behaviours file"
                    raise BehaviourError(f"behaviour {name!r}: is no category. Expected {words}.")
            where_ = tag.strip(), value.strip()
            rules[where_] = rules.get(where_, frozenset()) | frozenset(found)
        # Rules of a class first, so that one for every prompt is for the rest.
        ordered = sorted(rules, key=lambda rule: not rule[0])
        return cls(tuple((*rule, rules[rule]) for rule in ordered)) if rules else None

    def holds(self, category: str, tags: Mapping[str, str]) -> bool | None:
        """Return whether a completion does what is wanted of it; None when nothing is."""
        for tag, value, names in self.rules:
            if not tag or tags.get(tag) == value:
                return category in names
        return None

    def __str__(self) -> str:
        words = []
        for tag, value, names in self.rules:
            where = f"{tag}={value}: " if tag else ""
            words.append(where + " or ".join(sorted(names)))
        return "; ".join(words)


def shipped() -> list[str]:
    """Return the names of the behaviours files that ship with probekit."""
    folder = Path(str(resources.files("probekit.behaviours")))
    return sorted(file.stem for file in folder.glob("*.toml"))


def find(source: str) -> Path:
    """Return the path of a behaviours file given by name or path."""
    if source in shipped():
        return Path(str(resources.files("probekit.behaviours") / f"{source}.toml"))
    path = at_home(source)
    if not path.is_file():
        raise BehaviourError(
            f"behaviours {source!r}: no such file. Expected a .toml file, or one that ships with "
            f"probekit: {', '.join(shipped())}."
        )
    return path


@dataclass(frozen=True, config=TABLE)
class _File(TomlTable):
    """What a behaviours file may say."""

    error: ClassVar[type[ProbekitError]] = BehaviourError
    categories: Annotated[dict[str, Category], BeforeValidator(named), Field(min_length=1)]
    name: str | None = None
    extends: str | None = None
    order: list[str] | None = None
    default: Annotated[str, Field(min_length=1)] | None = None


def _read(path: Path, above: tuple[Path, ...] = (), *, allow_code: bool) -> Behaviours:
    """Read a file; `above` are those that extend it, from the first on."""
    try:
        text = path.read_text(encoding="utf-8")
        table = parse_toml(text)
    except (OSError, ValueError) as error:
        raise BehaviourError(
            f"{path}: cannot be read as TOML ({error}). See docs/behaviours.md."
        ) from error
    if not allow_code:
        _refuse_code(path, table.get("categories"))
    file = _File.parse(table, str(path), text)
    base = _base(file.extends, path, above, allow_code=allow_code)
    # Own categories come first, and stand for the other file's of the same name.
    categories = {**file.categories}
    for item in base.categories if base else ():
        categories.setdefault(item.name, item)
    order = list(categories) if file.order is None else file.order
    if sorted(order) != sorted(categories):
        raise BehaviourError(
            f"{path}: order: got {order!r}, expected every category once: {', '.join(categories)}."
        )
    default = file.default or (base.default if base else "other")
    if default in categories:
        raise BehaviourError(
            f"{path}: default: got {default!r}, expected a name that is no category's."
        )
    return Behaviours(
        file.name or path.stem, tuple(categories[name] for name in order), default, path
    )


def _refuse_code(path: Path, categories: object) -> None:
    """Refuse functions that are not probekit's own before any is imported."""
    for name, table in categories.items() if isinstance(categories, dict) else ():
        spec = table.get("function") if isinstance(table, dict) else None
        if isinstance(spec, str) and spec not in OWN_FUNCTIONS:
            raise BehaviourError(
                f"{path}: categories.{name}.function: {spec!r} is code, and is not run unless you say so. "
                "Read it, then pass --allow-code (in Python allow_code=True)."
            )


def _base(
    source: str | None, path: Path, above: tuple[Path, ...], *, allow_code: bool
) -> Behaviours | None:
    """Return the file whose categories this one has too; a shipped one by its name."""
    if source is None:
        return None
    try:
        found = find(source if source in shipped() else str(inside(path.parent, source)))
    except ValueError as error:
        raise BehaviourError(f"{path}: extends: {error}. Put it beside this file.") from None
    chain = (*above, path)
    if found.resolve() in [one.resolve() for one in chain]:
        raise BehaviourError(f"{path}: extends itself. Expected another file.")
    return _read(found, chain, allow_code=allow_code)


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
