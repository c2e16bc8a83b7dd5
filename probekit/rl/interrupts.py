"""Ctrl-C once lets a step finish, so that it can be saved; twice does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Holds an interrupt back while the block lasts, until `check` is called.

    In another thread than the main one signals can not be caught, and nothing is held back; nor where
    the process was told to ignore interrupts (nohup).

    Parameters
    ----------
    told
        Called when an interrupt is held back.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._told, self._waiting = told, False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._hold)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` when one has been held back."""
        if self._waiting:
            raise KeyboardInterrupt

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            raise KeyboardInterrupt
        self._waiting = True
        self._told()
