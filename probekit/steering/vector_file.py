"""Steering vectors on disk: safetensors, and the GGUF control vectors of llama.cpp and repeng."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.container import atomic_file, jsonable
from probekit.errors import SteeringError

FORMAT = "probekit.steering_vector"
FORMAT_VERSION = 1
ARCHITECTURE = "controlvector"
IDENTITY = ("model", "revision", "model_type", "weights_fingerprint", "config_hash")


class VectorFile(NamedTuple):
    """What a file holds, under the names of `SteeringVector`'s fields."""

    vectors: Mapping[int, NDArray[Any]]
    """Layer to vector, each of shape (d_model,)."""
    site: str
    source: str
    model: Mapping[str, Any]
    """What identifies the model; of it a file keeps the entries in `IDENTITY`."""


def save(content: VectorFile, path: Path) -> None:
    """Write vectors whole or not at all; the suffix `.gguf` chooses that layout."""
    if path.suffix not in (".safetensors", ".gguf"):
        raise SteeringError(f"{path}: unknown file type. Expected .safetensors or .gguf.")
    write = _write_gguf if path.suffix == ".gguf" else _write_safetensors
    with atomic_file(path) as temporary:
        write(content, temporary)


def load(path: Path) -> VectorFile:
    """Read a file that `save`, llama.cpp or repeng wrote.

    Raises
    ------
    SteeringError
        When the file is absent, damaged, newer, or not a steering vector.
    """
    if not path.is_file():
        raise SteeringError(f"{path}: no such file. Expected a .safetensors or .gguf vector.")
    return _read_gguf(path) if path.suffix == ".gguf" else _read_safetensors(path)


def _write_safetensors(content: VectorFile, path: Path) -> None:
    from safetensors.numpy import save_file

    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "site": content.site,
        "source": content.source,
        "model": {key: content.model.get(key) for key in IDENTITY if key in content.model},
    }
    tensors = {f"layer.{layer}": values for layer, values in content.vectors.items()}
    save_file(tensors, path, metadata={"probekit": json.dumps(jsonable(header))})


def _read_safetensors(path: Path) -> VectorFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("probekit", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise SteeringError(f"{path}: cannot be read as safetensors ({error}).") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SteeringError(
            f"{path}: is not a steering vector of probekit. Expected a file that "
            "SteeringVector.save wrote, or a GGUF control vector."
        )
    if header["format_version"] > FORMAT_VERSION:
        raise SteeringError(
            f"{path}: has format version {header['format_version']}, this probekit reads up to "
            f"{FORMAT_VERSION}. Update probekit."
        )
    try:
        vectors = {int(name.removeprefix("layer.")): values for name, values in tensors.items()}
        return VectorFile(vectors, header["site"], header["source"], header["model"])
    except (ValueError, KeyError) as error:
        raise SteeringError(
            f"{path}: is damaged ({type(error).__name__}: {error}). Expected tensors layer.N and a "
            "header with site, source and model."
        ) from error


def _write_gguf(content: VectorFile, path: Path) -> None:
    """Write `direction.N` float32 tensors: N is the block whose output llama.cpp adds it to."""
    from gguf import GGUFWriter

    if content.site != "resid_post":
        raise SteeringError(
            f"GGUF control vectors act on the output of blocks, this vector on {content.site}. "
            "Save it as .safetensors."
        )
    if 0 in content.vectors:
        raise SteeringError(
            "GGUF control vectors cannot act on block 0: llama.cpp refuses direction.0. Leave "
            "layer 0 out with only(), or save as .safetensors."
        )
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", str(content.model.get("model_type", "")))
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(content.vectors))
    for layer, values in content.vectors.items():
        writer.add_tensor(f"direction.{layer}", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(path: Path) -> VectorFile:
    from gguf import GGUFReader

    try:
        reader: Any = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise SteeringError(f"{path}: cannot be read as GGUF ({error}).") from error
    vectors = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.(\d+)", tensor.name)
        if match is None or len(tensor.shape) != 1 or tensor.data.dtype != np.float32:
            raise SteeringError(
                f"{path}: tensor {tensor.name!r} is not a control vector's. Expected one "
                "float32 direction.N for each layer."
            )
        vectors[int(match[1])] = np.array(tensor.data)
    if not vectors:
        raise SteeringError(f"{path}: holds no direction.N tensor. Is it a whole model?")
    hint = reader.get_field(f"{ARCHITECTURE}.model_hint")
    model = {"model_type": hint.contents()} if hint is not None and hint.contents() else {}
    return VectorFile(vectors, "resid_post", f"GGUF control vector {path.name}", model)
