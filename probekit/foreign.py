"""What comes from elsewhere: text made fit to show, addresses without keys, names that stay in a folder."""

from __future__ import annotations

import os
import re
import site
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ADDRESS = re.compile(r"https?://[^\s'\"]+", re.IGNORECASE)
_PLACE = re.compile(
    r"(?<![\w.~:/\\-])(?:~|/|[A-Za-z]:[\\/])[^\s,:;'\"()\[\]{}=]*[^\s,:;'\"()\[\]{}=.]"
)
GONE = "***"
"""Stands where a key was."""


def shown(text: str) -> str:
    """Return text without what moves a terminal's cursor, colours it or turns its letters round."""
    return _UNSEEN.sub("", text)


def public(address: str) -> str:
    """Return an address without user, password, query and fragment: each may be a key."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return GONE
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_keys(text: str, *keys: str) -> str:
    """Return text without these keys, and with its addresses as `public` ones."""
    parts = {part for key in keys for part in (key, *key.split()) if part}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, GONE)
    return _ADDRESS.sub(lambda found: public(found[0]), text)


def without_places(value: Any) -> Any:  # noqa: ANN401 - any JSON-like value
    """Return a value with the last name in place of every absolute path in it."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(item) for item in value]
    if isinstance(value, str):
        return _PLACE.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("/\\"))[-1], value)
    return value


def inside(folder: Path, name: str) -> Path:
    """Return the path that a file of `folder` names.

    Raises
    ------
    ValueError
        When it leads out of the folder, through a link too.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of the folder of the file that names it")
    return path


def child(*arguments: str, **more: str) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a child of this Python that imports nothing from the current folder.

    Parameters
    ----------
    arguments
        What follows `python`, such as `-m pip`.
    more
        Further variables of its environment.
    """
    entries = [
        e for e in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(e).is_absolute()
    ]
    own = Path(__file__).parents[1]
    if str(own) not in {*site.getsitepackages(), site.getusersitepackages()}:
        entries.insert(0, str(own))  # the probekit that runs now, wherever it was found
    safe = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}
    return [sys.executable, "-P", *arguments], {**os.environ, **safe, **more}
