"""`fit_folder`: a fit that is in memory, where a directory of `probekit fit` is read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from probekit.errors import ProbeError
from probekit.probes.aggregate import Aggregate
from probekit.probes.nonlinear import NonlinearProbe
from probekit.probes.probe import Probe, save_probes
from probekit.probes.result import SweepResult

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
    check_steerable(fit)
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


def check_steerable(probe: object) -> None:
    """Refuse a probe without a direction, or that does not read one position.

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
