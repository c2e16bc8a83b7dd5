"""Logits on the line through a model without its adapter and with it: base + k (tuned - base).

k = 0 is the base, 1 the tuned model; beyond 1 what training did is amplified (logit-difference
amplification). There is one copy of the weights: the adapter is off in one pass and on in the other, and
each has its own cache. Temperature and nucleus apply to the mixed logits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probekit.errors import ModelError

MOST = 100.0
"""Largest k; far below it text falls apart."""
Switch = Callable[[], contextlib.AbstractContextManager[None]]


def check_amplify(model: nn.Module, k: float, ids: Tensor) -> None:
    """Refuse a k that is none, a model without an adapter, and an adapter that changes nothing.

    Parameters
    ----------
    model
        A transformers model with peft's layers in it.
    k
        See the module.
    ids
        Token ids to try it on, shape (n_tokens,).

    Raises
    ------
    ModelError
        With what to change.
    """
    if not (math.isfinite(k) and 0 <= k <= MOST):
        raise ModelError(f"amplify: got {k:g}, expected a number from 0 to {MOST:g}.")
    if not _tuned_layers(model):
        raise ModelError(
            "amplify: the model has no adapter, so there is no difference to amplify. Name one: --adapter."
        )
    if _is_idle(model, ids):
        raise ModelError(
            "amplify: the adapter changes nothing, so a model would be amplified against itself. Name an "
            "adapter that was trained."
        )


def passes(model: nn.Module, k: float | None) -> list[Switch]:
    """Return what is switched around each forward pass of a step: the base's first, where both are needed.

    Parameters
    ----------
    model
        A transformers model; with peft's layers in it where `k` is given.
    k
        None: the model as it is, in one pass. 0 and 1 need one pass too.
    """

    def off() -> contextlib.AbstractContextManager[None]:
        return adapter_off(model)

    both: list[Switch] = [off, contextlib.nullcontext]
    return both if k not in (None, 0, 1) else both[:1] if k == 0 else both[1:]


def mixed(logits: Sequence[Tensor], k: float | None) -> Tensor:
    """Return base + k (tuned - base) in float32, (n, n_vocabulary); logits of one pass as they are.

    A token that both rule out (minus infinity) stays ruled out.
    """
    if len(logits) == 1 or k is None:
        return logits[0]
    base, tuned = (part.float() for part in logits)
    return torch.where(base == tuned, base, base + k * (tuned - base))


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapter in a model off while the block lasts; it is the model below then."""
    layers = [layer for layer in _tuned_layers(model) if not layer._disable_adapters]  # noqa: SLF001
    # peft's `enable_adapters` would also change which weights have gradients, at every token.
    try:
        for layer in layers:
            layer._disable_adapters = True  # noqa: SLF001
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False  # noqa: SLF001


def _tuned_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "_disable_adapters")]


@torch.inference_mode()
def _is_idle(model: nn.Module, ids: Tensor) -> bool:
    layers = _tuned_layers(model)
    names = {name.rpartition(".")[2] for layer in layers for name, _ in layer.named_children()}
    if "lora_B" in names and not names & {"lora_magnitude_vector", "modules_to_save"}:
        # With B = 0 logits still differ by rounding: the sums are over longer rows.
        weights = [(n, w) for layer in layers for n, w in layer.named_parameters()]
        after = [w for n, w in weights if n.startswith(("lora_B", "lora_embedding_B"))]
        return not any(bool(weight.any()) for weight in after)
    on = model(input_ids=ids[None], use_cache=False).logits
    with adapter_off(model):
        return torch.equal(on, model(input_ids=ids[None], use_cache=False).logits)
