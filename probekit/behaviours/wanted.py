"""`Wanted`: the behaviour that is hoped for, everywhere or by the class of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probekit.behaviours.definitions import Behaviours
from probekit.errors import BehaviourError


@dataclass(frozen=True)
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
