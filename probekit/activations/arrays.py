"""Activations that another tool read, arrays by name, written as a store."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array
from numpy.typing import NDArray

from probekit.activations.checksums import digests_below, write_checksums
from probekit.activations.positions import PositionRule
from probekit.activations.schema import FORMAT, FORMAT_VERSION
from probekit.activations.table import Cell
from probekit.activations.writer import hdf5_writing, write_examples
from probekit.container import atomic_file, disk_errors
from probekit.data.open import Dataset, open_dataset
from probekit.data.rows import Example
from probekit.errors import DataError, StoreError
from probekit.models.chat import Rendered
from probekit.outputs import claim
from probekit.parsing import tensor_errors
from probekit.provenance import run_record

SITES = ("resid_post", "resid_pre", "attn_out", "mlp_out")
NAMED = "(site, layer, position), resid_post/12/mean, layer_12 or blocks.12.hook_resid_post"
FILES = ".npz, .safetensors or .zarr"
_OWN = re.compile(rf"({'|'.join(SITES)})[/._-]0*(\d+)(?:[/.](.+))?")
_LAYER = re.compile(r"(?:layers?[/._-]?)?0*(\d+)")
_LENS = re.compile(rf"blocks\.(\d+)\.hook_({'|'.join(SITES)})")
_OTHER_HOOK = re.compile(r"(?:.*\.)?hook_\w+")
NOTHING = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class ArrayRows:
    """What is known of arrays beside their numbers; see `ActivationStore.from_arrays`."""

    rows: Any = None
    labels: Sequence[Any] | None = None
    scores: Sequence[float] | None = None
    groups: Sequence[Any] | None = None
    position: str = "last"
    mask: Any = None
    model: Any = None
    n_layers: int | None = None

    def dataset(self) -> Dataset:
        """Return the rows that the arrays are of.

        Raises
        ------
        DataError
            When nothing, or more than one thing, says what they are.
        """
        given = [x for x in (self.rows, self.labels, self.scores) if x is not None]
        if len(given) != 1:
            raise DataError(
                "arrays: expected one of rows, labels and scores, to say what they are of."
            )
        if self.rows is not None:
            return open_dataset(self.rows, several=True)
        name, values = ("label", self.labels) if self.labels is not None else ("score", self.scores)
        told = np.asarray(values)
        groups = range(len(told)) if self.groups is None else np.asarray(self.groups).tolist()
        if len(groups) != len(told):
            raise DataError(f"groups: {len(groups)} for {len(told)} {name}s, expected one each.")
        targets = (told.astype(int) if told.dtype == bool else told).tolist()
        both = zip(targets, groups, strict=True)
        return open_dataset(
            [{"text": "none", name: v, "group": f"{g}"} for v, g in both], several=True
        )


def write_arrays(path: Path, arrays: Any, frame: ArrayRows) -> None:  # noqa: ANN401
    """Write arrays, by name or in a file, to a new store, whole or not at all.

    Raises
    ------
    StoreError, DataError
        With the array or the row that does not fit, before anything is written.
    """
    dataset = frame.dataset()
    matrices = _matrices(arrays, frame, dataset.n_examples)
    width = next(iter(matrices.values())).shape[1]
    deepest = 1 + max(cell.layer for cell in matrices)
    if frame.n_layers is not None and frame.n_layers < deepest:
        raise StoreError(f"n_layers {frame.n_layers}: an array is of layer {deepest - 1}.")
    with claim(path, "from_arrays"), atomic_file(path) as draft, disk_errors(path):
        rows = (_unread(example, frame) for example in dataset.examples())
        write_examples(draft, rows, kind=dataset.kind, classes=dataset.classes)
        with hdf5_writing(draft, "r+") as file:
            file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
            file.attrs["n_layers"], file.attrs["d_model"] = frame.n_layers or deepest, width
            file.attrs["provenance"] = json.dumps(_provenance(frame, dataset), ensure_ascii=False)
            for cell, values in matrices.items():
                file[f"activations/{cell}"] = values
            write_checksums(file, digests_below(file["/"]))
            file.attrs["complete"] = True


def _unread(example: Example, frame: ArrayRows) -> tuple[Example, Rendered]:
    """Return a row with no tokens: which ones were read is not known, nor its text without `rows`."""
    own = example if frame.rows is not None else dataclasses.replace(example, completion="")
    return own, Rendered(NOTHING, 0, 0, None, has_prompt=example.prompt is not None)


def _provenance(frame: ArrayRows, dataset: Dataset) -> dict[str, Any]:
    identity: Any = {"model": "arrays in memory"}
    if isinstance(frame.model, str):
        identity = {"model": frame.model}
    elif isinstance(frame.model, Mapping):
        identity = dict(frame.model)
    elif frame.model is not None:
        from probekit.models.load import load_model

        identity = load_model(frame.model).describe()
    return {
        "forward_dtype": "unknown",
        **identity,
        "data": {
            "source": dataset.source,
            "fingerprint": dataset.fingerprint,
            "kind": dataset.kind,
            "rows": dataset.n_rows,
            "left_out": {},
        },
        "settings": {},
        "run": run_record("from_arrays", {"position": frame.position}),
    }


def _matrices(arrays: Any, frame: ArrayRows, n: int) -> dict[Cell, NDArray[np.floating[Any]]]:  # noqa: ANN401
    found: dict[Cell, NDArray[np.floating[Any]]] = {}
    PositionRule.parse(frame.position)
    for name, values in _named(arrays):
        cell = _cell(name, frame.position)
        if cell is None:
            continue
        matrix = _pooled(_numbers(name, values), cell, frame.mask)
        if matrix.shape[0] != n:
            raise StoreError(
                f"array {name!r}: has {matrix.shape[0]} rows, the data have {n} texts."
            )
        first = next(iter(found.values()), matrix)
        if matrix.shape[1] != first.shape[1]:
            raise StoreError(f"array {name!r}: is {matrix.shape[1]} wide, others {first.shape[1]}.")
        if not np.isfinite(matrix).all():
            raise StoreError(
                f"array {name!r}: holds NaN or infinite values. Read it again in float32."
            )
        if cell in found:
            raise StoreError(f"array {name!r}: is a second one of {cell}.")
        found[cell] = matrix
    if not found:
        raise StoreError(f"arrays: none is of a residual stream. Expected names such as {NAMED}.")
    return found


def _named(arrays: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    if isinstance(arrays, (str, Path)):
        return _file(Path(arrays))
    if not hasattr(arrays, "items"):
        raise StoreError(
            f"arrays: got a {type(arrays).__name__}, expected arrays by name or a file ({FILES}). Names are "
            f"{NAMED}."
        )
    return iter(arrays.items())


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.exists():
        raise StoreError(f"{path}: no such file. Check the path.")
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as file:
                for name in file.namelist():
                    with file.open(name) as member:  # NumPy's own loader can be told to unpickle
                        yield name.removesuffix(".npy"), read_array(member, allow_pickle=False)
        except (
            OSError,
            ValueError,
            MemoryError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            what = " ".join(str(error).split())[:200]
            raise StoreError(f"{path}: is not a readable .npz file ({what}).") from error
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with tensor_errors(path, StoreError, "Write it again."), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                yield name, file.get_tensor(name)
    elif path.suffix == ".zarr":
        try:
            import zarr
        except ImportError as error:
            raise StoreError(
                f"{path}: needs the library zarr. Install it, or save .npz."
            ) from error
        for name, member in zarr.open_group(str(path), mode="r").members(max_depth=None):
            if hasattr(member, "shape"):
                yield name, member[...]
    else:
        raise StoreError(f"{path}: unknown file type. Expected {FILES}.")


def _cell(name: Any, position: str) -> Cell | None:  # noqa: ANN401
    """Return the cell of a name, None for another hook of TransformerLens."""
    if isinstance(name, (int, np.integer)):
        return Cell("resid_post", int(name), position)
    if isinstance(name, tuple) and len(name) in (2, 3):
        name = "/".join(map(str, name))
    text = name if isinstance(name, str) else ""
    if match := _OWN.fullmatch(text):
        rule = PositionRule.parse(match[3]).name if match[3] else position
        return Cell(match[1], int(match[2]), rule)
    if match := _LENS.fullmatch(text):
        # Those of later blocks are the resid_post before them.
        before = match[2] == "resid_pre" and int(match[1]) > 0
        return None if before else Cell(match[2], int(match[1]), position)
    if match := _LAYER.fullmatch(text):
        return Cell("resid_post", int(match[1]), position)
    if _OTHER_HOOK.fullmatch(text):
        return None
    raise StoreError(f"array {name!r}: names no site and layer. Expected {NAMED}.")


def _numbers(name: Any, values: Any) -> NDArray[np.floating[Any]]:  # noqa: ANN401
    """Return an array or tensor as float16 if it is that, else as float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    found = np.asarray(values)
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3):
        raise StoreError(
            f"array {name!r}: has shape {found.shape} of {found.dtype}, expected numbers of shape "
            "(n, d_model) or (n, n_tokens, d_model)."
        )
    return found if found.dtype == np.float16 else found.astype(np.float32)


def _pooled(
    values: NDArray[np.floating[Any]],
    cell: Cell,
    mask: Any,  # noqa: ANN401
) -> NDArray[np.floating[Any]]:
    """Return (n, d_model) of an array that may have an axis of tokens, by the cell's position rule."""
    if values.ndim == 2:  # noqa: PLR2004
        return values
    known = np.ones(values.shape[:2], bool) if mask is None else np.asarray(mask).astype(bool)
    if known.shape != values.shape[:2] or not known.any(axis=1).all():
        raise StoreError(
            f"mask: has shape {known.shape}, expected {values.shape[:2]}, with a token of each text."
        )
    match = re.fullmatch(r"last|token:(-?\d+)", cell.position)
    if cell.position == "mean":
        total = np.where(known[..., None], values.astype(np.float64), 0.0).sum(axis=1)
        return np.asarray(total / known.sum(axis=1)[:, None], dtype=np.float32)
    if match is None:
        raise StoreError(
            f"position {cell.position}: cannot be told from an array of tokens. Expected last, mean or "
            "token:I."
        )
    at = int(match[1] or -1)
    try:
        token = [np.flatnonzero(row)[at] for row in known]
    except IndexError as error:
        raise StoreError(f"position {cell.position}: a text has fewer tokens.") from error
    return values[np.arange(len(values)), token]
