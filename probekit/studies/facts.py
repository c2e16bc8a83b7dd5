"""Words that show that an answer got something about its subject right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from probekit.errors import DataError

OWN, ANY = "own", "any"


@dataclass(frozen=True)
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
