"""What a store says of its rows: the `Cell` of a matrix and the table of `Examples`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.activations.checksums import AGAIN
from probekit.data.rows import Kind
from probekit.errors import StoreError
from probekit.foreign import Shown
from probekit.models.chat import Rendered
from probekit.parsing import parse_json


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


@dataclass(frozen=True, repr=False)
class Examples(Shown):
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
    """Names of class 0 and class 1; None of three or more."""
    score: NDArray[np.float64] | None = None
    """The rating in the row's own units; only for kind `rating`."""
    side: NDArray[np.object_] | None = None
    """`chosen` or `rejected`; only for kind `pair`."""
    identical: NDArray[np.bool_] | None = None
    """Which pairs have one text on both sides, shape (n_pairs,); None where that is not known."""
    surprisal: NDArray[np.float64] | None = None
    """−log p of the name in a row's tag `name` or `entity` under the model, nats; NaN without one."""
    several: tuple[str, ...] = ()
    """Names of three or more classes, which `label` is an index into."""
    tags: dict[str, NDArray[np.object_]] = field(default_factory=dict)
    """Tag name to values, the empty string where a row has none."""

    def __len__(self) -> int:
        return len(self.id)

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        rows = {"kind": self.kind, "rows": len(self), "groups": len(set(self.group))}
        return {**rows, "classes": self.classes or self.several, "tags": list(self.tags)}


Site = Literal["resid_post", "resid_pre", "attn_out", "mlp_out"]


def read_examples(group: h5py.Group, read: Callable[[h5py.Dataset], NDArray[Any]]) -> Examples:
    """Return the columns of an examples group; `read` gives a dataset, shape as stored, as it is stored."""

    def text(name: str) -> NDArray[np.object_]:
        column = read(group[name]).astype(object)
        for row, value in enumerate(column):
            column[row] = value.decode()
        return column

    def words(name: str) -> NDArray[np.object_]:
        # Equal names are one string: a column of fixed width has the longest one in every row.
        once: dict[str, str] = {}
        column = text(name)
        for row, value in enumerate(column):
            column[row] = once.setdefault(value, value)
        return column

    prompt, completion, identical = text("prompt"), text("completion"), None
    if "side" in group:
        same = [column[::2] == column[1::2] for column in (prompt, completion)]
        identical = np.asarray(same[0] & same[1], dtype=bool)
    classes = group.attrs.get("classes")
    names = tuple(parse_json(str(classes))) if classes is not None else None
    side = words("side") if "side" in group else None
    if side is not None and not ((side[::2] == "chosen") & (side[1::2] == "rejected")).all():
        raise StoreError(
            f"{group.file.filename}:{group.name}/side: is not chosen, rejected in turn. {AGAIN}"
        )
    return Examples(
        kind=str(group.attrs["kind"]),  # type: ignore[arg-type]
        id=words("id"),
        group=words("group"),
        n_tokens=read(group["n_tokens"]).astype(np.int64),
        prompt=prompt,
        completion=completion,
        label=read(group["label"]).astype(np.int64) if "label" in group else None,
        classes=None if names is None or len(names) > 2 else (names[0], names[-1]),
        several=names if names is not None and len(names) > 2 else (),
        score=read(group["score"]) if "score" in group else None,
        side=side,
        identical=identical,
        surprisal=read(group["surprisal"]) if "surprisal" in group else None,
        tags={name: words(f"tags/{name}") for name in group.get("tags", {})},
    )


class TokenTable:
    """Rows of an examples group by index; spans are in memory, token ids stay in the file."""

    COLUMNS = ("token_ids", "token_offsets", "span", "turn_end", "has_prompt")

    def __init__(self, group: h5py.Group) -> None:
        self._ids = group["token_ids"]
        self._offsets = group["token_offsets"][()]
        self._span = group["span"][()]
        self._turn_end = group["turn_end"][()]
        self._has_prompt = group["has_prompt"][()]
        self.lengths: NDArray[np.int64] = np.diff(self._offsets)
        """Tokens of each row, shape (n_examples,)."""
        counts = self._span[:, 1] - self._span[:, 0]
        self.ragged: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """Offsets of each row's completion tokens in a ragged matrix, shape (n_examples + 1,)."""

    def row(self, index: int) -> Rendered:
        """Return one row's token ids and spans."""
        turn_end = int(self._turn_end[index])
        return Rendered(
            self._ids[self._offsets[index] : self._offsets[index + 1]],
            int(self._span[index, 0]),
            int(self._span[index, 1]),
            turn_end if turn_end >= 0 else None,
            bool(self._has_prompt[index]),
        )

    def ragged_rows(self, index: int) -> NDArray[np.int64]:
        """Return where one row's completion tokens lie in a ragged matrix, shape (n_tokens,)."""
        return np.arange(self.ragged[index], self.ragged[index + 1])
