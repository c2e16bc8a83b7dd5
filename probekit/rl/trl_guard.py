"""What keeps TRL's trainers within bounds: the version that is known, and all they change put back."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from probekit.errors import ModelError, with_extra


def require_trl(what: str) -> str:
    """Return TRL's version.

    Parameters
    ----------
    what
        Who needs it, for the message.

    Raises
    ------
    ModelError
        When it is absent, or of another version than 1.16 to 2.
    """
    try:
        installed = version("trl")
    except PackageNotFoundError as error:
        raise ModelError(f"{what}: needs the TRL library. {with_extra('trl')}") from error
    if not (1, 16) <= tuple(int(part) for part in installed.split(".")[:2]) < (2, 0):
        raise ModelError(
            f"{what}: found TRL {installed}, expected 1.16 or newer, below 2. {with_extra('trl')}"
        )
    return installed


@contextlib.contextmanager
def random_states(device: torch.device) -> Iterator[None]:
    """Put the global random states back that TRL seeds."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what transformers says of argument names that TRL chose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* will be removed in v6", FutureWarning)
        yield


@contextlib.contextmanager
def forward_kept(model: Any) -> Iterator[None]:  # noqa: ANN401 - a transformers model
    """Take TRL's own forward function off the model again."""
    before = vars(model).get("forward")
    try:
        yield
    finally:
        vars(model).pop("forward", None)
        if before is not None:
            model.forward = before
