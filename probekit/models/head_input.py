"""Choose which positions reach a model's output matrix, which is large and rarely wanted whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


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
