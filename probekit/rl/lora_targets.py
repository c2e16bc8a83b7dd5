"""Which layers a LoRA adapter can be put on and merged into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from probekit.errors import ModelError

EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj", "gate", "w1", "w2", "w3"}
"""In a model with experts peft takes these names for the experts' joint weights, wherever they are."""
KERNEL_NAMES = {"out_proj", "dt_proj"}
KERNELS = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba"}
"""Models that read the weights of `KERNEL_NAMES` past the layer, where no adapter is seen."""


def all_linear(model: Any) -> tuple[str | list[str], list[str]]:  # noqa: ANN401
    """Return what `all-linear` stands for, and kinds of layers that it leaves out.

    It is every linear layer whose weight is a matrix of its own. Experts keep theirs in one block of
    three dimensions, which no adapter can be merged into while the model writes.

    Parameters
    ----------
    model
        A transformers model.
    """
    text = set(getattr(model, "get_decoder", lambda: model)().modules())  # not a model of images
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings()
    ]
    experts = {
        f"{_last(name)}.{weight}"
        for name, module in model.named_modules()
        for weight, value in module.named_parameters(recurse=False)
        if value.ndim > 2 and module in text and not hasattr(module, "kernel_size")  # noqa: PLR2004
    }
    out = EXPERT_NAMES if experts else set[str]()
    if model.config.model_type in KERNELS:
        out = out | KERNEL_NAMES
    kept = [name for name, module in linear if module in text and _last(name) not in out]
    if len(kept) == len(linear) and not experts:
        return "all-linear", []
    left = {name if module not in text else _last(name) for name, module in linear} - {*kept}
    named = {_last(name) for name in kept}
    return kept, sorted(experts | {_short(name) for name in left} - named)


def check_mergeable(layers: Sequence[Any], targets: str, work: str | Sequence[str]) -> None:
    """Refuse adapters on weights that are not one layer's matrix.

    Parameters
    ----------
    layers
        What peft put adapters on.
    targets, work
        What was asked for, and what `all-linear` stood for before.

    Raises
    ------
    ModelError
        With targets that work.
    """
    joint = [layer for layer in layers if hasattr(layer, "parameter_name")]  # peft's ParamWrapper
    if joint:
        names = sorted({_last(name) for name in work}) if not isinstance(work, str) else []
        raise ModelError(
            f"LoRA targets {targets!r}: take in {type(joint[0].get_base_layer()).__name__}, whose weights "
            f"are those of experts. Expected all-linear{''.join(f', {name}' for name in names)}."
        )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _short(name: str) -> str:
    """Return the part of a model that a layer outside the text belongs to, or the layer's name."""
    return next((part for part in name.split(".") if part != "model"), name)
