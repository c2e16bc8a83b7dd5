"""The schema pass of a store: everything that its format promises, checked once before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.activations.checksums import AGAIN
from probekit.errors import StoreError
from probekit.parsing import object_of, parse_json

FORMAT = "probekit.activations"
FORMAT_VERSION = 1
RAGGED = "all"
TEXT, WHOLE, TRUTH, REAL = "text", "whole numbers", "truth values", "floating-point numbers"
COLUMNS = {
    "id": TEXT, "group": TEXT, "prompt": TEXT, "completion": TEXT, "span": WHOLE, "turn_end": WHOLE,
    "has_prompt": TRUTH, "n_tokens": WHOLE,
}  # fmt: skip
"""Columns of every store and what they hold."""
OF_KIND = {"label": ("label", WHOLE), "rating": ("score", REAL), "pair": ("side", TEXT)}
DEFLATE = 1100
"""Bytes that one byte on disk can stand for, in a file that another program compressed."""
CHUNK = 1 << 26


class _Pass:
    """One pass over one file."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size

    def run(self) -> None:
        """Check attributes, then columns by their headers, then the columns of indices by value."""
        self.n_layers, self.d_model = self.count("n_layers"), self.count("d_model")
        object_of(
            str(self.file.attrs.get("provenance")), f"{self.path}: provenance", StoreError, AGAIN
        )
        self.examples, self.activations = self.group("examples"), self.group("activations")
        kind = self.examples.attrs.get("kind")
        if kind not in OF_KIND:
            self.bad("examples", f"kind is {kind!r}, expected {', '.join(OF_KIND)}")
        self.n = len(self.column("id", TEXT))
        name, holds = OF_KIND[kind]
        shapes = {"span": (self.n, 2)}
        for column, what in {**COLUMNS, name: holds}.items():
            self.column(column, what, shapes.get(column, (self.n,)))
        for tag in self.examples["tags"] if "tags" in self.examples else ():
            self.column(f"tags/{tag}", TEXT, (self.n,))
        if "surprisal" in self.examples:
            self.column("surprisal", REAL, (self.n,))
        if kind == "pair" and self.n % 2:
            self.bad("examples/side", f"has {self.n} rows, expected two a pair")
        self.targets(kind)
        self.matrices(self.spans())

    def targets(self, kind: str) -> None:
        """Check labels and ratings."""
        if kind == "label":
            try:
                classes = parse_json(str(self.examples.attrs.get("classes")))
            except ValueError as error:
                self.bad("examples", f"classes is {error}")
            if (
                not isinstance(classes, list)
                or not classes
                or any(type(c) is not str for c in classes)
            ):
                self.bad("examples", "classes is no list of names")
            self.within("label", self.examples["label"][()], 0, len(classes) - 1)
        elif kind == "rating":
            scores = self.examples["score"][()]
            if not np.isfinite(scores).all():
                row = int(np.argmin(np.isfinite(scores)))
                self.bad(
                    "examples/score", f"row {row} holds {scores[row]}, expected a finite number"
                )

    def spans(self) -> int:
        """Check offsets and spans of tokens; return how many completion tokens there are."""
        tokens = len(self.column("token_ids", WHOLE))
        offsets = self.column("token_offsets", WHOLE, (self.n + 1,))[()].astype(np.int64)
        lengths = np.diff(offsets)
        if offsets[0] != 0 or offsets[-1] != tokens or (lengths < 0).any():
            self.bad(
                "examples/token_offsets", f"do not rise from 0 to {tokens}, the number of token_ids"
            )
        span = self.examples["span"][()].astype(np.int64)
        self.within("span", span[:, 0], 0, span[:, 1])
        self.within("span", span[:, 1], 0, lengths)
        self.within("turn_end", self.examples["turn_end"][()].astype(np.int64), -1, lengths - 1)
        self.within("n_tokens", self.examples["n_tokens"][()].astype(np.int64), 0, lengths)
        return int((span[:, 1] - span[:, 0]).sum())

    def matrices(self, n_ragged: int) -> None:
        """Check place, dtype and shape of every activation matrix."""
        for name, dataset in self.leaves(self.activations, 3):
            site, layer, position = name.split("/")
            if not layer.isdecimal() or int(layer) >= self.n_layers:
                self.bad(f"activations/{name}", f"layer is {layer}, the model has {self.n_layers}")
            shape = (n_ragged if position == "all" else self.n, self.d_model)
            self.holds(dataset, REAL, shape)

    def leaves(self, group: h5py.Group, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
        """Yield the datasets that lie exactly `depth` below a group, with their names."""
        for name, item in group.items():
            if depth > 1 and isinstance(item, h5py.Group):
                yield from ((f"{name}/{rest}", leaf) for rest, leaf in self.leaves(item, depth - 1))
            elif depth == 1 and isinstance(item, h5py.Dataset):
                yield name, item
            else:
                self.bad(item.name.strip("/"), "is no matrix. Expected site/layer/position")

    def count(self, name: str) -> int:
        """Return a root attribute that is a number of one or more."""
        value = self.file.attrs.get(name)
        if not isinstance(value, (int, np.integer)) or not 1 <= int(value) <= 1 << 24:
            raise StoreError(f"{self.path}: {name} is {value!r}, expected a count. {AGAIN}")
        return int(value)

    def group(self, name: str) -> h5py.Group:
        """Return a group of the root."""
        found = self.file.get(name)
        if not isinstance(found, h5py.Group):
            self.bad(name, "is no group")
        return found

    def column(self, name: str, what: str, shape: tuple[int, ...] | None = None) -> h5py.Dataset:
        """Return a column of the examples, its header checked."""
        found = self.examples.get(name)
        if not isinstance(found, h5py.Dataset):
            self.bad(f"examples/{name}", "is missing")
        self.holds(found, what, shape)
        return found

    def holds(self, dataset: h5py.Dataset, what: str, shape: tuple[int, ...] | None) -> None:
        """Check dtype, shape, and that the file has bytes for what the header promises."""
        name = dataset.name.strip("/")
        kinds = {TEXT: "OS", WHOLE: "iu", TRUTH: "b", REAL: "f"}
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        if dataset.dtype.kind not in kinds[what] or is_text != (what == TEXT):
            self.bad(name, f"holds {dataset.dtype}, expected {what}")
        if shape is not None and dataset.shape != shape:
            self.bad(name, f"has shape {dataset.shape}, expected {shape}")
        if dataset.ndim not in (1, 2):
            self.bad(name, f"has shape {dataset.shape}, expected rows")
        need = int(np.prod(dataset.shape, dtype=np.float64)) * dataset.dtype.itemsize
        limit = self.size * (DEFLATE if dataset.compression else 1)
        if need > limit:
            self.bad(name, f"promises {need} bytes, the file has {self.size}")
        chunk = np.prod(dataset.chunks or (0,), dtype=np.float64) * dataset.dtype.itemsize
        if chunk > max(CHUNK, limit):
            self.bad(name, f"has chunks of {chunk:.0f} bytes, the file has {self.size}")

    def within(self, name: str, values: NDArray[Any], low: int, high: Any) -> None:  # noqa: ANN401
        """Check that every value of a column is between two bounds; the upper may differ by row."""
        wrong = (values < low) | (values > high)
        if wrong.any():
            row = int(np.argmax(wrong))
            top = int(np.broadcast_to(high, values.shape)[row])
            self.bad(f"examples/{name}", f"row {row} holds {values[row]}, expected {low} to {top}")

    def bad(self, name: str, what: str) -> NoReturn:
        """Refuse the file, naming the place."""
        raise StoreError(f"{self.path}:/{name}: {what}. {AGAIN}")


def check_schema(path: Path, file: h5py.File) -> None:
    """Check a store against its format; no matrix and no text is read.

    Columns and their types, equal lengths, labels that are classes, layers of the model, offsets that rise,
    spans inside their rows, and no more promised than the file has bytes.

    Raises
    ------
    StoreError
        Naming the first place that is not as docs/formats.md says.
    """
    _Pass(path, file).run()
