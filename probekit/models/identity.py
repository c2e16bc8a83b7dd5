"""What a model is known by: its weights, its configuration, its tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.models.memory import plain_names, state_of

OF_NO_EFFECT = re.compile(
    r"^_|version$|dtype$|^architectures$|^use_cache$|^return_dict|^output_|token_ids?$|dropout|pdrop$"
    r"|^initializer_|label|^problem_type$|^quantization_config$|^auto_map$|^pretraining_tp$"
)
"""Keys of a configuration that change nothing a model in evaluation computes."""
BLOCK = 1 << 18
"""Words of a weight that one sum is made of."""


def weights_fingerprint(model: Any) -> str:  # noqa: ANN401 - a transformers model
    """Return 16 hex digits that change with the names, shapes or values of weights, not with the dtype.

    Every parameter gives its name, shape and 64 evenly spaced values, rounded to bfloat16 so that
    the same checkpoint has the same fingerprint whatever dtype it was loaded in.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(plain_names(model.named_parameters())):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // 64)
        sample = flat[::step][:64].to(device="cpu", dtype=torch.bfloat16).float()
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def weights_digest(model: Any) -> str:  # noqa: ANN401 - a transformers model
    """Return a checksum of every value of a model as it was loaded: dtype, dash, 16 hex digits.

    The 32-bit words of a block of a weight times odd numbers, added modulo 2^64, so that one changed
    word always changes it; names, shapes, dtypes and sums go through SHA-256. Every device gives the same
    digits. It is computed where the weights lie, in a buffer of 2 MiB (128 MiB on an accelerator);
    weights that are not loaded (`meta`) give their name and shape. Tied weights count once, buffers
    that are saved and what a quantised weight is kept in count too.
    """
    digest, seen = hashlib.sha256(), set()
    odd = torch.from_numpy(_odd_numbers())
    for name, weight in sorted(state_of(model).items()):
        for part in _parts(weight):
            place = (part.data_ptr(), part.shape, part.dtype)
            if not part.is_meta and part.numel() and place in seen:
                continue
            seen.add(place)
            digest.update(f"{name}{tuple(part.shape)}{part.dtype}".encode())
            digest.update(_sums(part, odd).tobytes())
    return f"{str(model.dtype).removeprefix('torch.')}-{digest.hexdigest()[:16]}"


def _parts(weight: Any) -> Iterator[torch.Tensor]:  # noqa: ANN401 - a tensor or anything else
    """Yield the plain tensors that a weight is kept in."""
    if hasattr(weight, "__tensor_flatten__"):  # a subclass, as quantised ones are
        for name in weight.__tensor_flatten__()[0]:
            yield from _parts(getattr(weight, name))
    elif isinstance(weight, torch.Tensor):
        yield weight.detach()


def _sums(weight: torch.Tensor, odd: torch.Tensor) -> NDArray[np.int64]:
    """Return the sums of blocks, shape (n_blocks,), of a weight's words."""
    if weight.is_meta:
        return np.zeros(0, np.int64)
    flat = weight.reshape(-1)
    n_bytes = flat.numel() * flat.element_size()
    kind = torch.int32 if n_bytes % 4 == 0 else torch.int16 if n_bytes % 2 == 0 else torch.int8
    if flat.storage_offset() * flat.element_size() % kind.itemsize:
        flat = flat.clone()  # a view of words has to begin at one
    words, odd = flat.view(kind), odd.to(weight.device)
    whole = len(words) // BLOCK * BLOCK
    rows, at_once = words[:whole].view(-1, BLOCK), 1 if weight.device.type == "cpu" else 64
    product = torch.empty(min(at_once, len(rows)), BLOCK, dtype=torch.int64, device=weight.device)
    found = torch.empty(len(rows) + 1, dtype=torch.int64, device=weight.device)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        torch.mul(part, odd, out=product[: len(part)])
        torch.sum(product[: len(part)], dim=1, out=found[start : start + len(part)])
    found[-1] = (words[whole:] * odd[: len(words) - whole]).sum()
    return np.asarray(found.cpu())


@functools.cache
def _odd_numbers() -> NDArray[np.int64]:
    """Return fixed odd numbers without a pattern, shape (BLOCK,), as SplitMix64 makes them."""
    z = np.arange(1, BLOCK + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64))


def config_hash(config: Any) -> str:  # noqa: ANN401 - a transformers configuration
    """Return 16 hex digits that change with what the configuration says of the computation.

    The same weights compute something else under another scaling of positions, window or norm. Paths,
    dtypes, special tokens, dropout and versions do not count, nor do settings that are at their defaults:
    a version of the library that knows a new one keeps the hash.
    """
    return digest_of(json.dumps(_computation(config.to_diff_dict()), sort_keys=True))


def _computation(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, dict):
        said = {str(k): _computation(v) for k, v in value.items() if v is not None}
        return {k: v for k, v in said.items() if not OF_NO_EFFECT.search(k)}
    if isinstance(value, (list, tuple)):
        return [_computation(item) for item in value]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number else value if isinstance(value, (bool, str)) else str(value)


def vocabulary(tokenizer: Any) -> str:  # noqa: ANN401 - a transformers tokenizer
    """Return all that a tokenizer does to a text, as JSON."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return json.dumps(tokenizer.get_vocab(), sort_keys=True)


def digest_of(text: str) -> str:
    """Return 16 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
