"""Read what `probekit fit` left in a directory, refusing what is foreign, partial or newer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probekit.errors import ProbeError
from probekit.reports.output import Kind, json_number
from probekit.reports.rows import (
    Chosen,
    Metric,
    Metrics,
    Prediction,
    ReliabilityBin,
    Sweep,
    SweepRow,
)

KIND = Kind("fit", "a fit", "sweep.json", "probekit.sweep", 1)


def load_sweep(directory: Path) -> Sweep:
    """Return the sweep a fit left in `directory`.

    Raises
    ------
    ProbeError
        When the directory is missing, is not the output of a fit, is partial or damaged, or was
        written by a newer probekit.
    """
    value = KIND.read(directory)
    predictions = KIND.read_rows(directory / "predictions.jsonl", _prediction, "prediction")
    run = directory / "run.json"
    record = KIND.read_json(run) if run.is_file() else {}
    sweep = KIND.whole(directory / KIND.file, lambda: _sweep(value, predictions, record))
    _check_whole(directory, sweep)
    return sweep


def _check_whole(directory: Path, sweep: Sweep) -> None:
    if not sweep.rows:
        raise ProbeError(f"{directory}/sweep.json: has no rows, the file is partial. {KIND.again}")
    expected = sweep.n["report"] * (2 if sweep.data_kind == "pair" else 1)
    if len(sweep.predictions) != expected:
        raise ProbeError(
            f"{directory}/predictions.jsonl: has {len(sweep.predictions)} rows, sweep.json says "
            f"{expected}; the file is partial or from another fit. {KIND.again}"
        )


def _metrics(value: dict[str, Any] | None) -> Metrics:
    return {
        name: Metric(
            json_number(item["value"]), json_number(item.get("low")), json_number(item.get("high"))
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
        cosine=[[json_number(item) for item in line] for line in cosine.get("matrix", [])],
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
        l2=json_number(value.get("l2")),
    )


def _row(value: dict[str, Any]) -> SweepRow:
    return SweepRow(
        kind=str(value["kind"]),
        head=value.get("head"),
        site=str(value["site"]),
        layer=int(value["layer"]),
        position=str(value["position"]),
        l2=json_number(value.get("l2")),
        choose=_metrics(value["choose"]),
        controls=_controls(value.get("controls")),
        chosen=bool(value.get("chosen", False)),
    )


def _bin(value: dict[str, Any]) -> ReliabilityBin:
    return ReliabilityBin(
        low=json_number(value["low"]),
        high=json_number(value["high"]),
        n=int(value["n"]),
        predicted=json_number(value["predicted"]),
        observed=json_number(value["observed"]),
        observed_low=json_number(value.get("observed_low")),
        observed_high=json_number(value.get("observed_high")),
    )


def _prediction(value: dict[str, Any]) -> Prediction:
    return Prediction(
        id=str(value["id"]),
        side=value.get("side"),
        group=str(value["group"]),
        score=json_number(value["score"]),
        target=json_number(value.get("target")),
        prediction=json_number(value.get("prediction")),
        n_tokens=int(value.get("n_tokens") or 0),
        tags={str(tag): str(item) for tag, item in (value.get("tags") or {}).items()},
        prompt=value.get("prompt") or "",
        completion=value.get("completion") or "",
    )
