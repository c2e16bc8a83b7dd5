"""Numbers out of text that users wrote: plain decimal ones, and no other that Python would take."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")


def plain_number(text: str) -> float | None:
    """Return the finite number that a text is, None for any other text.

    `float` would also take 1_000, digits of other scripts, nan and infinity.

    Examples
    --------
    >>> [plain_number(text) for text in ("1e3", " -2.5 ", "1_000", "nan", "0x10", "1e999")]
    [1000.0, -2.5, None, None, None, None]
    """
    text = text.strip(" \t\r\n")
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def plain_integer(text: str) -> int | None:
    """Return the integer that a text is, as `7`, `-7` or `7.0`; None for any other text."""
    found = _WHOLE.fullmatch(text.strip(" \t\r\n"))
    return int(found[1]) if found else None


def in_order(names: Iterable[str]) -> list[str]:
    """Return different names sorted: as numbers where all of them are, else as text.

    Examples
    --------
    >>> in_order(["10", "9"]), in_order(["-1", "-2"]), in_order(["yes", "10", "9"])
    (['9', '10'], ['-2', '-1'], ['10', '9', 'yes'])
    """
    found = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in found):
        found.sort(key=Decimal)
    return found
