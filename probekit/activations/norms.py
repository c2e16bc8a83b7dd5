"""How large the residual stream is: the mean norm of its tokens, the unit of a steering coefficient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from probekit.activations.backends.base import Backend, Place
from probekit.activations.gather import pad, plan_batches
from probekit.activations.table import TokenTable
from probekit.models.chat import Rendered

N_ROWS = 16
"""First rows of a capture on which the norms are measured that its store records."""


def mean_norms(
    backend: Backend,
    rows: Sequence[Rendered],
    layers: Sequence[int],
    *,
    site: str = "resid_post",
    batch_tokens: int = 4096,
) -> dict[int, float]:
    """Return the mean Euclidean norm of the tokens' activations at each layer, token 0 of a text left out.

    It is an attention sink whose residual is orders of magnitude larger than any other's, and would be the
    mean.
    """
    device = next(backend.backbone.parameters()).device
    sums, count = dict.fromkeys(layers, 0.0), 0
    lengths = np.array([len(row.ids) for row in rows])
    for batch in plan_batches(lengths, batch_tokens):
        ids, mask = pad([rows[i] for i in batch], device)
        inner = mask.clone()
        inner[:, 0] = inner[:, 0] * (mask.sum(1) == 1)  # a text of one token has no other
        count += int(inner.sum())

        def read(place: Place, acts: Tensor, inner: Tensor = inner) -> None:
            sums[place[1]] += float((acts.float().norm(dim=-1) * inner).sum())

        backend.run(ids, mask, [(site, layer) for layer in layers], read)
    return {layer: total / count for layer, total in sums.items()}


def norms_by_site(
    backend: Backend, table: TokenTable, places: Sequence[Place]
) -> dict[str, dict[str, float]]:
    """Return the mean residual norm by site and layer on the first `N_ROWS` rows of a capture."""
    rows = [table.row(i) for i in range(min(N_ROWS, len(table.lengths)))]
    norms: dict[str, dict[str, float]] = {}
    for site in sorted({site for site, _ in places}):
        layers = [layer for name, layer in places if name == site]
        found = mean_norms(backend, rows, layers, site=site)
        norms[site] = {str(layer): norm for layer, norm in found.items()}
    return norms
