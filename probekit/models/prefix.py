"""Rows in one forward pass: prompts padded on the left, and completions behind prompts they share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probekit.models.chat import Rendered
from probekit.models.kv_cache import decode_inputs, is_recurrent, new_cache, select_rows


class SharedPrefix:
    """What is left of rows behind the prompts that they share, all but the prompts' last token.

    With gradient or without: the cached keys and values are part of the graph. Recurrent layers change
    their states in place, and not all go on from one with several tokens, so their rows stay whole.

    Parameters
    ----------
    rows
        Prompt and completion as one row each.
    model
        A transformers model.
    """

    def __init__(self, rows: Sequence[Rendered], model: Any) -> None:  # noqa: ANN401
        self._model, device = model, model.device
        cut = 0 if min(row.new for row in rows) < 2 or is_recurrent(model) else 1
        prefixes = [row.ids[: cut * (row.new - 1)] for row in rows]
        place: dict[bytes, int] = {}
        of = [place.setdefault(prefix.tobytes(), len(place)) for prefix in prefixes]
        first = [prefixes[of.index(k)] for k in range(len(place))]
        self.rows = [_after(row, len(prefix)) for row, prefix in zip(rows, prefixes, strict=True)]
        """Short rows, starting with the prompt's last token."""
        self._ids, self._mask = left_pad(first, device)
        self._of = torch.tensor(of, device=device)

    def inputs(self, mask: Tensor) -> dict[str, Any]:
        """Run the prompts; return what a forward pass of the padded short rows needs beside ids.

        Parameters
        ----------
        mask
            Mask of the short rows, right-padded, shape (n_rows, n_tokens).
        """
        if not self._ids.shape[1]:
            return {"attention_mask": mask, "use_cache": False}
        cache, width = new_cache(self._model), self._mask.shape[1]
        prompts = decode_inputs(self._model, self._mask, cache, width)
        with head_input(self._model, Tensor.contiguous):
            self._model(input_ids=self._ids, **prompts, logits_to_keep=1)
        select_rows(cache, self._of)
        whole = torch.cat([self._mask[self._of], mask], dim=1)
        return decode_inputs(self._model, whole, cache, mask.shape[1])


def plan_shared(
    rows: Sequence[Rendered],
    batch_tokens: int,
    model: Any,  # noqa: ANN401
) -> list[NDArray[np.int64]]:
    """Return batches of row indices, (n_batch,) each, that keep rows of the same prompt together.

    Each has at most `batch_tokens` padded tokens, or one row. Those of its different prompts count once,
    unless `model` is recurrent and shares none.
    """
    whole = is_recurrent(model)
    tail = np.array([len(row.ids) - (0 if whole else row.new - 1) for row in rows])
    keys = [row.ids[: row.new].tobytes() for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].new, keys[i], -tail[i]))
    batches: list[NDArray[np.int64]] = []
    current: list[int] = []
    widest, longest, prompts = 0, 0, set[bytes]()
    for i in order:
        widest, longest = max(widest, int(tail[i])), max(longest, rows[i].new)
        prompts.add(keys[i])
        if (
            current
            and widest * (len(current) + 1) + (0 if whole else longest * len(prompts))
            > batch_tokens
        ):
            batches.append(np.array(current))
            current, widest, longest, prompts = [], int(tail[i]), rows[i].new, {keys[i]}
        current.append(i)
    return [*batches, np.array(current)]


def _after(row: Rendered, cut: int) -> Rendered:
    end = None if row.turn_end is None else row.turn_end - cut
    return replace(row, ids=row.ids[cut:], start=row.start - cut, stop=row.stop - cut, turn_end=end)


def left_pad(
    rows: Sequence[NDArray[np.int32]], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return left-padded token ids and their mask, both (n_rows, n_tokens) of int64."""
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


@contextlib.contextmanager
def head_input(model: Any, pick: Callable[[Tensor], Tensor]) -> Iterator[None]:  # noqa: ANN401
    """Let the output matrix see `pick(hidden)` while the block lasts, with hidden (n, n_tokens, d).

    What comes after the matrix (soft caps, scales) works entry by entry, so the logits are those of
    the picked positions. Also used to make a slice contiguous: `logits_to_keep` alone hands the
    matrix a strided view, for which torch copies the whole matrix once a sequence.
    """

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (pick(args[0]), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
