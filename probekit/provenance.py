"""Who made an artefact, with what and when: the run record every command leaves behind."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probekit import __version__
from probekit.foreign import recorded

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
YOUNGER = {"config_hash", "weights_digest"}
"""Parts of an identity that files of earlier versions lack."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


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
    """Return the run record: command, arguments, seed, versions, threads, own commit, time."""
    return {
        "command": command,
        "arguments": recorded(arguments),
        "seed": seed,
        "argv": recorded(sys.argv[1:]),
        "versions": versions(),
        "git_commit": own_commit(),
        "platform": platform.platform(),
        **_computed_with(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _computed_with() -> dict[str, Any]:
    """Return what else numbers depend on, where torch computes them: threads and the processor's kernels."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    kernels = torch.backends.cpu.get_cpu_capability()
    return {"threads": torch.get_num_threads(), "cpu_capability": kernels}


def own_commit() -> str | None:
    """Return the commit of the checkout that probekit runs from; None where it is installed.

    It is read from git's own files. To ask `git` would run what the settings of a folder name, and in
    the folder that the user stands in it would tell a stranger's commit.
    """
    root = Path(__file__).parents[1]
    try:
        with (root / "pyproject.toml").open("rb") as file:
            if tomllib.load(file)["project"]["name"] != "probekit":
                return None
        return head_of(root)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, LookupError, TypeError):
        return None


def head_of(checkout: Path) -> str | None:
    """Return the commit that a checkout, or a worktree, stands at; None where git's files say none.

    Whether files were changed since is not known.
    """
    git = checkout / ".git"
    if git.is_file():  # a worktree
        git = checkout / _read(git).removeprefix("gitdir:").strip()
    common = git / _read(git / "commondir") if (git / "commondir").is_file() else git
    head = _read(git / "HEAD")
    if not head.startswith("ref:"):
        return _checked(head)
    name = head.removeprefix("ref:").strip()
    for folder in (git, common):
        if (folder / name).is_file():
            return _checked(_read(folder / name))
    packed = common / "packed-refs"
    lines = _read(packed).splitlines() if packed.is_file() else []
    return next((_checked(line.split()[0]) for line in lines if line.endswith(f" {name}")), None)


def _checked(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def agrees(then: Any, now: Any) -> bool:  # noqa: ANN401 - JSON values
    """Return whether an identity that was written earlier is today's.

    A part that is younger than the file, such as `config_hash`, is not held against it. The digest of
    weights counts where both were loaded in one dtype: their fingerprint is the same in every dtype.
    """
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return bool(then == now)
    known = {key for key in now.keys() | then.keys() if key in then or key not in YOUNGER}
    return all(
        agrees(then.get(key), now.get(key))
        for key in known
        if key != "weights_digest" or _comparable(then.get(key), now.get(key))
    )


def _comparable(then: Any, now: Any) -> bool:  # noqa: ANN401 - JSON values
    """Return whether two digests of weights, `dtype-digits`, are both known and of one dtype."""
    return bool(then and now) and str(then).partition("-")[0] == str(now).partition("-")[0]
