"""The pairs a Bradley-Terry head was fitted on, as differences of activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ProbeError
from probekit.probes.probe import Probe
from probekit.rl.head_data import HeadData


@dataclass(frozen=True)
class Pairs:
    """A Bradley-Terry head with the differences of its fit and its choose split.

    The report split is not read: no analysis may spend it.
    """

    head: Probe
    fit: NDArray[np.float32]
    """Chosen minus rejected at the head's cell, shape (n_fit, d_model), raw activation units."""
    choose: NDArray[np.float32]
    """Shape (n_choose, d_model)."""
    standardize: bool
    """Whether the fit divided features by their root mean square."""

    @classmethod
    def open(cls, directory: str | Path, store: str | Path | None = None) -> Pairs:
        """Read the chosen head of a fit, and its pairs from the store the fit names or from `store`.

        Raises
        ------
        ProbeError
            When the directory is not a fit, its chosen head is of another kind, or the store is
            gone or another one.
        StoreError
            When the store can not be read.
        """
        head = Probe.load(directory)
        if head.kind != "bradley-terry":
            raise ProbeError(
                f"{directory}: its chosen probe is {head.kind} on {head.data_kind} rows, expected "
                "bradley-terry. Fit a store of pairs with --kind bradley-terry."
            )
        data = HeadData.open(directory, head, store)
        splits = data.task.splits
        return cls(
            head,
            data.task.design(data.acts, splits.fit).astype(np.float32),
            data.task.design(data.acts, splits.choose).astype(np.float32),
            data.standardize,
        )
