"""A few rows with their scores that a probe keeps, to tell another model by."""

from __future__ import annotations

from typing import Any

import numpy as np

from probekit.activations.store import ActivationStore
from probekit.probes.linear import CellHead
from probekit.probes.tokens import stored_scores

N_REFERENCE = 4


def reference_rows(store: ActivationStore, probe: CellHead) -> dict[str, Any]:
    """Return a few short rows of the store with their scores, for `Scorer` to check a model by.

    The tolerance is a fifth of the scores' spread: about four times what bfloat16 moves a score.
    """
    scores = stored_scores(probe, store)
    table = store.tokens
    index = np.argsort(table.lengths, kind="stable")[:N_REFERENCE]
    rows = [table.row(int(i)) for i in index]
    return {
        "rows": [
            {
                "ids": row.ids.tolist(),
                "span": [row.start, row.stop, row.turn_end, row.has_prompt],
            }
            for row in rows
        ],
        "scores": scores[index].tolist(),
        "tolerance": 0.2 * float(scores.std()) + 1e-6,
    }
