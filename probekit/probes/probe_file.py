"""The files of probes: probes.json, checked, and the weights beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from probekit.container import write_json
from probekit.digests import check_file
from probekit.errors import ProbeError
from probekit.parsing import read_json, tensor_errors
from probekit.results.sweep import HeadRow
from probekit.results.table import reason

FORMAT = "probekit.probes"
CLASSES = "probekit.classes"
"""Format of a head of three or more classes, of which there is one."""
FORMAT_VERSION = 1
WEIGHTS, HEADER = "probes.safetensors", "probes.json"
SHUFFLED = "shuffled/coef"
AGAIN = "Fit again."
Tensors = dict[str, NDArray[Any]]


class _Row(HeadRow):
    """A probe in probes.json."""

    metrics: dict[str, Any]


class _Beside(_Row):
    """A probe of another form, which stands beside the linear ones."""

    reference: dict[str, Any] | None


class Header(TypedDict):
    """Keys of probes.json that a probe is made of."""

    data_kind: str
    classes: tuple[str, str] | None
    score_range: tuple[float, float] | None
    d_model: int
    chosen: int
    probes: list[_Row]
    beside: NotRequired[list[_Beside]]
    distributions: dict[str, Any]
    reference: dict[str, Any] | None
    provenance: dict[str, Any]


def key_of(row: Mapping[str, Any]) -> str:
    """Return where the tensors of a probe's row lie: kind/site/layer/position."""
    return f"{row['kind']}/{row['site']}/{row['layer']:03d}/{row['position']}"


def write_probes(
    directory: Path, header: Mapping[str, Any], tensors: Tensors, *, kind: str = FORMAT
) -> None:
    """Write both files into an existing directory."""
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, directory / WEIGHTS)
    versions = {"format": kind, "format_version": FORMAT_VERSION, "complete": True}
    write_json(directory / HEADER, {**versions, **header})


def read_tensors(directory: Path, names: Sequence[str]) -> Tensors:
    """Return the tensors of these names that there are; a damaged file is refused."""
    from safetensors import safe_open

    path = directory / WEIGHTS
    check_file(path, ProbeError, AGAIN)
    with tensor_errors(path, ProbeError, AGAIN), safe_open(path, framework="numpy") as file:
        known = set(file.keys())
        return {name: np.asarray(file.get_tensor(name)) for name in names if name in known}


def of_shapes(
    directory: Path, row: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Tensors:
    """Return the tensors of a probe's row by their names, of the shapes given; -1 is any length.

    Raises
    ------
    ProbeError
        When one is missing or of another shape.
    """
    key = key_of(row)
    found = read_tensors(directory, [f"{key}/{name}" for name in shapes])
    for name, shape in shapes.items():
        here = found[f"{key}/{name}"].shape if f"{key}/{name}" in found else None
        fits = here is not None and len(here) == len(shape)
        if not fits or any(n not in (-1, m) for n, m in zip(shape, here or (), strict=True)):
            raise ProbeError(
                f"{directory / WEIGHTS}: {key}/{name} has shape {here}, expected {shape}. {AGAIN}"
            )
    return {name: found[f"{key}/{name}"] for name in shapes}


def read_header(directory: Path) -> dict[str, Any]:
    """Return probes.json, checked.

    Raises
    ------
    ProbeError
        When the directory is not a fit's, or its files are damaged or newer.
    """
    path = directory / HEADER
    if not path.is_file():
        what = "no such directory" if not directory.exists() else f"has no {HEADER}"
        raise ProbeError(
            f"{directory}: is not a probe ({what}). Expected a directory written by probekit fit."
        )
    header = read_json(path, ProbeError, AGAIN)
    if header.get("format") == CLASSES:
        raise ProbeError(
            f"{directory}: is a head of {len(header.get('classes', []))} classes, which has no one direction "
            "and score. Fit one class against the rest: probekit cache --positive NAME."
        )
    if header.get("format") != FORMAT or header.get("complete") is not True:
        raise ProbeError(f"{path}: is not a complete probekit probe file. {AGAIN}")
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ProbeError(
            f"{path}: has format version {version}, this probekit reads up to "
            f"{FORMAT_VERSION}. Update probekit."
        )
    try:
        checked: dict[str, Any] = dict(TypeAdapter(Header).validate_python(header))
    except ValidationError as error:
        raise ProbeError(f"{path}: {reason(error)}. {AGAIN}") from error
    if not 0 <= checked["chosen"] < len(checked["probes"]):
        raise ProbeError(
            f"{path}: chosen is {checked['chosen']}, expected one of {len(checked['probes'])} probes. "
            f"{AGAIN}"
        )
    check_file(directory / WEIGHTS, ProbeError, AGAIN)
    return checked
