"""Fixtures shared by every room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local folder with a tiny Llama and a chat tokenizer."""
    from tests.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def real_model() -> str:
    """The embedded model, pulled once into the user's cache."""
    from probekit.models.registry import pull

    pull("smollm2-135m")
    return "smollm2-135m"


@pytest.fixture
def rng():
    """Random numbers of no fixed seed: a test passes with any."""
    return np.random.default_rng()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What is synced and moved, in order."""
    seen, sync = [], os.fsync

    def fsync(handle):
        seen.append(("sync", Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)

    def moving(move):
        def moved(old, new, *args, **more):
            seen.append(("move", Path(old), Path(new)))
            return move(old, new, *args, **more)

        return moved

    for name in ("replace", "rename", "link"):
        monkeypatch.setattr(os, name, moving(getattr(os, name)))
    return seen
