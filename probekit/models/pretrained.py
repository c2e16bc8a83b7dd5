"""A model and its tokenizer from files, through transformers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.errors import ModelError

if TYPE_CHECKING:
    import torch

OF_WEIGHTS = ("dtype", "quantization_config")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    drawn, bar = logging.is_progress_bar_enabled(), gguf.tqdm
    logging.disable_progress_bar()
    gguf.tqdm = lambda tensors, **words: tensors  # this one asks nobody
    try:
        yield
    finally:
        gguf.tqdm = bar
        if drawn:
            logging.enable_progress_bar()


def read_gguf(path: Path, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a GGUF file through transformers, dequantised to `dtype`; return model and tokenizer."""
    from transformers import GgufConfig

    # With the package `kernels` the library would leave the weights packed, and no site to read.
    packing = GgufConfig(dequantize=True)
    return from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=dtype, quantization_config=packing
    )


def read_tokenizer(spec: str, **options: Any) -> Any:  # noqa: ANN401 - passed on whole
    """Return a tokenizer through transformers; see `from_pretrained`."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(spec, **options)
        if "gguf_file" not in options and not tokenizer.chat_template:
            tokenizer.chat_template = _of_processor(spec, options.get("revision"))
        return tokenizer
    except (
        Exception
    ) as error:  # readers of a damaged file raise anything, tokenizers a plain Exception
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {spec!r}: its tokenizer could not be loaded ({reason}). Expected a model with a "
            "tokenizer.json."
        ) from error


def _of_processor(spec: str, revision: str | None) -> Any:  # noqa: ANN401 - one template or several
    """Return the chat template that a multimodal model keeps beside its tokenizer, None without one."""
    from transformers.utils import cached_file

    missing = dict.fromkeys(
        ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
    )
    for name in ("chat_template.json", "processor_config.json"):
        path = cached_file(spec, name, revision=revision, **missing)
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        if found.get("chat_template"):
            return found["chat_template"]
    return None


def from_pretrained(spec: str, **options: Any) -> tuple[Any, Any]:  # noqa: ANN401 - passed on whole
    """Return model and tokenizer through transformers, weights from safetensors or one GGUF file.

    Parameters
    ----------
    spec
        Folder or hub id.
    options
        For transformers; all but those of `OF_WEIGHTS` are for the tokenizer too.

    Raises
    ------
    ModelError
        With the first lines of what transformers says.
    """
    from transformers import AutoModelForCausalLM

    use_safetensors = None if "gguf_file" in options else True
    tokenizer = read_tokenizer(spec, **{k: v for k, v in options.items() if k not in OF_WEIGHTS})
    try:
        with quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                spec, **options, use_safetensors=use_safetensors, output_loading_info=True
            )
    except Exception as error:  # a configuration is run by code that trusts it
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {spec!r}: could not be loaded ({reason}). Expected a causal language model "
            "with its tokenizer and safetensors weights."
        ) from error
    if absent := sorted(found["missing_keys"]):
        raise ModelError(
            f"model {spec!r}: {len(absent)} of its weights are in no file, such as {absent[0]}; they would "
            "be random. Fetch the model again, or save it whole with save_pretrained."
        )
    return model, tokenizer
