"""Load any causal language model the same way: built-in name, local folder, GGUF file or hub id."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.digests import check_file
from probekit.errors import ModelError
from probekit.foreign import Shown, recorded
from probekit.models.chat import Turn, turn_of
from probekit.models.dates import set_date, today
from probekit.models.identity import (
    config_hash,
    digest_of,
    vocabulary,
    weights_digest,
    weights_fingerprint,
)
from probekit.models.low_rank import compute_unrounded, refuse_steered_by_prompt
from probekit.models.memory import unwrapped
from probekit.models.place import place_of, resolve_device, resolve_dtype
from probekit.models.pretrained import from_pretrained, read_gguf, read_tokenizer
from probekit.provenance import agrees

IDENTITY = (
    "weights_fingerprint", "weights_digest", "config_hash", "tokenizer_hash", "template_hash",
    "template_date",
)  # fmt: skip
"""What two models must have in common for numbers of one to be read on the other."""
FACTS = (
    "model", "revision", "model_type", "forward_dtype", "device", "max_length", "weights_fingerprint",
)  # fmt: skip
"""What is printed of a model."""


@dataclass(frozen=True, repr=False)
class LoadedModel(Shown):
    """A model in evaluation mode with its tokenizer and what identifies them."""

    model: Any
    """The transformers causal language model, on its device."""
    tokenizer: Any
    spec: str
    """What the user asked for: built-in name, folder, GGUF file or hub id."""
    revision: str | None
    fingerprint: str
    """SHA-256 over a sample of every weight, 16 hex digits."""
    tokenizer_hash: str
    template_hash: str | None
    """Hash of the chat template; None when the tokenizer has none."""
    config_hash: str | None = None
    """Hash of what the configuration says of the computation, such as the scaling of positions."""
    template_date: str | None = None
    """Day that the template prints, `YYYY-MM-DD`; None when the template prints none."""
    weights_digest: str | None = None
    """Checksum of every value as it was loaded, see `models.identity.weights_digest`."""
    adapter: str | None = None
    """Directory of the adapter that it was loaded with, as records show it."""

    @functools.cached_property
    def turn(self) -> Turn:
        """What the chat template puts around an answer."""
        return turn_of(self.tokenizer)

    @property
    def dtype(self) -> str:
        """Name of the forward dtype."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device  # type: ignore[no-any-return]

    @property
    def max_length(self) -> int:
        """Longest sequence the model was configured for, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 0) or 1 << 30)

    def check_ids(self, ids: NDArray[np.integer], row: str) -> None:
        """Refuse a row with a token that the model has no embedding of, ids of shape (n_tokens,).

        Raises
        ------
        ModelError
            With the token and the row's name.
        """
        known = int(self.model.get_input_embeddings().weight.shape[0])
        if len(ids) and int(ids.max()) >= known:
            worst = int(ids.max())
            raise ModelError(
                f"{row}: has the token {self.tokenizer.convert_ids_to_tokens(worst)!r} of id {worst}, the "
                f"model's embedding has {known} rows: the tokenizer was extended and the model was not. "
                "Leave such rows out, or use the model's own tokenizer."
            )

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        known = {**self.describe(), "device": self.device}
        return {name: known[name] for name in FACTS if name in known}

    def difference(self, record: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
        """Return the first part of a recorded identity that is not this model's: name, there, here.

        A part that the record lacks is not held against it; see `provenance.agrees`.
        """
        here = {**dict.fromkeys(IDENTITY), **self.describe()}
        for key in IDENTITY:
            if key in record and not agrees({key: record[key]}, {key: here[key]}):
                return key, record[key], here[key]
        return None

    def describe(self) -> dict[str, Any]:
        """Return the identity of the model for an artefact's provenance."""
        return {
            "model": self.spec,
            "revision": self.revision,
            "model_type": self.model.config.model_type,
            "n_parameters": sum(weight.numel() for weight in self.model.parameters()),
            "weights_fingerprint": self.fingerprint,
            **({"weights_digest": self.weights_digest} if self.weights_digest else {}),
            "config_hash": self.config_hash,
            **({"adapter": self.adapter} if self.adapter else {}),
            "tokenizer_hash": self.tokenizer_hash,
            "template_hash": self.template_hash,
            **({"template_date": self.template_date} if self.template_date else {}),
            "forward_dtype": self.dtype,
            "max_length": self.max_length,
        }


def load_model(
    spec: str | Path | Any,  # noqa: ANN401 - or a model in memory
    *,
    tokenizer: Any = None,  # noqa: ANN401 - a transformers tokenizer
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    template_date: str | None = None,
    adapter: str | Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> LoadedModel:
    """Load a causal language model and its tokenizer, or take one that is in memory.

    A model in memory stays where it is, in its own dtype; it is put in evaluation mode, and nothing else
    of it is changed. Adapters of peft and quantised weights count in its fingerprint.

    Parameters
    ----------
    spec
        A built-in name (pulled when it is not there yet), a local folder, a `.gguf` file, or a
        Hugging Face hub id `org/name`; or a model itself: of transformers, plain or with an adapter of
        peft, a `TransformerBridge` of TransformerLens, a `LanguageModel` of nnsight. A `LoadedModel` is
        returned as it is.
    tokenizer
        Tokenizer of a model in memory, where the object does not hold it and no folder or cache has it; of
        another, instead of its own.
    dtype
        `auto`, `float32`, `bfloat16` or `float16`. `auto` takes bfloat16 where the hardware
        multiplies it natively (CUDA, AVX512-BF16, AMX), else float32.
    device
        `auto` (CUDA when there is one, else the CPU) or a torch device name.
    revision
        Hub revision; ignored for local files.
    trust_remote_code
        Run Python code that ships with a hub repository. Off unless the user asks.
    template_date
        Day for a chat template that prints the date, `YYYY-MM-DD`; None takes today's. A store and a
        probe record it.
    adapter
        Directory of a LoRA adapter as peft writes it, which `dpo` and `rl` leave, put beside the weights.
        The fingerprint is that of the model with it.
    log
        Receives a line when something slow starts, and what is particular about the chat template.

    Raises
    ------
    ModelError
        When `spec` names nothing that can be loaded.

    Examples
    --------
    >>> from probekit.models.load import load_model
    >>> loaded = load_model("smollm2-135m", dtype="float32")
    >>> load_model(loaded.model, tokenizer=loaded.tokenizer).fingerprint == loaded.fingerprint
    True
    """
    if isinstance(spec, LoadedModel) and tokenizer is None:
        return spec
    if isinstance(spec, (str, Path)):
        how = {"revision": revision, "trust_remote_code": trust_remote_code}
        name = str(spec)
        model, own = _read(name, dtype, resolve_device(device), log, **how)
        tokenizer = own if tokenizer is None else tokenizer
    else:
        if (dtype, device) != ("auto", "auto"):
            raise ModelError(
                "model: is in memory, and stays in its dtype and place. Use model.to()."
            )
        given = spec.model if isinstance(spec, LoadedModel) else spec
        model, tokenizer, name = unwrapped(given, tokenizer)
        tokenizer = load_tokenizer(name) if tokenizer is None else tokenizer
    if adapter is not None:
        model = _adapted(model, name, _whole(adapter))
    loaded = _identified(model, tokenizer, name, revision, template_date, log)
    return (
        loaded if adapter is None else dataclasses.replace(loaded, adapter=recorded(str(adapter)))
    )


def _read(
    name: str, dtype: str, place: torch.device, log: Callable[[str], None], **how: Any  # noqa: ANN401
) -> tuple[Any, Any]:  # fmt: skip
    """Return a model on its device, without gradients, and its tokenizer."""
    where, options = place_of(
        name, how["revision"], trust_remote_code=how["trust_remote_code"], log=log
    )
    options["dtype"] = resolve_dtype(dtype, place)
    if "gguf_file" in options:
        model, tokenizer = read_gguf(Path(where) / options["gguf_file"], dtype=options["dtype"])
    else:
        model, tokenizer = from_pretrained(where, **options)
    model = model.to(place).eval()
    model.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return model, tokenizer


def _identified(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    name: str,
    revision: str | None,
    template_date: str | None,
    log: Callable[[str], None],
) -> LoadedModel:
    _check_finite(model, name)
    _one_template(tokenizer, name)
    template = tokenizer.chat_template
    date = set_date(tokenizer, template_date)
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        spec=name,
        revision=getattr(model.config, "_commit_hash", None) or revision,
        fingerprint=weights_fingerprint(model),
        weights_digest=weights_digest(model),
        tokenizer_hash=digest_of(vocabulary(tokenizer)),
        template_hash=digest_of(template) if template else None,
        template_date=date,
        config_hash=config_hash(model.config),
    )
    if date is not None:
        log(f"{name}: its chat template prints the date; it is {date} (--template-date)")
    if loaded.turn.opened:
        log(
            f"{name}: its prompts end with {loaded.turn.opened}, so a completion stands inside that block "
            "until it closes it"
        )
    return loaded


def at_date_of(loaded: LoadedModel, record: Mapping[str, Any]) -> LoadedModel:
    """Return a model whose template prints the date of an earlier run's record, instead of today's.

    A date that was asked for stays, so that the two are seen to differ.
    """
    date = record.get("template_date")
    if date is None or loaded.template_date in (None, date) or loaded.template_date != today():
        return loaded
    return dataclasses.replace(loaded, template_date=set_date(loaded.tokenizer, date))


ADAPTERS = ("adapter", "checkpoint/adapter")
"""Where `probekit dpo` and `probekit rl` leave theirs in a run's folder."""


def adapter_folder(folder: str | Path) -> Path:
    """Return the folder that holds an adapter: the one that is given, or that in a run's."""
    folder = Path(folder)
    places = (folder, *(folder / name for name in ADAPTERS))
    return next((place for place in places if (place / "adapter_config.json").is_file()), folder)


def add_adapter(loaded: LoadedModel, folder: str | Path) -> LoadedModel:
    """Return the model with the adapter of `folder`, as peft writes it, beside its own weights.

    It is not merged: in bfloat16 the sum would lose what is below the last digit of a weight. The
    fingerprint stays that of the model below the adapter.

    Raises
    ------
    ModelError
        When there is no adapter, or it is of another model.
    """
    folder = _whole(folder)
    return dataclasses.replace(loaded, model=_adapted(loaded.model, loaded.spec, folder))


def _whole(folder: str | Path) -> Path:
    """Return the folder of an adapter that is whole and not pickled, or raise `ModelError`."""
    folder = adapter_folder(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder}: holds no {name}. Expected an adapter; a pickled adapter is not read."
            )
    check_file(folder / "adapter_model.safetensors", ModelError, "Take another checkpoint.")
    return folder


def _adapted(model: Any, spec: str, folder: str | Path) -> Any:  # noqa: ANN401 - transformers' models
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    folder = _whole(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of merging, which is not done
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted = PeftModel.from_pretrained(
                model, folder, autocast_adapter_dtype=False, torch_device=str(model.device)
            )
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            saved = set(file.keys())
        # Layers that the model lacks are passed over in silence. Some files hold weights below too.
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        if other := sorted(name for name in saved ^ own.keys() if ".base_layer." not in name):
            raise ValueError(f"{len(other)} layers are in one of them only, such as {other[0]}")
        refuse_steered_by_prompt(adapted)
        compute_unrounded(adapted)
        return adapted.get_base_model()
    except (OSError, RuntimeError, ValueError, UserWarning, SafetensorError) as error:
        raise ModelError(
            f"{folder}: the adapter does not fit {spec} "
            f"({' '.join(str(error).split())[:200]}). Name the model that it was trained on."
        ) from error


@torch.inference_mode()
def _check_finite(model: Any, spec: str) -> None:  # noqa: ANN401
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.dtype.itemsize < 2 or weight.is_meta:  # noqa: PLR2004
            continue
        # Half the cost of looking at every value; a sum in float32 of halves does not overflow.
        if not bool(torch.isfinite(weight.sum(dtype=torch.float32))):
            n = int((~torch.isfinite(weight)).sum())
            if n:
                raise ModelError(
                    f"model {spec!r}: {n} of {weight.numel()} values of {name} are not finite in "
                    f"{str(weight.dtype).removeprefix('torch.')}. Load it with --dtype bfloat16 or float32; "
                    "if they still are not, the file is damaged."
                )


def load_tokenizer(
    spec: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    template_date: str | None = None,
) -> Any:  # noqa: ANN401 - a transformers tokenizer
    """Return the tokenizer of a model alone, as `load_model` gives it; see there."""
    where, options = place_of(spec, revision, trust_remote_code=trust_remote_code)
    tokenizer = read_tokenizer(where, **options)
    _one_template(tokenizer, spec)
    set_date(tokenizer, template_date)
    return tokenizer


def _one_template(tokenizer: Any, spec: str) -> None:  # noqa: ANN401 - a transformers tokenizer
    """Take the template `default` of several named ones."""
    named = tokenizer.chat_template
    if not isinstance(named, dict):
        return
    if "default" not in named:
        raise ModelError(
            f"model {spec!r}: its chat templates are named {', '.join(sorted(named))}, none of them default. "
            "Save the tokenizer with the wanted one as its only template."
        )
    tokenizer.chat_template = named["default"]
