"""Steering vectors on disk: safetensors, and the GGUF control vectors of llama.cpp and repeng."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.container import atomic_file, jsonable
from probekit.digests import SEAL, check_file
from probekit.errors import SteeringError
from probekit.parsing import parse_json, tensor_errors

FORMAT = "probekit.steering_vector"
FORMAT_VERSION = 1
ARCHITECTURE = "controlvector"
GGUF_HINT, GGUF_SEAL = f"{ARCHITECTURE}.model_hint", f"probekit.{SEAL}"
AGAIN = "Save it again, or fetch another copy."
IDENTITY = (
    "model", "revision", "model_type", "weights_fingerprint", "weights_digest", "config_hash",
)  # fmt: skip


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


def has_seal(path: Path) -> bool:
    """Return whether a file that `load` can read carries the digest of its content."""
    if path.suffix == ".gguf":
        from gguf import GGUFReader

        reader: Any = GGUFReader(path)
        return reader.get_field(GGUF_SEAL) is not None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return SEAL in parse_json(file.metadata()["probekit"])


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
    header[SEAL] = _digest(jsonable(header), tensors)
    save_file(tensors, path, metadata={"probekit": json.dumps(jsonable(header))})


def _read_safetensors(path: Path) -> VectorFile:
    from safetensors import safe_open

    check_file(path, SteeringError, AGAIN)
    with (
        tensor_errors(path, SteeringError, AGAIN),
        safe_open(path, framework="numpy") as file,
    ):
        header = parse_json((file.metadata() or {}).get("probekit", "null"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SteeringError(
            f"{path}: is not a steering vector of probekit. Expected a file that "
            "SteeringVector.save wrote, or a GGUF control vector."
        )
    _check_seal(path, header.pop(SEAL, None), header, tensors)
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise SteeringError(
            f"{path}: has format version {version}, this probekit reads up to "
            f"{FORMAT_VERSION}. Update probekit."
        )
    try:
        vectors = {int(name.removeprefix("layer.")): values for name, values in tensors.items()}
        site, source, model = header["site"], header["source"], header["model"]
        if not (isinstance(site, str) and isinstance(source, str) and isinstance(model, dict)):
            raise ValueError("site, source or model is of another type")
        if any(v.ndim != 1 or v.dtype.kind != "f" for v in tensors.values()):
            raise ValueError("a tensor is no vector of floats")
        return VectorFile(vectors, site, source, model)
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
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(content.vectors))
    tensors = {f"direction.{k}": v.astype(np.float32) for k, v in content.vectors.items()}
    hint = str(content.model.get("model_type", ""))
    writer.add_string(GGUF_HINT, hint)
    writer.add_string(GGUF_SEAL, _digest({"model_hint": hint}, tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(path: Path) -> VectorFile:
    from gguf import GGUFReader

    check_file(path, SteeringError, AGAIN)
    try:
        reader: Any = GGUFReader(path)
        fields = {key: reader.get_field(key) for key in (GGUF_HINT, GGUF_SEAL)}
        hint, seal = (fields[key] and fields[key].contents() for key in (GGUF_HINT, GGUF_SEAL))
        tensors = {str(tensor.name): np.array(tensor.data) for tensor in reader.tensors}
    except (
        Exception
    ) as error:  # the library trusts every byte: a damaged one may end anywhere in it
        raise SteeringError(
            f"{path}: cannot be read as GGUF ({type(error).__name__}: {error}). {AGAIN}"
        ) from error
    _check_seal(path, seal, {"model_hint": hint or ""}, tensors)
    vectors = {}
    for name, values in tensors.items():
        match = re.fullmatch(r"direction\.(\d+)", name)
        if match is None or values.ndim != 1 or values.dtype != np.float32:
            raise SteeringError(
                f"{path}: tensor {name!r} is not a control vector's. Expected one "
                "float32 direction.N for each layer."
            )
        vectors[int(match[1])] = values
    if not vectors:
        raise SteeringError(f"{path}: holds no direction.N tensor. Is it a whole model?")
    model = {"model_type": hint} if hint else {}
    return VectorFile(vectors, "resid_post", f"GGUF control vector {path.name}", model)


def _digest(header: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the digest of a header and of tensors with their names, dtypes and shapes."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.data)
    return found.hexdigest()


def _check_seal(
    path: Path, seal: object, header: dict[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Refuse content other than what was sealed; files of others and older ones have no seal."""
    if seal is not None and seal != _digest(header, tensors):
        raise SteeringError(
            f"{path}: does not fit its checksum, it was damaged or changed. {AGAIN}"
        )
