"""The day that a chat template prints: one that is recorded, instead of the day of each run."""

from __future__ import annotations

import datetime
import re
from typing import Any

from probekit.errors import ModelError

_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def today() -> str:
    """Return the day, `YYYY-MM-DD`."""
    return datetime.date.today().isoformat()  # noqa: DTZ011 - as templates do, in local time


def set_date(tokenizer: Any, date: str | None) -> str | None:  # noqa: ANN401
    """Give a template that prints the date one that stays; return it, None where none is printed.

    Parameters
    ----------
    tokenizer
        Its template gets the date in place of the calls that print it.
    date
        `YYYY-MM-DD`; None takes today's.

    Raises
    ------
    ModelError
        When it is no date.
    """
    template = getattr(tokenizer, "undated_template", tokenizer.chat_template)
    if "strftime_now" not in str(template or ""):
        return None
    try:
        day = datetime.datetime.fromisoformat(date or today())
    except ValueError as error:
        raise ModelError(f"template date {date!r}: expected a day as YYYY-MM-DD.") from error
    tokenizer.undated_template = template
    tokenizer.chat_template = _CLOCK.sub(lambda call: repr(day.strftime(call[2])), template)
    return day.date().isoformat()
