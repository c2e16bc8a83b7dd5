"""`Recipe`: how contrastive completions are elicited, read from a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from probekit.behaviours import Behaviours
from probekit.data.rows import Message
from probekit.errors import DataError
from probekit.studies.facts import WHICH, Facts

UNFINISHED = ("trim", "keep", "drop")
TOP = {
    "name": str, "prompts": str, "class_tag": str, "samples": int, "max_new_tokens": int,
    "temperature": float, "top_p": float, "unfinished": str, "min_words": int, "behaviours": str,
    "filter_words": bool, "name_tag": str, "mentions": bool, "facts": dict, "skip": dict,
    "variants": dict, "classes": dict,
}  # fmt: skip
VARIANT = {
    "system": str, "shots": list, "prefill": str, "keep": str, "leaks": list, "behaviour": list,
    "facts": bool, "name_within": int,
}  # fmt: skip
SIDES = ("chosen", "rejected")
CLASS = {
    "chosen": (str, list), "rejected": (str, list), "familiar": (int, float), "facts": (str,),
    "knows": (int, float),
}  # fmt: skip
Side = tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """One way to ask: plain when nothing is set, else conditioned."""

    name: str
    system: str = ""
    """A system turn put first."""
    shots: tuple[Message, ...] = ()
    """Turns of user and assistant put before the prompt."""
    prefill: str = ""
    """What the assistant's turn begins with; stripped from the completion."""
    keep: str = ""
    """The end of the prefill that is not stripped."""
    leaks: tuple[re.Pattern[str], ...] = ()
    """A completion in which one of these is found repeats the condition, and is dropped."""
    behaviour: frozenset[str] = frozenset()
    """Only completions of these categories are kept; empty keeps all."""
    facts: bool = False
    """Only completions that tell a fact are kept: see `Recipe.facts`."""
    name_within: int = 0
    """Only completions whose name begins among so many first words are kept; 0 keeps all."""


@dataclass(frozen=True)
class Recipe:
    """Variants of asking, and which of them is chosen and which rejected for each class of prompt."""

    name: str
    class_tag: str
    """Tag of the prompts that says their class."""
    variants: tuple[Variant, ...]
    polarity: Mapping[str, tuple[Side, Side]]
    """Class to the names of its chosen and of its rejected variants."""
    prompts: str = ""
    """Where they are, unless the caller says otherwise."""
    samples: int = 64
    """Completions of each prompt and side; variants of the same side share them."""
    max_new_tokens: int = 48
    temperature: float = 1.0
    top_p: float = 1.0
    unfinished: str = "trim"
    """What is done with a completion that the length limit cut: `trim` it to its last whole sentence,
    `keep` it, or `drop` it."""
    min_words: int = 3
    """Shorter completions are dropped."""
    filter_words: bool = False
    """Take pairs out until words alone tell nothing: see `leaks.without_telling_words`."""
    behaviours: Behaviours | None = None
    """Names the category of every completion."""
    name_tag: str = "name"
    """Tag of the prompts that holds the name they ask about."""
    familiar: Mapping[str, float] = field(default_factory=dict)
    """Class to the least log-probability of a name's later words: see `familiarity`."""
    skip: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of tags whose prompts are not asked."""
    mentions: bool = False
    """Drop completions without the name that their prompt asks about."""
    facts: Facts | None = None
    """Words that show that a completion of a variant with `facts` got a fact right."""
    fact_of: Mapping[str, str] = field(default_factory=dict)
    """Class to whose fact it has to be, `own` or `any`."""
    knows: Mapping[str, float] = field(default_factory=dict)
    """Class to the least share of the completions about a group (a name) that tell a fact: see
    `pairing.judge`."""

    @classmethod
    def load(cls, source: str | Path) -> Recipe:
        """Read a recipe file, or one that ships with probekit by its name.

        Raises
        ------
        DataError
            When there is no such file, or it is malformed.
        """
        path = _find(str(source))
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DataError(f"{path}: cannot be read as TOML ({error}).") from error
        return cls.parse(table, str(path))

    @classmethod
    def parse(cls, table: Mapping[str, Any], place: str) -> Recipe:
        """Read a recipe from a parsed TOML table; see `load`."""
        _check(table, TOP, place, needed=("name", "class_tag", "variants", "classes"))
        name = table.get("behaviours")
        behaviours = Behaviours.load(name) if name else None
        variants = tuple(
            _variant(key, value, f"{place}: variants.{key}", behaviours)
            for key, value in table["variants"].items()
        )
        polarity = {
            str(value): _sides(sides, f"{place}: classes.{value}", {v.name for v in variants})
            for value, sides in table["classes"].items()
        }
        if not polarity:
            raise DataError(f"{place}: classes is empty. Expected a table for each class.")
        plain = {
            key: table[key]
            for key in TOP.keys()
            & table.keys() - {"variants", "classes", "behaviours", "facts", "skip"}
        }
        classes = table["classes"].items()
        found = cls(
            **plain,
            variants=variants,
            polarity=polarity,
            behaviours=behaviours,
            familiar={str(k): float(v["familiar"]) for k, v in classes if "familiar" in v},
            skip=_words(table.get("skip", {}), f"{place}: skip"),
            facts=_facts(table.get("facts", {}), f"{place}: facts"),
            fact_of={str(k): v["facts"] for k, v in classes if "facts" in v},
            knows={str(k): float(v["knows"]) for k, v in classes if "knows" in v},
        )
        found._check_values(place)
        return found

    def asks(self, tags: Mapping[str, str]) -> bool:
        """Return whether prompts with these tags are asked."""
        return not any(tags.get(tag) in values for tag, values in self.skip.items())

    def samples_of(self, variant: Variant) -> int:
        """Return how many completions of each prompt a variant writes."""
        sides = [side for both in self.polarity.values() for side in both if variant.name in side]
        return max((-(-self.samples // len(side)) for side in sides), default=0)

    def _check_values(self, place: str) -> None:
        if self.unfinished not in UNFINISHED:
            raise DataError(
                f"{place}: unfinished is {self.unfinished!r}, expected {', '.join(UNFINISHED)}."
            )
        for key in ("min_words", "samples", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise DataError(f"{place}: {key} is {getattr(self, key)}, expected 1 or more.")
        for value, which in self.fact_of.items():
            if which not in WHICH:
                raise DataError(
                    f"{place}: classes.{value}.facts is {which!r}, expected {' or '.join(WHICH)}."
                )
        for value, least in self.knows.items():
            if not 0 < least <= 1:
                raise DataError(
                    f"{place}: classes.{value}.knows is {least:g}, expected a share above 0, up to 1."
                )
            if value not in self.fact_of or not any(v.facts for v in self.variants):
                raise DataError(
                    f"{place}: classes.{value}.knows counts completions that tell a fact. Expected facts in "
                    "that class too, and a variant with facts = true."
                )
        if self.facts is None and (self.fact_of or any(v.facts for v in self.variants)):
            raise DataError(
                f"{place}: facts are asked for and there is no table facts. Add one, "
                "[facts.TAG] with a list of words for each value of the tag."
            )


def _sides(table: Any, place: str, known: set[str]) -> tuple[Side, Side]:  # noqa: ANN401
    """Return the chosen and the rejected variants of a class, each a name or a list of names."""
    if not isinstance(table, dict) or not set(SIDES) <= set(table) <= set(CLASS):
        raise DataError(
            f"{place}: expected a table with {', '.join(SIDES)} and perhaps familiar, facts, knows."
        )
    for key, value in table.items():
        if not isinstance(value, CLASS[key]) or isinstance(value, bool):
            raise DataError(f"{place}.{key} is {value!r}, expected {_kinds(CLASS[key])}.")
    found: list[Side] = []
    for side in SIDES:
        value = table[side]
        names = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
        for name in names or ("",):
            if name not in known:
                raise DataError(
                    f"{place}.{side}: {name!r} is no variant. Expected some of "
                    f"{', '.join(sorted(known))}."
                )
        found.append(names)
    chosen, rejected = found
    if shared := set(chosen) & set(rejected):
        raise DataError(f"{place}: {min(shared)!r} is both chosen and rejected.")
    return chosen, rejected


def _kinds(kinds: tuple[type, ...]) -> str:
    if float in kinds:
        return "a number"
    return "a variant or a list of them" if list in kinds else f"one of {', '.join(WHICH)}"


def _variant(name: str, table: Any, place: str, behaviours: Behaviours | None) -> Variant:  # noqa: ANN401
    _check(table, VARIANT, place)
    prefill, keep = table.get("prefill", ""), table.get("keep", "")
    if prefill != prefill.rstrip():
        raise DataError(
            f"{place}.prefill ends with a space, which the model's own next word begins with. "
            "Remove it."
        )
    if keep and not prefill.endswith(keep):
        raise DataError(f"{place}.keep is not the end of prefill. Expected its last words.")
    if table.get("name_within", 1) < 1:
        raise DataError(f"{place}.name_within is {table['name_within']}, expected 1 or more.")
    behaviour = frozenset(map(str, table.get("behaviour", [])))
    known = set(behaviours.names) if behaviours else set()
    if unknown := sorted(behaviour - known):
        words = ", ".join(sorted(known)) or "none, without a behaviours file"
        raise DataError(f"{place}.behaviour: {unknown[0]!r} is no category. Expected {words}.")
    leaks = []
    for pattern in table.get("leaks", []):
        try:
            leaks.append(re.compile(str(pattern), re.IGNORECASE))
        except re.error as error:
            raise DataError(f"{place}.leaks: {pattern!r} is no pattern ({error}).") from error
    shots: list[Message] = []
    for i, shot in enumerate(table.get("shots", [])):
        _check(
            shot,
            {"prompt": str, "completion": str},
            f"{place}.shots[{i}]",
            ("prompt", "completion"),
        )
        shots += [Message("user", shot["prompt"]), Message("assistant", shot["completion"])]
    return Variant(
        name, table.get("system", ""), tuple(shots), prefill, keep, tuple(leaks), behaviour,
        table.get("facts", False), table.get("name_within", 0),
    )  # fmt: skip


def _facts(table: Mapping[str, Any], place: str) -> Facts | None:
    """Return the words by the values of the one tag that the table names; None when it is empty."""
    if not table:
        return None
    if len(table) > 1:
        raise DataError(f"{place}: names {len(table)} tags ({', '.join(table)}), expected one.")
    ((tag, values),) = table.items()
    if not isinstance(values, dict) or not values:
        raise DataError(f"{place}.{tag}: expected a table of lists of words.")
    return Facts(tag, _words(values, f"{place}.{tag}"))


def _words(table: Mapping[str, Any], place: str) -> dict[str, tuple[str, ...]]:
    for key, words in table.items():
        if not isinstance(words, list) or not words or not all(_is_word(word) for word in words):
            raise DataError(f"{place}.{key} is {words!r}, expected a list of words.")
    return {str(key): tuple(words) for key, words in table.items()}


def _is_word(word: object) -> bool:
    return isinstance(word, str) and bool(word.strip())


def _check(
    table: Any,  # noqa: ANN401 - a TOML value
    known: Mapping[str, type],
    place: str,
    needed: tuple[str, ...] = (),
) -> None:
    """Refuse a table with a missing key, an unknown one, or a value of another type."""
    if not isinstance(table, dict):
        raise DataError(f"{place}: expected a table.")
    for key in needed:
        if key not in table:
            raise DataError(f"{place}: has no {key}. Expected {', '.join(needed)}.")
    for key, value in table.items():
        if key not in known:
            raise DataError(f"{place}: {key} is unknown. Expected {', '.join(known)}.")
        kinds = (int, float) if known[key] is float else (known[key],)
        if not isinstance(value, kinds) or (isinstance(value, bool) and known[key] is not bool):
            raise DataError(f"{place}: {key} is {value!r}, expected {known[key].__name__}.")


def _find(source: str) -> Path:
    path = Path(source)
    if path.suffix == ".toml" or path.exists():
        return path
    folder = Path(str(resources.files("probekit") / "studies" / "recipes"))
    shipped = folder / f"{source}.toml"
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
    raise DataError(f"{source}: no such recipe file, and none that ships with probekit ({names}).")
