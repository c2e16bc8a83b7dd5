"""What a store says of its rows: the `Cell` of a matrix and the table of `Examples`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.data.rows import Kind


class Cell(NamedTuple):
    """One activation matrix of a store: a site of one layer, read at one position rule."""

    site: str
    """TransformerLens word: `resid_post`, `resid_pre`, `attn_out`, `mlp_out`."""
    layer: int
    """0-based block index."""
    position: str
    """Position rule: `last`, `turn_end`, `prompt_end`, `mean`, `first:K`, `token:I`."""

    def __str__(self) -> str:
        return f"{self.site}/{self.layer:03d}/{self.position}"


@dataclass(frozen=True)
class Examples:
    """The columns of a store's rows, all of length `n_examples`, in the order of the data file.

    A pair is two consecutive rows, chosen then rejected, that share their `id`.
    """

    kind: Kind
    id: NDArray[np.object_]
    group: NDArray[np.object_]
    """What must not straddle a split."""
    n_tokens: NDArray[np.int64]
    """Content tokens of the completion (of the prompt, for rows that end with their prompt)."""
    prompt: NDArray[np.object_]
    """The prompt as plain text (chat turns joined by blank lines); empty for raw text."""
    completion: NDArray[np.object_]
    """The completion or raw text; empty for rows that end with their prompt."""
    label: NDArray[np.int64] | None = None
    """0 or 1, an index into `classes`; only for kind `label`."""
    classes: tuple[str, str] | None = None
    """Names of class 0 and class 1."""
    score: NDArray[np.float64] | None = None
    """The rating in the row's own units; only for kind `rating`."""
    side: NDArray[np.object_] | None = None
    """`chosen` or `rejected`; only for kind `pair`."""
    identical: NDArray[np.bool_] | None = None
    """Which pairs have one text on both sides, shape (n_pairs,); None where that is not known."""
    surprisal: NDArray[np.float64] | None = None
    """−log p of the name in a row's tag `name` or `entity` under the model, nats; NaN without one."""
    tags: dict[str, NDArray[np.object_]] = field(default_factory=dict)
    """Tag name to values, the empty string where a row has none."""

    def __len__(self) -> int:
        return len(self.id)


Site = Literal["resid_post", "resid_pre", "attn_out", "mlp_out"]
