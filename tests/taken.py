"""An output that somebody else is writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from probekit.container import lock_name


@contextlib.contextmanager
def taken(out: Path) -> Iterator[None]:
    """Hold an output as another process does."""
    lock = lock_name(out)
    with FileLock(lock):
        lock.write_text("probekit other, pid 7 on there, since 2026-01-01 12:00")
        yield
