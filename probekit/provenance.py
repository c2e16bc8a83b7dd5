"""Who made an artefact, with what and when: the run record every command leaves behind."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probekit import __version__

LIBRARIES = (
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "peft",
    "scikit-learn",
    "numpy",
    "h5py",
)
YOUNGER = {"config_hash"}
"""Parts of an identity that files of earlier versions lack."""


def versions() -> dict[str, str]:
    """Return the versions of Python, probekit and the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "probekit": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run_record(
    command: str, arguments: dict[str, Any], *, seed: int | None = None
) -> dict[str, Any]:
    """Return the run record: command, arguments, seed, versions, git commit of the folder, time."""
    return {
        "command": command,
        "arguments": arguments,
        "seed": seed,
        "argv": sys.argv[1:],
        "versions": versions(),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit(folder: Path | None = None) -> str | None:
    """Return the folder's commit, `-dirty` appended when changed, or None outside a checkout."""
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None


def agrees(then: Any, now: Any) -> bool:  # noqa: ANN401 - JSON values
    """Return whether an identity that was written earlier is today's.

    A part that is younger than the file, such as `config_hash`, is not held against it.
    """
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return bool(then == now)
    known = {key for key in now.keys() | then.keys() if key in then or key not in YOUNGER}
    return all(agrees(then.get(key), now.get(key)) for key in known)
