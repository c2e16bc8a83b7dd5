"""`cache_activations`: rows of text in, a finished `ActivationStore` out, resumable in between."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.activations.backends import Backend, make_backend, prove
from probekit.activations.backends.base import Place
from probekit.activations.checksums import Checksums, digests_below, hdf5_errors, write_checksums
from probekit.activations.config import CacheConfig
from probekit.activations.gather import plan_batches, read_batch
from probekit.activations.layers import parse_layers
from probekit.activations.names import NameTable
from probekit.activations.norms import norms_by_site
from probekit.activations.positions import PositionRule, parse_positions
from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell, TokenTable
from probekit.activations.workdir import AGAIN, WorkDir
from probekit.activations.writer import assemble, hdf5_writing, write_examples
from probekit.container import atomic_file, disk_errors
from probekit.data.open import Dataset, open_dataset
from probekit.data.rows import Example
from probekit.errors import DataError, ModelError, OutputError, StoreError, TemplateRefusal
from probekit.foreign import recorded
from probekit.models.blocks import BlockNames
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel, at_date_of, load_model
from probekit.outputs import claim
from probekit.parsing import parse_json
from probekit.provenance import agrees, run_record

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""

COMMIT_SECONDS = 20.0


def cache_activations(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    dataset: Dataset | Any,  # noqa: ANN401 - or any source of rows
    out: str | Path | None = None,
    *,
    config: CacheConfig | None = None,
    tokenizer: Any = None,  # noqa: ANN401 - a transformers tokenizer
    force: bool = False,
    resume: bool = False,
    progress: Progress = lambda what, done, total: None,
    **settings: Any,  # noqa: ANN401 - keys of CacheConfig
) -> ActivationStore:
    """Run the model over every row and keep the wanted activations in an HDF5 store.

    Memory is bounded by one batch. Until it is whole the capture lives in the folder `OUT.partial`;
    a killed run continues there with `resume` and ends with the same content as an unbroken one.

    Parameters
    ----------
    loaded
        The model, from `load_model`, or what `load_model` takes.
    dataset
        Rows, from `open_dataset`, or what `open_dataset` takes: a file, a list of dicts, a frame.
    out
        The store to write; None makes a temporary one, which is removed when it is closed or forgotten.
    config
        What to capture; its keys are taken by name too, as in `layers=[4, 8]`.
    tokenizer
        Tokenizer of a model in memory.
    force
        Replace an existing store, and drop an unfinished capture.
    resume
        Continue an unfinished capture that was started with the same settings.
    progress
        Called as work gets done, in tokens.

    Raises
    ------
    DataError, ModelError, StoreError, OutputError
        With one line that names the row, layer, position or path and the remedy.

    Examples
    --------
    >>> import probekit as pk
    >>> rows = [{"text": "a fine day", "label": "good"}, {"text": "hail and storm", "label": "bad"}]
    >>> with pk.cache_activations("smollm2-135m", rows, layers=[0, 2], positions="mean") as store:
    ...     len(store), store["resid_post", 2, "mean"].shape == (2, store.d_model)
    (3, True)
    """
    loaded, dataset = load_model(loaded, tokenizer=tokenizer), open_dataset(dataset, several=True)
    config = CacheConfig.of_keys(config, settings)
    if out is None:
        return ActivationStore.temporary(
            lambda path: cache_activations(
                loaded, dataset, path, config=config, progress=progress
            ).close()
        )
    with claim(
        out, "cache", force=force, resume=resume, own=is_store, inputs=[dataset.source]
    ) as path:
        if resume:
            loaded = _at_date_of(loaded, path)
        capture = _Capture(loaded, dataset, path, config)
        if resume and path.exists() and not capture.work.replaces:
            capture.work.remove()  # a kill came between the store and this
            return _already_whole(path, capture.settings)
        continued = capture.work.open(
            capture.settings, resume=resume, force=force, replaces=path.exists()
        )
        try:
            if not (continued and capture.examples_file.exists()):
                capture.write_table(progress)
            capture.run(progress)
            capture.finish(progress, replace=force or capture.work.replaces)
        except (DataError, ModelError):
            capture.work.remove()  # the input is at fault: there is nothing to continue
            raise
        capture.work.remove()
        return ActivationStore.open(path)


def is_store(path: Path) -> bool:
    """Return whether a file is one that `cache` wrote."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("format", "")).startswith("probekit")
    except OSError:
        return False


class _Capture:
    """One capture: its settings, resolved places, and the three steps in order."""

    def __init__(
        self, loaded: LoadedModel, dataset: Dataset, out: Path, config: CacheConfig
    ) -> None:
        self.loaded, self.dataset, self.out, self.config = loaded, dataset, out, config
        names = BlockNames.parse(config.blocks) if config.blocks else None
        self.backend: Backend = make_backend(config.backend, loaded, names=names)
        self.places = _places(config, self.backend.n_layers)
        self.rules: tuple[PositionRule, ...] = (
            parse_positions(config.positions) if config.positions else _default_rules(dataset)
        )
        self.cells = [Cell(*place, rule.name) for place in self.places for rule in self.rules]
        self.max_length = min(config.max_length or loaded.max_length, loaded.max_length)
        self.work = WorkDir.beside(out)
        self.examples_file = self.work.path / "examples.h5"
        self.settings: dict[str, Any] = {
            "model": loaded.describe(),
            "data": dataset.fingerprint,
            "cells": [str(cell) for cell in self.cells],
            **{
                key: value
                for key, value in asdict(config).items()
                if key not in ("layers", "sites", "positions", "max_length")
                and (key != "reproducible" or value)  # so that older captures go on
            },
            "max_length": self.max_length,
        }

    def write_table(self, progress: Progress) -> None:
        """Tokenise every row, check that each rule applies to it, and write the examples table.

        Where rows have a tag `name` or `entity`, the model's surprisal at that name comes along, for
        the control on it.
        """
        self.names = NameTable()
        draft = self.examples_file.with_suffix(".tmp")
        with disk_errors(self.out):
            write_examples(
                draft,
                self._rendered(progress),
                kind=self.dataset.kind,
                classes=self.dataset.classes,
            )
            surprisal = self.names.surprisals(self.loaded, self.config.batch_tokens)
            with hdf5_writing(draft, "r+") as file:
                file.attrs["left_out"] = json.dumps({k: n for k, n in self.left_out.items() if n})
                if surprisal is not None:
                    file["examples/surprisal"] = surprisal
                write_checksums(file, digests_below(file["examples"]))
            draft.replace(self.examples_file)

    def run(self, progress: Progress) -> None:
        """Run the model over the batches that are not committed yet."""
        with self._table() as file:
            reader = TokenTable(file["examples"])
            self._check_space(reader)
            size = 1 if self.config.reproducible else self.config.batch_tokens
            batches = plan_batches(reader.lengths, size)
            start = self.work.batches_done
            if not 0 <= start <= len(batches):
                raise StoreError(
                    f"{self.work.path}: {start} of {len(batches)} batches are done. {AGAIN}"
                )
            done = batches[:start]
            rows = np.sort(np.concatenate(done)) if done else np.empty(0, dtype=np.int64)
            self.work.check(self.cells, rows, reader.ragged, self.backend.d_model)
            self.work.create(self.cells, self.config.store_dtype, new=start == 0)
            if start < len(batches):
                prove(self.backend, self.places, self.loaded.device)
            self._run_batches(reader, batches, start, progress)

    @contextmanager
    def _table(self) -> Iterator[h5py.File]:
        """Open the examples table, all of it compared with its checksums."""
        path = self.examples_file
        with hdf5_errors(path, AGAIN):
            file = h5py.File(path, "r")
        with file:
            with hdf5_errors(path, AGAIN):
                for line in Checksums.read(path, file, AGAIN).check_all(file):
                    raise StoreError(line)
            yield file

    def finish(self, progress: Progress, *, replace: bool) -> None:
        """Write the HDF5 file and move it to its place."""
        progress("writing", 0, 1)
        with atomic_file(self.out, replace=replace) as target:
            assemble(
                self.examples_file,
                self.work,
                target,
                self.cells,
                n_layers=self.backend.n_layers,
                d_model=self.backend.d_model,
                provenance=self._provenance(),
            )
        progress("writing", 1, 1)

    def _rendered(self, progress: Progress) -> Iterator[tuple[Example, Rendered]]:
        total = self.dataset.n_examples
        self.left_out = {"too long": 0, "refused by the chat template": 0}
        for done, unit in enumerate(_units(self.dataset)):
            rows = self._kept(unit)
            for example, _ in rows:
                self.names.append(example)
            yield from rows
            progress("tokenising", (done + 1) * len(unit), total)
        if self.left_out["too long"] == total:
            raise DataError(f"{self.dataset.source}: every row is longer than {self.max_length}.")
        if sum(self.left_out.values()) == total:
            reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.items() if n)
            raise DataError(f"{self.dataset.source}: every row is left out ({reasons}).")

    def _kept(self, unit: list[Example]) -> list[tuple[Example, Rendered]]:
        """Return a row (or both sides of a pair) as tokens, none if it is left out; or raise."""
        try:
            rows = [(example, render(example, self.loaded.tokenizer)) for example in unit]
        except TemplateRefusal as error:
            if self.config.skip_refused:
                self.left_out["refused by the chat template"] += len(unit)
                return []
            raise TemplateRefusal(f"{error} Leave such rows out with --skip-refused.") from error
        for example, row in rows:
            where = example.where
            self.loaded.check_ids(row.ids, where)
            if len(row.ids) > self.max_length:
                if self.config.too_long == "drop":
                    self.left_out["too long"] += len(rows)
                    return []
                raise DataError(
                    f"{where}: has {len(row.ids)} tokens, the limit is {self.max_length}. Shorten "
                    "it, or leave such rows out with --too-long drop."
                )
            for rule in self.rules:
                try:
                    rule.resolve(row)
                except DataError as error:
                    raise DataError(
                        f"{where}: position {rule.name}: {error}. Choose other --positions."
                    ) from error
        return rows

    def _run_batches(
        self,
        reader: TokenTable,
        batches: list[NDArray[np.int64]],
        start: int,
        progress: Progress,
    ) -> None:
        total = int(reader.lengths.sum())
        done = int(sum(reader.lengths[batch].sum() for batch in batches[:start]))
        progress("capturing", done, total)
        committed, written, when = start, start, time.monotonic()
        try:
            for index in range(start, len(batches)):
                self._write_batch(reader, batches[index])
                written = index + 1
                done += int(reader.lengths[batches[index]].sum())
                progress("capturing", done, total)
                if time.monotonic() - when > COMMIT_SECONDS:
                    self.work.commit(written, self.cells)
                    committed, when = written, time.monotonic()
        finally:
            if written > committed:  # also on an interrupt: what is done is kept
                self.work.commit(written, self.cells)

    def _write_batch(self, reader: TokenTable, batch: NDArray[np.int64]) -> None:
        rows = [reader.row(int(i)) for i in batch]
        acts = read_batch(self.backend, rows, self.places, self.rules, self.loaded.device)
        # Ascending rows let neighbours go out in one write.
        order = np.argsort(batch)
        ragged = np.concatenate([reader.ragged_rows(int(i)) for i in batch])
        for cell, values in acts.items():
            into = ragged if cell.position == "all" else batch
            if cell.position != "all":
                into, values = into[order], values[order]
            self.work.write(cell, into, values, float16=self.config.store_dtype == "float16")

    def _check_space(self, reader: TokenTable) -> None:
        """Refuse to start what cannot fit: flat rows and the final file, both on the same disk."""
        per_row = self.backend.d_model * (2 if self.config.store_dtype == "float16" else 4)
        sizes = [
            int(reader.ragged[-1]) if cell.position == "all" else len(reader.lengths)
            for cell in self.cells
        ]
        need = 2 * per_row * sum(sizes)
        need -= sum(file.stat().st_size for file in self.work.path.glob("*.f[13]*"))
        free = shutil.disk_usage(self.work.path).free
        if need > free:
            raise OutputError(
                f"{self.out}: the disk is full: the capture needs {need / 1e6:,.1f} MB and "
                f"{free / 1e6:,.1f} MB are free. Free some space or choose another --out."
            )

    def _provenance(self) -> dict[str, Any]:
        with h5py.File(self.examples_file, "r") as file:
            left_out = parse_json(str(file.attrs.get("left_out", "{}")))
            reader = TokenTable(file["examples"])
            norms = norms_by_site(self.backend, reader, self.places)
        return {
            **self.loaded.describe(),
            "storage_dtype": self.config.store_dtype,
            "data": {
                "source": recorded(self.dataset.source),
                "fingerprint": self.dataset.fingerprint,
                "kind": self.dataset.kind,
                "rows": self.dataset.n_rows,
                "left_out": left_out,
            },
            "settings": self.settings,
            "residual_norms": norms,
            "run": run_record("cache", asdict(self.config)),
        }


def _units(dataset: Dataset) -> Iterator[list[Example]]:
    """Yield single examples, or both sides of a pair together."""
    size = 2 if dataset.kind == "pair" else 1
    unit: list[Example] = []
    for example in dataset.examples():
        unit.append(example)
        if len(unit) == size:
            yield unit
            unit = []


def _places(config: CacheConfig, n_layers: int) -> list[Place]:
    layers = parse_layers(config.layers, n_layers)
    wanted = [(site, layer) for site in config.sites for layer in layers if site != "resid_pre"]
    # The embedding is the control every sweep is held against.
    return [("resid_pre", 0), *wanted]


def _default_rules(dataset: Dataset) -> tuple[PositionRule, ...]:
    first = next(iter(dataset.examples()))
    return parse_positions("prompt_end" if first.completion is None else "last,turn_end,mean")


def _at_date_of(loaded: LoadedModel, out: Path) -> LoadedModel:
    """Return the model with the template date of what is to be continued."""
    begun = WorkDir.beside(out).settings()
    if begun is None and out.is_file():
        with ActivationStore.open(out) as store:
            begun = store.provenance.get("settings")
    return at_date_of(loaded, (begun or {}).get("model", {}))


def _already_whole(out: Path, settings: dict[str, Any]) -> ActivationStore:
    """Return a store that needs no resuming, if it is the one these settings would make."""
    store = ActivationStore.open(out)
    if not agrees(store.provenance.get("settings"), settings):
        store.close()
        raise StoreError(
            f"{out}: is complete, but was made with other settings or data. Pass --force to "
            "replace it, or another --out."
        )
    return store
