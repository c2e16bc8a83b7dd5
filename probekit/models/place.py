"""Where a model is: the folder or hub id behind what a user names, and the device and dtype to load it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from probekit.errors import ModelError
from probekit.foreign import at_home
from probekit.models.memory import IN_MEMORY
from probekit.models.registry import converted, models, pull

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def place_of(
    spec: str,
    revision: str | None,
    *,
    trust_remote_code: bool,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[str, dict[str, Any]]:
    """Return the folder or hub id of a model, and what transformers is to be told besides."""
    if spec.endswith(IN_MEMORY):
        raise ModelError(
            f"model {spec!r}: has no place to be loaded from. Save it with save_pretrained and name the "
            "folder with --model, or give the model itself in Python."
        )
    path = at_home(spec)
    if spec in (known := models()):
        return str(pull(spec, log=log)), {}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model {spec!r}: no such GGUF file. Check the path.")
        if folder := converted(path, log=log):
            return str(folder), {}
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model {spec!r}: the folder has no config.json. Expected a folder written by "
                "save_pretrained (config, tokenizer, safetensors)."
            )
        return str(path), {"trust_remote_code": trust_remote_code}
    if spec.count("/") != 1 or spec.startswith((".", "/", "~")):
        raise ModelError(
            f"model {spec!r}: unknown. Expected a built-in name ({', '.join(known)}), an "
            "existing folder, a .gguf file or a hub id org/name."
        )
    _check_hub(spec, revision)
    return spec, {"revision": revision, "trust_remote_code": trust_remote_code}


def _check_hub(spec: str, revision: str | None) -> None:
    """Ask for the smallest file first: a wrong name or no network is then said once, in one line."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(spec, "config.json", revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {spec!r}: is not in the local cache, and the hub cannot be reached or has no "
            f"such model ({type(error).__name__}). Check the name, the network, and for a gated "
            "model that you are logged in."
        ) from error


def resolve_device(device: str) -> torch.device:
    """Return the torch device for a name or `auto`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {device!r}: not usable here ({str(error).splitlines()[0]}). "
            "Expected auto, cpu, cuda or cuda:N."
        ) from error
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype for a name or `auto` on `device`."""
    if dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
