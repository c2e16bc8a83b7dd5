"""`fit_folder`: a fit that is in memory, where a directory of `probekit fit` is read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from probekit.errors import ProbeError
from probekit.probes.aggregate import Aggregate
from probekit.probes.linear import ALONE
from probekit.probes.nonlinear import NonlinearProbe
from probekit.probes.probe import Probe, save_probes
from probekit.probes.result import SweepResult

T = TypeVar("T")
Fit = str | Path | SweepResult | Probe
"""Directory of a fit, its result, or a probe alone."""


@contextlib.contextmanager
def fit_folder(fit: Fit) -> Iterator[Path]:
    """Yield the directory of a fit; of one in memory a temporary one, which lasts as long as the block.

    Raises
    ------
    ProbeError
        When it is no fit and names none.
    """
    if isinstance(fit, (str, Path)):
        yield Path(fit)
        return
    steerable(fit)
    if not isinstance(fit, (SweepResult, Probe)):
        raise ProbeError(
            f"probe: got a {type(fit).__name__}, expected a directory of probekit fit, a Probe, or what "
            "fit_sweep returns."
        )
    with tempfile.TemporaryDirectory(prefix="probekit-") as temporary:
        folder = Path(temporary) / "fit"
        folder.mkdir()
        if isinstance(fit, SweepResult):
            fit.save(folder)
        else:
            save_probes(folder, [fit], 0)
        yield folder


def store_given(fit: Fit, store: str | Path | None) -> str | Path | None:
    """Return the store to read: what was given, else that of a result in memory, else None."""
    return store or (fit.path if isinstance(fit, SweepResult) else None)


def steerable(probe: T) -> T:
    """Return a probe, or refuse one without a direction, or that does not read one position.

    Raises
    ------
    ProbeError
        With what to give in its place.
    """
    if isinstance(probe, NonlinearProbe):
        _ = probe.direction  # says that there is none
    if isinstance(probe, Probe) and Aggregate.of(probe.position):
        raise ProbeError(
            f"probe at {probe.cell}: reads every token by {probe.position}, here one position is read. Score "
            "and evaluate with it, or give a probe of the fit at mean or last."
        )
    return probe


def load_head(
    directory: str | Path,
    *,
    kind: str | None = None,
    layer: int | None = None,
    position: str | None = None,
) -> Probe | NonlinearProbe:
    """Load a probe of a fit that scores: as `Probe.load`, and those of kind `mlp` and `attention`.

    Raises
    ------
    ProbeError
        When the directory is not a fit's, or has no such probe.
    """
    if kind in ALONE:
        return NonlinearProbe.load(directory, str(kind), layer=layer, position=position)
    return Probe.load(directory, kind=kind, layer=layer, position=position)
