"""A model and its tokenizer from files, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.errors import ModelError

if TYPE_CHECKING:
    import torch

OF_WEIGHTS = ("dtype", "quantization_config")


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
        return AutoTokenizer.from_pretrained(spec, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {spec!r}: its tokenizer could not be loaded ({reason}). Expected a model with a "
            "tokenizer.json."
        ) from error


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
        model = AutoModelForCausalLM.from_pretrained(
            spec, **options, use_safetensors=use_safetensors
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {spec!r}: could not be loaded ({reason}). Expected a causal language model "
            "with its tokenizer and safetensors weights."
        ) from error
    return model, tokenizer
