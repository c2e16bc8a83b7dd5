"""`steered`: a model whose residual stream is edited along a direction while the block lasts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from probekit.activations.backends.base import Backend, Edit, Forward
from probekit.activations.backends.hooks import HooksBackend
from probekit.activations.norms import N_ROWS, mean_norms
from probekit.data.prompts import open_prompts
from probekit.errors import ModelError, SteeringError
from probekit.models.chat import Rendered, render
from probekit.models.kv_cache import check_decoding, has_keys
from probekit.models.load import LoadedModel
from probekit.models.memory import bare
from probekit.probes.linear import CellHead, LinearHead
from probekit.steering.operators import MODES, ablate, add, clamp
from probekit.steering.vector import SteeringVector
from probekit.steering.vector_file import IDENTITY
from probekit.steering.where import Where


class Steering:
    """What `steered` gives: the edited forward pass, and the way to run whole texts through it.

    Examples
    --------
    >>> import torch
    >>> from probekit.models.load import load_model
    >>> from probekit.probes import Probe
    >>> from probekit.steering import SteeringVector, steered
    >>> loaded = load_model("smollm2-135m", dtype="float32")
    >>> vector = SteeringVector.from_probes([Probe.load("sweep")])
    >>> ids = torch.arange(3, 9)[None]
    >>> with steered(loaded, vector, coeff=2.0) as steering:
    ...     torch.equal(steering.forward(input_ids=ids).logits, loaded.model(ids).logits)
    True
    """

    def __init__(self, where: Where) -> None:
        self.forward: Forward = _unset
        """The model's forward pass with the edits in it; give it to `sample`."""
        self._where = where
        self._rows: Sequence[Rendered] | None = None
        self._start = self._seen = 0
        self._prompt: int | None = None
        self._covered: bool | Tensor = True

    @contextlib.contextmanager
    def reading(self, rows: Sequence[Rendered]) -> Iterator[None]:
        """Say that forward passes in the block run these whole, right-padded texts.

        Only so can prompt and completion be told apart in one pass over both.
        """
        self._rows = list(rows)
        try:
            yield
        finally:
            self._rows = None

    def watch(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        """Work out which tokens of the forward pass that begins are to be edited."""
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        n, device = int(tokens.shape[1]), tokens.device
        if self._rows is not None:
            if len(self._rows) != int(tokens.shape[0]):
                raise SteeringError(
                    f"reading: {len(self._rows)} texts were named, the pass runs "
                    f"{int(tokens.shape[0])}. Name the texts of this batch, in its order."
                )
            self._covered = torch.from_numpy(self._where.mask(self._rows, n)).to(device)
            return
        if self._where.name == "both":
            self._covered = True
            return
        self._where.columns(0, 0, 0)  # refuses rules that count from the end
        self._follow(kwargs, n)
        columns = self._where.columns(self._start, self._seen - n, n)
        everything = bool(columns.all())
        whole = everything or not columns.any()
        self._covered = everything if whole else torch.from_numpy(columns)[None].to(device)

    def _follow(self, kwargs: Any, n: int) -> None:  # noqa: ANN401
        """Keep account of where the prompt ends, from the cache before each pass."""
        cache = kwargs.get("past_key_values", kwargs.get("cache_params"))
        if cache is None and not kwargs.get("use_cache") and self._prompt is None:
            raise SteeringError(
                f"where {self._where.name!r}: without a key-value cache prompt and completion can "
                "not be told apart. Generate with use_cache=True, or name the texts with "
                "reading(rows)."
            )
        offset = self._cached(cache)
        # Of candidates that were refused nothing stays, so within `generate` a cache may be shorter.
        known = self._prompt is not None and self._seen >= self._prompt
        if offset not in (0, self._seen) and not (known and offset < self._seen):
            raise SteeringError(
                f"where {self._where.name!r}: the key-value cache holds {offset} tokens that were "
                "not written inside the block. Begin the text inside it, or steer both."
            )
        # An empty cache begins a new text. More than one column at once is prompt, in one piece or
        # in chunks; after the first new token there is no more prompt.
        if self._prompt is not None:
            self._start = self._prompt
        elif offset == 0 or (n > 1 and offset == self._start):
            self._start = offset + n
        self._seen = offset + n

    def _cached(self, cache: Any) -> int:  # noqa: ANN401 - a transformers cache
        if cache is None:
            return 0
        if isinstance(cache, DynamicCache) and cache.layers and not has_keys(cache):
            return self._seen if cache.has_previous_state() else 0  # states alone count no tokens
        return int(cache.get_seq_length())

    @contextlib.contextmanager
    def told_of_prompts(self, model: Any) -> Iterator[None]:  # noqa: ANN401 - a transformers model
        """Let the model's `generate` say where its prompt ends while the block lasts.

        Its passes do not show it: with candidates that are checked together (prompt lookup, an
        assistant), the first holds prompt and candidates, and a text may have no cache.
        """
        inner, own = model.generate, model.__dict__.get("generate")

        @functools.wraps(inner)
        def generate(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            given = (kwargs.get(name) for name in ("inputs_embeds", "input_ids", "inputs"))
            text = next((t for t in (*given, *args[:1]) if t is not None), None)
            kwargs.setdefault(
                "disable_compile", True
            )  # as is done for static caches: see `HooksBackend`
            outermost = self._prompt is None and text is not None
            if self._prompt is None and text is not None:
                self._prompt = int(text.shape[1])
            try:
                return inner(*args, **kwargs)
            finally:
                if outermost:
                    self._prompt = None

        model.generate = generate
        try:
            yield
        finally:
            del model.generate
            if own is not None:
                model.generate = own

    def edit(self, change: Callable[[Tensor], Tensor]) -> Edit:
        """Return `change` restricted to the tokens that are to be edited."""

        def apply(acts: Tensor) -> Tensor | None:
            if self._covered is False:
                return None
            if self._covered is True:
                return change(acts)
            return torch.where(self._covered[..., None], change(acts), acts)

        return apply


@contextlib.contextmanager
def steered(
    model: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    vector: SteeringVector | LinearHead,
    coeff: float = 1.0,
    *,
    mode: str = "add",
    where: str = "both",
    backend: Backend | None = None,
) -> Iterator[Steering]:
    """Edit a model's residual stream along a vector while the block lasts.

    The model is as it was afterwards, also when an exception ends the block. Blocks nest: the
    inner one edits what the outer one left. Works with `generate` and every cache, with candidates
    that it checks together (they count as generated), with left-padded batches of unequal prompts,
    and with single forward passes. A compiled model is refused: it runs past the edits.

    Parameters
    ----------
    model
        A loaded model, or any in memory, as `load_model` takes it.
    vector
        What to steer with, at each of its layers; or a probe: `coeff` then counts mean residual norms of its
        layer (`in_residual_norms`).
    coeff
        `add` adds coeff times the vector; `clamp` sets the component along it to coeff times its
        norm; `ablate` takes no strength. After `vector.in_norms(norms)` one unit is the mean
        residual norm of the layer.
    mode
        `add`, `ablate` or `clamp`.
    where
        `both`, `prompt`, `generated`, or a position rule such as `prompt_end` or `first:16`.
    backend
        Whose forward pass to edit; plain hooks on the model itself by default. The
        TransformerLens and nnsight backends hold their own copy of the model, so use
        `Steering.forward` with them.

    Raises
    ------
    SteeringError
        When the vector does not fit the model, or mode, place or strength cannot be used.

    Examples
    --------
    >>> import torch
    >>> from probekit.models.load import load_model
    >>> from probekit.probes import Probe
    >>> from probekit.steering import SteeringVector, steered
    >>> loaded = load_model("smollm2-135m", dtype="float32")
    >>> vector = SteeringVector.from_probes([Probe.load("sweep")])
    >>> ids = torch.arange(3, 9)[None]
    >>> before = loaded.model(ids).logits
    >>> with steered(loaded, vector, coeff=2.0):
    ...     during = loaded.model(ids).logits
    >>> torch.equal(before, during), torch.equal(before, loaded.model(ids).logits)
    (False, True)
    """
    if mode not in MODES:
        raise SteeringError(f"mode {mode!r}: unknown. Expected {', '.join(MODES)}.")
    if not torch.isfinite(torch.tensor(float(coeff))):
        raise SteeringError(f"coeff {coeff}: expected a finite number.")
    vector = in_residual_norms(vector, model) if isinstance(vector, CellHead) else vector
    backend = backend or HooksBackend(model)
    check_fits(vector, backend)
    place = Where.parse(where)
    parameter = next(backend.backbone.parameters())
    steering = Steering(place)
    edits = {
        (vector.site, layer): steering.edit(change)
        for layer, change in _changes(vector, float(coeff), mode, parameter).items()
    }
    below = model.model if isinstance(model, LoadedModel) else bare(model)
    with contextlib.ExitStack() as stack:
        if hasattr(below, "generate"):
            with contextlib.suppress(ModelError):  # of those who sample; no proof under edits
                check_decoding(below)
            stack.enter_context(steering.told_of_prompts(below))
        handle = backend.backbone.register_forward_pre_hook(steering.watch, with_kwargs=True)
        stack.callback(handle.remove)
        steering.forward = stack.enter_context(backend.editing(edits))
        yield steering


def in_residual_norms(probe: LinearHead, model: LoadedModel | Any) -> SteeringVector:  # noqa: ANN401
    """Return a probe's direction, as long as the residual stream at its layer is on average.

    The norm is the one that the store of the fit recorded: the mean over the tokens of its first 16 rows,
    token 0 left out. Probes from elsewhere, and of older stores, have none: then it is measured here, on the
    rows that the probe keeps to tell a model by, or on 16 prompts of `demo:sentiment_prompts`.

    Raises
    ------
    SteeringError
        When the probe has no direction, or there is no tokenizer to measure with.
    """
    site, layer = probe.site, probe.layer
    vector = SteeringVector.from_probes([probe])
    known = probe.provenance.get("residual_norms", {}).get(site, {}).get(str(layer))
    if known is None:
        rows = [
            Rendered(np.asarray(row["ids"], dtype=np.int32), *row["span"])
            for row in (probe.reference or {}).get("rows", ())
        ]
        if not rows and not isinstance(model, LoadedModel):
            raise SteeringError(
                "probe: its record has no residual norm, and without a tokenizer none can be measured. Give "
                "pk.load_model(model, tokenizer=...), or a SteeringVector of the length that is wanted."
            )
        rows = rows or [
            render(prompt, model.tokenizer)
            for prompt in open_prompts("demo:sentiment_prompts", limit=N_ROWS)
        ]
        backend = HooksBackend(model)
        check_fits(vector, backend)
        known = mean_norms(backend, rows, [layer], site=site)[layer]
    return vector.in_norms({layer: float(known)})


def check_fits(vector: SteeringVector, backend: Backend) -> None:
    """Raise `SteeringError` when the vector is of another width or names a layer that is none, or is none."""
    if not isinstance(vector, SteeringVector):
        raise SteeringError(
            f"vector: got a {type(vector).__name__}, expected a SteeringVector or Probe."
        )
    if vector.d_model != backend.d_model:
        raise SteeringError(
            f"steering vector: is {vector.d_model} wide, the model's residual stream "
            f"{backend.d_model}. Use a vector of this model."
        )
    for layer in vector.layers:
        if not 0 <= layer < backend.n_layers:
            raise SteeringError(
                f"layer {layer}: out of range. The model has layers 0 to {backend.n_layers - 1}."
            )


def check_same_model(vector: SteeringVector, loaded: LoadedModel) -> None:
    """Refuse a vector that says it belongs to other weights."""
    if different := loaded.difference({k: vector.model[k] for k in IDENTITY if k in vector.model}):
        key, made, here = different
        raise SteeringError(
            f"steering vector: {key} is {made} ({vector.model.get('model')!r}), the model's is {here}. "
            "Use a vector of this model, and the same config.json."
        )


def _changes(
    vector: SteeringVector, coeff: float, mode: str, like: Tensor
) -> dict[int, Callable[[Tensor], Tensor]]:
    """Return what is done to the activations of each layer."""
    changes: dict[int, Callable[[Tensor], Tensor]] = {}
    norms = vector.norms()
    for layer, values in vector.vectors.items():
        raw = torch.from_numpy(values).to(like.device)
        if mode == "add":
            delta = (coeff * raw).to(like.dtype)
            changes[layer] = lambda acts, by=delta: add(acts, by)  # type: ignore[misc]
            continue
        if not norms[layer]:
            raise SteeringError(
                f"steering vector: is zero at layer {layer}, so it has no direction to {mode}."
            )
        unit = (raw / norms[layer]).float()
        if mode == "ablate":
            changes[layer] = lambda acts, u=unit: ablate(acts, u)  # type: ignore[misc]
        else:
            value = coeff * norms[layer]
            changes[layer] = lambda acts, u=unit, v=value: clamp(acts, u, v)  # type: ignore[misc]
    return changes


def _unset(**kwargs: Any) -> Any:  # noqa: ANN401 - stands for a forward pass
    raise AssertionError("the steered block has not begun")
