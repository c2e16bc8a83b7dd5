"""Read what `probekit steer` left in a directory, refusing what is foreign, partial or newer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probekit.errors import ProbeError
from probekit.reports.output import Kind, json_number
from probekit.reports.rows import NO_VALUE, Metric, Metrics
from probekit.reports.steer_rows import (
    BASELINE,
    Change,
    Completion,
    Condition,
    Judge,
    Measure,
    RankedLayer,
    Ranking,
    Reference,
    Steer,
    SteerProbe,
    Usable,
)

KIND = Kind("steer", "a steering run", "steer.json", "probekit.steer", 1)
GROUPS = ("effect", "layers", "behaviour", "damage")
MODES = ("add", "clamp", "ablate")


def load_steer(directory: Path) -> Steer:
    """Return the run that `probekit steer` left in `directory`.

    Parameters
    ----------
    directory
        Holds `steer.json` and `completions.jsonl`.

    Raises
    ------
    ProbeError
        When the directory is missing, is not the output of a steering run, is partial or damaged,
        or was written by a newer probekit.
    """
    directory = Path(directory)
    value = KIND.read(directory)
    path = directory / "completions.jsonl"
    completions = KIND.read_rows(path, _completion, "completion")
    steer = KIND.whole(directory / KIND.file, lambda: _steer(value, completions))
    if len(completions) != steer.n["completions"]:
        raise ProbeError(
            f"{path}: has {len(completions)} rows, steer.json says {steer.n['completions']}; the "
            f"file is partial or from another run. {KIND.again}"
        )
    return steer


def _metric(value: dict[str, Any] | float | None) -> Metric:
    if value is None:
        return NO_VALUE
    if isinstance(value, (int, float)):
        return Metric(float(value))
    return Metric(
        json_number(value["value"]), json_number(value.get("low")), json_number(value.get("high"))
    )


def _metrics(value: dict[str, Any]) -> Metrics:
    return {name: _metric(item) for name, item in value.items()}


def _one_of(value: object, allowed: tuple[str, ...], what: str) -> str:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}, expected {', '.join(allowed)}")
    return str(value)


def _steer(value: dict[str, Any], completions: list[Completion]) -> Steer:
    vector, rerank, judge = value["vector"], value.get("rerank"), value.get("judge")
    conditions = [_condition(item) for item in value["conditions"]]
    if not any(item.direction == BASELINE for item in conditions):
        raise ValueError("no condition is unsteered, so nothing can be compared")
    return Steer(
        probe=_probe(value["probe"]),
        source=str(vector["source"]),
        layers=[int(layer) for layer in vector["layers"]],
        norms={
            int(layer): json_number(norm) for layer, norm in (vector.get("norms") or {}).items()
        },
        mode=_one_of(value["mode"], MODES, "mode"),
        where=str(value["where"]),
        coeffs=sorted(float(coeff) for coeff in value["coeffs"]),
        n={name: int(number) for name, number in value["n"].items()},
        measures=[_measure(item) for item in value["measures"]],
        conditions=conditions,
        doses=_changes(value.get("doses"), "slope"),
        ablation=_changes(value.get("ablation"), "difference"),
        usable=_usable(value["usable"] or {"coeffs": [0.0]}, value.get("damage_bound")),
        completions=completions,
        rerank=_ranking(rerank) if rerank else None,
        judge=_judge(judge) if judge else None,
        reference=[
            Reference(str(item["name"]), json_number(item["mean"]), json_number(item.get("sd")))
            for item in value.get("reference") or []
        ],
        seed=value.get("seed"),
        sampling={key: value.get(key) for key in ("max_new_tokens", "temperature", "top_p")},
        provenance=dict(value.get("provenance") or {}),
    )


def _probe(value: dict[str, Any]) -> SteerProbe:
    metric, classes, ends = value.get("metric"), value.get("classes"), value.get("score_range")
    return SteerProbe(
        path=str(value["path"]),
        kind=str(value["kind"]),
        head=value.get("head"),
        site=str(value["site"]),
        layer=int(value["layer"]),
        position=str(value["position"]),
        data_kind=_one_of(value["data_kind"], ("label", "rating", "pair"), "data_kind"),
        classes=(str(classes[0]), str(classes[1])) if classes else None,
        score_range=(float(ends[0]), float(ends[1])) if ends else None,
        metric_name=str(metric["name"]) if metric else "",
        metric=_metric(metric),
    )


def _measure(value: dict[str, Any]) -> Measure:
    layer = value.get("layer")
    return Measure(
        name=str(value["name"]),
        # Behaviours counted by rules are the rule here; only those of a judge need a word.
        label=str(value["label"]).removesuffix(" (rate)"),
        unit=str(value.get("unit") or ""),
        group=_one_of(value["group"], GROUPS, "group of a measure"),
        layer=None if layer is None else int(layer),
    )


def _condition(value: dict[str, Any]) -> Condition:
    return Condition(
        direction=str(value["direction"]),
        mode=str(value["mode"]),
        coeff=json_number(value["coeff"]),
        n=int(value["n"]),
        values=_metrics(value["values"]),
        differences=_metrics(value.get("differences") or {}),
    )


def _changes(value: dict[str, Any] | None, key: str) -> dict[str, Change]:
    return {
        name: Change(
            metric=_metric(item[key]),
            random=tuple(json_number(number) for number in item.get("random") or ()),
            p=json_number(item.get("p")),
            coeffs=tuple(float(coeff) for coeff in item.get("coeffs") or ()),
        )
        for name, item in (value or {}).items()
        if item is not None
    }


def _usable(value: dict[str, Any], bound: float | None) -> Usable:
    return Usable(
        low=json_number(value.get("low")),
        high=json_number(value.get("high")),
        coeffs=tuple(sorted(float(coeff) for coeff in value["coeffs"])),
        bound=json_number(value.get("bound", bound)),
        reasons={str(float(k)): str(reason) for k, reason in (value.get("reasons") or {}).items()},
    )


def _ranking(value: dict[str, Any]) -> Ranking:
    rows = [
        RankedLayer(
            layer=int(row["layer"]),
            metric=_metric(row["metric"]),
            effect=_metric(row["effect"]),
            damage=_metric(row["damage"]),
            ratio=_metric(row["ratio"]),
            rank=None if row.get("rank") is None else int(row["rank"]),
            steered=bool(row.get("steered", False)),
        )
        for row in value["rows"]
    ]
    return Ranking(
        coeff=json_number(value["coeff"]),
        metric=str(value["metric"]),
        measure=str(value["measure"]),
        rows=sorted(rows, key=lambda row: row.layer),
        spearman=_metric(value.get("spearman")),
        prompts=value.get("n_prompts"),
    )


def _judge(value: dict[str, Any]) -> Judge:
    counts = {key: int(value.get(key) or 0) for key in ("asked", "answered", "failed")}
    return Judge(
        url=str(value.get("url") or ""),
        model=str(value.get("model") or ""),
        agreement=_metric(value.get("agreement")),
        **counts,
    )


def _completion(value: dict[str, Any]) -> Completion:
    category, judge = value.get("category"), value.get("judge")
    return Completion(
        direction=str(value["direction"]),
        mode=str(value["mode"]),
        coeff=json_number(value["coeff"]),
        prompt_id=str(value["prompt_id"]),
        sample=int(value["sample"]),
        prompt=str(value.get("prompt") or ""),
        text=str(value.get("text") or ""),
        n_tokens=int(value.get("n_tokens") or 0),
        finished=bool(value.get("finished", True)),
        score=json_number(value.get("score")),
        category=None if category is None else str(category),
        judge=None if judge is None else str(judge),
    )
