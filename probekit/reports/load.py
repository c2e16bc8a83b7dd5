"""Read what `probekit fit` left in a directory, refusing what is foreign, partial or newer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from probekit.errors import ProbeError
from probekit.reports.rows import (
    Chosen,
    Metric,
    Metrics,
    Prediction,
    ReliabilityBin,
    Sweep,
    SweepRow,
)

FORMAT = "probekit.sweep"
FORMAT_VERSION = 1

_AGAIN = "Run probekit fit again with --force."


def load_sweep(directory: Path) -> Sweep:
    """Return the sweep a fit left in `directory`.

    Raises
    ------
    ProbeError
        When the directory is missing, is not the output of a fit, is partial or damaged, or was
        written by a newer probekit.
    """
    if not directory.is_dir():
        raise ProbeError(
            f"{directory}: no such directory, expected the output of a fit. "
            "Run probekit fit STORE.h5 --out DIR."
        )
    path = directory / "sweep.json"
    if not path.is_file():
        raise ProbeError(
            f"{directory}: has no sweep.json, expected the output of a fit. "
            "Give the directory that probekit fit wrote to --out."
        )
    value = _read_json(path)
    _check_header(path, value)
    predictions = _read_predictions(directory / "predictions.jsonl")
    run = directory / "run.json"
    try:
        sweep = _sweep(value, predictions, _read_json(run) if run.is_file() else {})
    except KeyError as error:
        raise ProbeError(
            f"{path}: key {error.args[0]!r} is missing, the file is partial or damaged. {_AGAIN}"
        ) from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ProbeError(f"{path}: holds a value of the wrong type ({error}). {_AGAIN}") from error
    _check_whole(directory, sweep)
    return sweep


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ProbeError(
            f"{path}:{error.lineno}: not JSON ({error.msg}), the file is partial or damaged. "
            f"{_AGAIN}"
        ) from error
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: not UTF-8 text, the file is damaged. {_AGAIN}") from error
    if not isinstance(value, dict):
        raise ProbeError(f"{path}: got a {type(value).__name__}, expected an object. {_AGAIN}")
    return value


def _check_header(path: Path, value: dict[str, Any]) -> None:
    if value.get("format") != FORMAT:
        raise ProbeError(
            f"{path}: format is {value.get('format')!r}, expected {FORMAT!r}. "
            "Give the directory that probekit fit wrote to --out."
        )
    version = value.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ProbeError(f"{path}: format_version is {version!r}, expected a number. {_AGAIN}")
    if version > FORMAT_VERSION:
        raise ProbeError(
            f"{path}: format version is {version}, this probekit reads up to {FORMAT_VERSION}. "
            "Upgrade probekit."
        )
    if value.get("complete", True) is not True:
        raise ProbeError(f"{path}: the fit did not finish, the file is partial. {_AGAIN}")


def _check_whole(directory: Path, sweep: Sweep) -> None:
    if not sweep.rows:
        raise ProbeError(f"{directory}/sweep.json: has no rows, the file is partial. {_AGAIN}")
    expected = sweep.n["report"] * (2 if sweep.data_kind == "pair" else 1)
    if len(sweep.predictions) != expected:
        raise ProbeError(
            f"{directory}/predictions.jsonl: has {len(sweep.predictions)} rows, sweep.json says "
            f"{expected}; the file is partial or from another fit. {_AGAIN}"
        )


def _read_predictions(path: Path) -> list[Prediction]:
    if not path.is_file():
        raise ProbeError(f"{path}: missing, the output of this fit is partial. {_AGAIN}")
    found = []
    # Only \n ends a row: str.splitlines would also break at the U+2028 a text may hold.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(_prediction(json.loads(line)))
        except KeyError as error:
            raise ProbeError(
                f"{path}:{number}: key {error.args[0]!r} is missing, the file is damaged. {_AGAIN}"
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ProbeError(
                f"{path}:{number}: not a prediction row ({error}), the file is partial or "
                f"damaged. {_AGAIN}"
            ) from error
    return found


def _number(value: Any) -> float:  # noqa: ANN401 - a JSON value
    return math.nan if value is None else float(value)


def _metrics(value: dict[str, Any] | None) -> Metrics:
    return {
        name: Metric(
            _number(item["value"]), _number(item.get("low")), _number(item.get("high"))
        )
        for name, item in (value or {}).items()
    }  # fmt: skip


def _controls(value: dict[str, Any] | None) -> dict[str, Metrics]:
    return {name: _metrics(item) for name, item in (value or {}).items()}


def _sweep(value: dict[str, Any], predictions: list[Prediction], run: dict[str, Any]) -> Sweep:
    kind = value["data_kind"]
    if kind not in ("label", "rating", "pair"):
        raise ValueError(f"data_kind is {kind!r}, expected label, rating or pair")
    cosine = value.get("cosine") or {}
    classes, score_range = value.get("classes"), value.get("score_range")
    return Sweep(
        data_kind=kind,
        primary=str(value["primary"]),
        chosen=_chosen(value["chosen"]),
        choose=_metrics(value["choose"]),
        report=_metrics(value["report"]),
        controls=_controls(value["controls"]),
        by_tag={tag: _controls(values) for tag, values in (value.get("by_tag") or {}).items()},
        n={name: int(count) for name, count in value["n"].items()},
        rows=[_row(row) for row in value["rows"]],
        predictions=predictions,
        classes=(str(classes[0]), str(classes[1])) if classes else None,
        score_range=(float(score_range[0]), float(score_range[1])) if score_range else None,
        seed=value.get("seed"),
        splits=dict(value.get("splits") or {}),
        cosine_layers=[int(layer) for layer in cosine.get("layers", [])],
        cosine=[[_number(item) for item in line] for line in cosine.get("matrix", [])],
        reliability=[_bin(item) for item in (value.get("reliability") or {}).get("bins", [])],
        provenance=dict(value.get("provenance") or {}),
        run=run,
    )


def _chosen(value: dict[str, Any]) -> Chosen:
    return Chosen(
        kind=str(value["kind"]),
        head=value.get("head"),
        site=str(value["site"]),
        layer=int(value["layer"]),
        position=str(value["position"]),
        l2=_number(value.get("l2")),
    )


def _row(value: dict[str, Any]) -> SweepRow:
    return SweepRow(
        kind=str(value["kind"]),
        head=value.get("head"),
        site=str(value["site"]),
        layer=int(value["layer"]),
        position=str(value["position"]),
        l2=_number(value.get("l2")),
        choose=_metrics(value["choose"]),
        controls=_controls(value.get("controls")),
        chosen=bool(value.get("chosen", False)),
    )


def _bin(value: dict[str, Any]) -> ReliabilityBin:
    return ReliabilityBin(
        low=_number(value["low"]),
        high=_number(value["high"]),
        n=int(value["n"]),
        predicted=_number(value["predicted"]),
        observed=_number(value["observed"]),
        observed_low=_number(value.get("observed_low")),
        observed_high=_number(value.get("observed_high")),
    )


def _prediction(value: dict[str, Any]) -> Prediction:
    return Prediction(
        id=str(value["id"]),
        side=value.get("side"),
        group=str(value["group"]),
        score=_number(value["score"]),
        target=_number(value.get("target")),
        prediction=_number(value.get("prediction")),
        n_tokens=int(value.get("n_tokens") or 0),
        tags={str(tag): str(item) for tag, item in (value.get("tags") or {}).items()},
        prompt=value.get("prompt") or "",
        completion=value.get("completion") or "",
    )
