"""Regular expressions of files that users write, and others gave them: bounded in time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from probekit.errors import PatternError

SECONDS = 2.0
"""Of the processor, for one search; an ordinary one takes microseconds."""


@dataclass(frozen=True)
class Pattern:
    """An expression, searched without regard to case.

    The module `regex` reads the syntax of `re`, look-around too, and can give up. A linear engine
    would need no limit, and has no look-around, which the shipped behaviours use.
    """

    pattern: str

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 - regex has no types
        import regex

        try:
            return regex.compile(self.pattern, regex.IGNORECASE)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def check(self) -> None:
        """Compile the expression.

        Raises
        ------
        ValueError
            When it is none.
        """
        _ = self._compiled

    def search(self, text: str) -> bool:
        """Return whether the expression is found anywhere in a text.

        Raises
        ------
        PatternError
            When the search takes more than `SECONDS`.
        """
        try:
            return self._compiled.search(text, timeout=SECONDS) is not None
        except TimeoutError:
            raise PatternError(
                f"pattern {self.pattern!r}: gave no answer in {SECONDS:g} s on a text of {len(text)} "
                "characters. Expected one without repetitions inside repetitions, as in (a+)+."
            ) from None


def compiled(value: object) -> Pattern:
    """Return the pattern that a file spells, one that is made as it is.

    Raises
    ------
    ValueError
        When it is no expression.
    """
    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str):
        raise ValueError(f"got {value!r}, expected a regular expression in quotes.")
    pattern = Pattern(value)
    try:
        pattern.check()
    except ValueError as error:
        raise ValueError(
            f"pattern {value!r} is not a regular expression ({error}). Escape what is meant literally "
            "with a backslash."
        ) from error
    return pattern
