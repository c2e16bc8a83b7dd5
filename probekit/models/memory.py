"""A model that is in memory already: what is beneath the wrapper that a library has put around it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from probekit.errors import ModelError
from probekit.models.low_rank import refuse_steered_by_prompt

IN_MEMORY = " in memory"
"""Ends the name of a model that was made here and was loaded from nowhere."""
EXPECTED = (
    "Expected a causal language model of transformers (plain, quantised or with an adapter of peft), a "
    "TransformerBridge, an nnsight LanguageModel, or what names one."
)
_BRIDGED = "_original_component."
_OUTER = re.compile(r"\w+\._original_component\.weight")
"""Names of weights that are not in a block, such as an output matrix tied to the embedding."""


def bare(model: Any) -> Any:  # noqa: ANN401 - any of the libraries' models
    """Return the transformers model in a wrapper of peft, TransformerLens or nnsight; others as they are."""
    if hasattr(model, "original_model"):  # TransformerLens
        return model.original_model
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        return model.get_base_model()
    inside = getattr(model, "__dict__", {}).get("_module")  # nnsight
    return model if isinstance(model, nn.Module) or inside is None else bare(inside)


def unwrapped(model: Any, tokenizer: Any) -> tuple[Any, Any, str]:  # noqa: ANN401
    """Return a model's transformers model in evaluation mode, its tokenizer if it has one, and its name.

    Parameters
    ----------
    model
        Any of the libraries' models.
    tokenizer
        The one to use; None takes the one that the wrapper holds.

    Raises
    ------
    ModelError
        When it is no causal language model, its weights are not there, or there is no tokenizer.
    """
    inner = bare(model)
    if not isinstance(inner, nn.Module) or not hasattr(inner, "config"):
        raise ModelError(f"model: got a {type(model).__name__}. {EXPECTED}")
    if getattr(inner, "get_output_embeddings", lambda: None)() is None:
        raise ModelError(f"model: a {type(inner).__name__} has no output matrix. {EXPECTED}")
    if any(weight.is_meta for weight in inner.parameters()):
        raise ModelError("model: its weights are not loaded yet. Load it with dispatch=True.")
    if hasattr(model, "peft_config"):
        try:
            refuse_steered_by_prompt(model)
        except ValueError as error:
            raise ModelError(f"model: {error}. Merge it, or give the model below it.") from error
    name = str(getattr(inner, "name_or_path", "") or "")
    if tokenizer is None:
        tokenizer = None if inner is model else getattr(model, "tokenizer", None)
    if tokenizer is None and not name:
        raise ModelError(
            "model: comes without a tokenizer. Give it: load_model(model, tokenizer=...)."
        )
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict) or "strftime_now" in str(template or ""):
        tokenizer = copy.deepcopy(tokenizer)  # its template is going to be changed
    return inner.eval(), tokenizer, name or f"{type(inner).__name__}{IN_MEMORY}"


def plain_names(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights, of any shape, by the names that they have without TransformerLens around them."""
    return ((name.replace(_BRIDGED, ""), weight) for name, weight in weights)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return what a model keeps, by name; of a rewired one nothing under its other names."""
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    if any(_BRIDGED in name for name in state):
        own = {name for name, _ in model.named_parameters()}
        kept = (n for n in state if n in own or _OUTER.fullmatch(n))
        state = dict(plain_names((name, state[name]) for name in kept))
    return state
