"""What comes from elsewhere: text made fit to show, addresses without keys, names that stay in a folder."""

from __future__ import annotations

import html
import os
import re
import site
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ADDRESS = re.compile(r"https?://[^\s'\"]+", re.IGNORECASE)
_PLACE = re.compile(
    r"(?<![\w.~:/\\-])(?:file:/{1,3}|~|/|[A-Za-z]:[\\/])[^\s,:;'\"()\[\]{}=]*[^\s,:;'\"()\[\]{}=.]"
)
_WHOLE = re.compile(r"(?:file:/{1,3}|~/|/|[A-Za-z]:[\\/])[^\n]+")
PATHS = "PROBEKIT_RECORD_PATHS"
"""Environment variable of `--record-paths`: children have it too."""
LONGEST = 800
"""Characters of a message."""
GONE = "***"
"""Stands where a key was."""
MOST, WIDTH = 16, 100
"""Lines, and characters of a value, that an object prints."""


def shown(text: str) -> str:
    """Return text without what moves a terminal's cursor, colours it or turns its letters round."""
    return _UNSEEN.sub("", text)


def one_line(text: str) -> str:
    """Return text fit to show on one line, of at most `LONGEST` characters.

    The middle of a longer one is left out: a message has its place at the beginning, the remedy at the
    end.
    """
    line = " ".join(shown(text).split())
    return (
        line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[5 - LONGEST // 2 :]}"
    )


def at_home(name: str | Path) -> Path:
    """Return the path that a user names, `~` and `~user` resolved where there is such a user.

    A name that no file can have (too long, with a NUL) becomes one that is nowhere, so that who looks
    says that there is none, instead of what the system raises.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path's own raises for a stranger's home
    try:
        path.exists()
    except (OSError, ValueError):
        return Path(os.devnull) / "none"
    return path


def escaped(line: str) -> str:
    """Return JSON in which `\\u009b` and the like stand for what `shown` leaves out."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


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


def recorded(value: Any) -> Any:  # noqa: ANN401 - any JSON-like value
    """Return a value as records and pages hold it: without keys, and without paths unless asked."""
    if _asked():
        return _mapped(value, without_keys)
    return _mapped(value, lambda text: without_places(without_keys(text)))


def without_places(text: str) -> str:
    """Return text with the last name in place of every absolute path in it."""
    home = str(Path.home())
    text = text.replace(home, "~") if len(home) > 1 else text
    if _WHOLE.fullmatch(text) and " /" not in text:  # one path, with spaces in it maybe
        return _last(text)
    return _PLACE.sub(lambda found: _last(found[0]), text)


def beside(path: str | Path, folder: str | Path) -> str:
    """Return how what lies in `folder` names a path: by the way from there, or by its last name.

    The way is named where it goes through nothing above the folder's parent or the current folder:
    what lies above says who somebody is. With `--record-paths` it is the whole path.
    """
    there, here = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100
    if _asked():
        return str(there)
    common = Path(os.path.commonpath([there, here]))
    if common == here.parent or common.is_relative_to(Path.cwd()) or common == here:
        return Path(os.path.relpath(there, here)).as_posix()
    return there.name


def _asked() -> bool:
    return os.environ.get(PATHS, "").lower() not in ("", "0", "false", "no")


def _mapped(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON-like value
    if isinstance(value, dict):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return change(value) if type(value) is str else value  # markup stays as it is


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("/\\"))[-1]


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


class Shown:
    """An object that prints in a few lines, and as a small table in a notebook, what `facts` returns."""

    def facts(self) -> dict[str, object]:
        """Return name to value, in order; None and what is empty are left out."""
        raise NotImplementedError

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        for name, value in self.facts().items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {item}" for key, item in value.items())
            elif type(value) in (list, tuple):
                value = ", ".join(map(str, value))  # type: ignore[call-overload]
            text = "" if value is None else shown(" ".join(str(value).split()))
            if text:
                rows.append((name, text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."))
        return rows[:MOST]

    def __repr__(self) -> str:
        rows = self._rows()
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join([type(self).__name__, *(f"  {n:<{width}}  {text}" for n, text in rows)])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._rows()
        )
        return f"<table><caption>{type(self).__name__}</caption>{cells}</table>"
