"""`Recipe`: how contrastive completions are elicited, read from a TOML file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)
from pydantic.dataclasses import dataclass

from probekit import patterns
from probekit.behaviours import Behaviours
from probekit.behaviours.definitions import shipped
from probekit.data.rows import Message
from probekit.errors import DataError, ProbekitError
from probekit.foreign import at_home, inside
from probekit.parsing import parse_toml
from probekit.settings import one
from probekit.tables import TABLE, TomlTable, named

OWN, ANY = "own", "any"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Beginnings of words for each value of a tag, such as the field that a person is known for.

    A small model often does not know what it tells of a person whose name it knows, and no head can find
    knowledge that is not there. Who bears an invented name has no field, so of answers about those only some
    field can be asked: then neither side of a class is marked by naming one.
    """

    tag: str
    words: Mapping[str, Sequence[str]]

    def holds(self, text: str, tags: Mapping[str, str], which: str) -> bool:
        """Return whether a text uses a word of its own value of the tag (`own`), or of any value (`any`)."""
        if which == ANY:
            return any(pattern.search(text) for pattern in self._patterns.values())
        pattern = self._patterns.get(tags.get(self.tag, ""))
        return pattern is not None and bool(pattern.search(text))

    def check(self, name: str, tags: Mapping[str, str]) -> None:
        """Refuse a prompt whose value of the tag has no words.

        Raises
        ------
        DataError
            With the prompt's `name`.
        """
        value = tags.get(self.tag)
        if value not in self.words:
            raise DataError(
                f"prompt {name}: tag {self.tag} is {value!r}, for which the recipe's facts have no words. "
                f"Expected one of {', '.join(self.words)}."
            )

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {
            value: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})", re.IGNORECASE)
            for value, words in self.words.items()
        }


def _behaviours(value: object) -> object:
    return (Behaviours.load(value) if value else None) if isinstance(value, str) else value


Pattern = Annotated[InstanceOf[patterns.Pattern], BeforeValidator(patterns.compiled)]
Words = Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)]
Side = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(one)]
AtLeastOne = Annotated[StrictInt, Field(ge=1)]


@dataclass(frozen=True, config=TABLE)
class Shot(TomlTable):
    """An example of a prompt and its completion."""

    prompt: str
    completion: str


@dataclass(frozen=True, config=TABLE)
class Variant(TomlTable):
    """One way to ask: plain when nothing is set, else conditioned."""

    name: str
    system: str = ""
    """A system turn put first."""
    shots: tuple[Shot, ...] = ()
    """Examples put before the prompt."""
    prefill: str = ""
    """What the assistant's turn begins with; stripped from the completion."""
    keep: str = ""
    """The end of the prefill that is not stripped."""
    leaks: tuple[Pattern, ...] = ()
    """A completion in which one of these is found repeats the condition, and is dropped."""
    behaviour: frozenset[str] = frozenset()
    """Only completions of these categories are kept; empty keeps all."""
    facts: StrictBool = False
    """Only completions that tell a fact are kept: see `Recipe.facts`."""
    name_within: AtLeastOne | None = None
    """Only completions whose name begins among so many first words are kept; None keeps all."""

    @property
    def turns(self) -> list[Message]:
        """The examples as turns of user and assistant."""
        return [
            turn
            for shot in self.shots
            for turn in (Message("user", shot.prompt), Message("assistant", shot.completion))
        ]

    @model_validator(mode="after")
    def _prefill_goes_on(self) -> Self:
        if self.prefill != self.prefill.rstrip():
            raise ValueError(
                "prefill ends with a space, which the model's own next word begins with. Remove it."
            )
        if not self.prefill.endswith(self.keep):
            raise ValueError("keep is not the end of prefill. Expected its last words.")
        return self


@dataclass(frozen=True, config=TABLE)
class Sides(TomlTable):
    """Which variants are chosen and which rejected for a class of prompts, and which prompts are asked."""

    chosen: Side
    rejected: Side
    familiar: StrictFloat | None = None
    """Least log-probability of a name's later words: see `familiarity`."""
    facts: Literal["own", "any"] | None = None
    """Whose fact a completion of a variant with `facts` has to tell."""
    knows: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    """Least share of the completions about a group (a name) that tell a fact: see `pairing.judge`."""


@dataclass(frozen=True, config=TABLE)
class Recipe(TomlTable):
    """Variants of asking, and which of them is chosen and which rejected for each class of prompt."""

    error: ClassVar[type[ProbekitError]] = DataError
    name: str
    class_tag: str
    """Tag of the prompts that says their class."""
    variants: Annotated[dict[str, Variant], BeforeValidator(named)]
    classes: Annotated[dict[str, Sides], Field(min_length=1)]
    prompts: str = ""
    """Where they are, unless the caller says otherwise."""
    samples: AtLeastOne = 64
    """Completions of each prompt and side; variants of the same side share them."""
    max_new_tokens: AtLeastOne = 48
    temperature: StrictFloat = 1.0
    top_p: StrictFloat = 1.0
    unfinished: Literal["trim", "keep", "drop"] = "trim"
    """What is done with a completion that the length limit cut: `trim` it to its last whole sentence,
    `keep` it, or `drop` it."""
    min_words: AtLeastOne = 3
    """Shorter completions are dropped."""
    filter_words: StrictBool = False
    """Take pairs out until words alone tell nothing: see `leaks.without_telling_words`."""
    behaviours: Annotated[InstanceOf[Behaviours] | None, BeforeValidator(_behaviours)] = None
    """Names the category of every completion."""
    name_tag: str = "name"
    """Tag of the prompts that holds the name they ask about."""
    skip: dict[str, Words] = Field(default_factory=dict)
    """Values of tags whose prompts are not asked."""
    mentions: StrictBool = False
    """Drop completions without the name that their prompt asks about."""
    facts: dict[str, Annotated[dict[str, Words], Field(min_length=1)]] = Field(default_factory=dict)
    """Tag to words that show, by value of the tag, that a completion got a fact right."""

    @classmethod
    def load(cls, source: str | Path, *, allow_code: bool = False) -> Recipe:
        """Read a recipe file, or one that ships with probekit by its name.

        Parameters
        ----------
        source
            File or name.
        allow_code
            Whether functions that its behaviours file names are imported.

        Raises
        ------
        DataError
            When there is no such file, or it is malformed.
        """
        path = _find(str(source))
        try:
            text = path.read_text(encoding="utf-8")
            table = parse_toml(text)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as TOML ({error}).") from error
        if isinstance(known := table.get("behaviours"), str):
            table["behaviours"] = _beside(path, known, allow_code=allow_code) if known else None
        return cls.parse(table, str(path), text)

    @property
    def polarity(self) -> dict[str, tuple[Side, Side]]:
        """Class to the names of its chosen and of its rejected variants."""
        return {value: (sides.chosen, sides.rejected) for value, sides in self.classes.items()}

    @property
    def familiar(self) -> dict[str, float]:
        """Class to the least log-probability of a name's later words."""
        return self._of_classes("familiar")

    @property
    def fact_of(self) -> dict[str, str]:
        """Class to whose fact a completion has to tell, `own` or `any`."""
        return self._of_classes("facts")

    @property
    def knows(self) -> dict[str, float]:
        """Class to the least share of a name's completions that tell a fact."""
        return self._of_classes("knows")

    @cached_property
    def fact_words(self) -> Facts | None:
        """The words of facts; None where no fact is asked for."""
        return next((Facts(tag, words) for tag, words in self.facts.items()), None)

    def asks(self, tags: Mapping[str, str]) -> bool:
        """Return whether prompts with these tags are asked."""
        return not any(tags.get(tag) in values for tag, values in self.skip.items())

    def samples_of(self, variant: Variant) -> int:
        """Return how many completions of each prompt a variant writes."""
        sides = [side for both in self.polarity.values() for side in both if variant.name in side]
        return max((-(-self.samples // len(side)) for side in sides), default=0)

    def describe(self) -> dict[str, Any]:
        """Return the recipe as JSON values: what decides its completions."""
        fields = {field.name for field in dataclasses.fields(self)}
        variants = [
            {
                **vars(variant),
                "shots": [[turn.role, turn.content] for turn in variant.turns],
                "leaks": [pattern.pattern for pattern in variant.leaks],
                "behaviour": sorted(variant.behaviour),
                "name_within": variant.name_within or 0,
            }
            for variant in self.variants.values()
        ]
        return {
            **{key: getattr(self, key) for key in fields - {"classes"}},
            "variants": variants,
            "behaviours": self.behaviours.describe() if self.behaviours else None,
            "polarity": {key: list(map(list, sides)) for key, sides in self.polarity.items()},
            "familiar": self.familiar,
            "fact_of": self.fact_of,
            "knows": self.knows,
        }

    def _of_classes(self, key: str) -> dict[str, Any]:
        found = {value: getattr(sides, key) for value, sides in self.classes.items()}
        return {value: wanted for value, wanted in found.items() if wanted is not None}

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        categories = self.behaviours.names if self.behaviours else []
        for name, variant in self.variants.items():
            for category in sorted(variant.behaviour.difference(categories)):
                words = ", ".join(sorted(categories)) or "none, without a behaviours file"
                raise ValueError(
                    f"variants.{name}.behaviour: {category!r} is no category. Expected {words}."
                )
        for value, sides in self.classes.items():
            for side, names in (("chosen", sides.chosen), ("rejected", sides.rejected)):
                for name in names:
                    if name not in self.variants:
                        raise ValueError(
                            f"classes.{value}.{side}: {name!r} is no variant. Expected some of "
                            f"{', '.join(sorted(self.variants))}."
                        )
            if shared := set(sides.chosen) & set(sides.rejected):
                raise ValueError(f"classes.{value}: {min(shared)!r} is both chosen and rejected.")
        return self

    @model_validator(mode="after")
    def _facts_are_there(self) -> Self:
        told = any(variant.facts for variant in self.variants.values())
        for value in self.knows:
            if value not in self.fact_of or not told:
                raise ValueError(
                    f"classes.{value}.knows counts completions that tell a fact. Expected facts in that "
                    "class too, and a variant with facts = true."
                )
        if len(self.facts) > 1:
            raise ValueError(
                f"facts: names {len(self.facts)} tags ({', '.join(self.facts)}), expected one."
            )
        if not self.facts and (self.fact_of or told):
            raise ValueError(
                "facts are asked for and there is no table facts. Add one, [facts.TAG] with a list of "
                "words for each value of the tag."
            )
        return self


def _beside(path: Path, source: str, *, allow_code: bool) -> Behaviours:
    """Return the behaviours that a recipe names: a shipped file, or one of the recipe's folder."""
    if source not in shipped():
        try:
            source = str(inside(path.parent, source))
        except ValueError as error:
            raise DataError(f"{path}: behaviours: {error}. Put it beside the recipe.") from None
    return Behaviours.load(source, allow_code=allow_code)


def _find(source: str) -> Path:
    path = at_home(source)
    if path.suffix == ".toml" or path.exists():
        return path
    folder = Path(str(resources.files("probekit") / "studies" / "recipes"))
    shipped = at_home(folder / f"{source}.toml")
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
    raise DataError(f"{source}: no such recipe file, and none that ships with probekit ({names}).")
