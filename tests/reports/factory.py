"""Made-up output directories of a fit, of every kind of data, realistic down to their noise."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PRIMARY = {"label": "auroc", "rating": "pearson", "pair": "pair_accuracy"}
OTHERS = {
    "label": ("accuracy", "balanced_accuracy", "log_loss", "ece"),
    "rating": ("spearman", "r2", "mae", "pair_accuracy"),
    "pair": ("chosen", "rejected", "margin", "log_loss", "ece"),
}
KIND = {
    "label": ("logistic", None),
    "rating": ("ridge", None),
    "pair": ("bradley-terry", "linear"),
}
WORDS = (
    "the question asks which of these people worked on quantum gravity and whether the paper "
    "was ever published so I would rather say that I do not know than invent an answer"
).split()


@dataclass
class Made:
    """What to make; the defaults are a plain sweep of a 30-layer model."""

    kind: str = "pair"
    layers: int = 30
    positions: tuple[str, ...] = ("last", "turn_end", "mean")
    series: tuple[tuple[str, str | None, str], ...] = ()
    embedding: bool = True
    n: int = 160
    signal: float = 1.0
    """0: nothing to find. 1: a clear probe."""
    nulls: bool = False
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    classes: tuple[str, str] = ("invented", "real")
    seed: int = 0


def make_sweep(made: Made) -> tuple[dict, list[dict]]:
    """Return what sweep.json and predictions.jsonl hold."""
    rng = np.random.default_rng(made.seed)
    predictions = _predictions(made, rng)
    primary = PRIMARY[made.kind]
    rows = _rows(made, rng)
    best = max(rows, key=lambda row: row["choose"][primary]["value"] or -1.0)
    best["chosen"] = True
    if made.nulls:
        for row in rows[1::7]:
            if not row["chosen"]:
                row["choose"][primary] = dict(value=None, low=None, high=None)
    chosen = {k: best[k] for k in ("kind", "head", "site", "layer", "position", "l2")}
    chance = 0.0 if made.kind == "rating" else 0.5
    value = best["choose"][primary]["value"]
    report = {primary: _metric(value - 0.02, 0.045), **_others(made.kind, rng)}
    control = {
        "length": chance + 0.06, "tfidf": chance + 0.14 * made.signal + 0.02,
        "random_direction": chance + 0.03, "shuffled_labels": chance - 0.01,
        "layer_0": chance + 0.1 * made.signal, "length_partialled": value - 0.04,
    }  # fmt: skip
    controls = {
        name: {primary: _metric(at, 0.05), **_others(made.kind, rng)}
        for name, at in control.items()
    }
    by_tag = {
        tag: {v: {primary: _metric(value + rng.normal(0, 0.04), 0.09), **_others(made.kind, rng)}
              for v in values}
        for tag, values in made.tags.items()
    }  # fmt: skip
    if made.nulls:
        controls["tfidf"][primary] = dict(value=None, low=None, high=None)
        for values in by_tag.values():
            next(iter(values.values()))[primary] = dict(value=None, low=None, high=None)
    layers = list(range(made.layers))
    sweep = {
        "format": "probekit.sweep", "format_version": 1, "data_kind": made.kind,
        "primary": primary, "chosen": chosen, "choose": best["choose"], "report": report,
        "controls": controls, "by_tag": by_tag,
        "n": {"examples": made.n * 5, "groups": made.n * 4, "fit": made.n * 3, "choose": made.n,
              "report": made.n, "fit_groups": int(made.n * 2.4),
              "choose_groups": int(made.n * 0.8), "report_groups": int(made.n * 0.8)},
        "classes": list(made.classes) if made.kind == "label" else None,
        "score_range": [1.0, 10.0] if made.kind == "rating" else None,
        "seed": made.seed, "splits": {"fit": 0.6, "choose": 0.2, "report": 0.2},
        "rows": rows,
        "cosine": {"kind": chosen["kind"], "site": chosen["site"],
                   "position": chosen["position"], "layers": layers,
                   "matrix": _cosine(layers, made.nulls)},
        "reliability": {"what": "observed against predicted",
                        "bins": _bins(made, predictions)},
        "provenance": _provenance(made),
    }  # fmt: skip
    return sweep, predictions


def write_fit(directory: Path, made: Made) -> Path:
    """Write what a fit leaves in `directory` and return it."""
    sweep, predictions = make_sweep(made)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sweep.json").write_text(json.dumps(sweep), encoding="utf-8")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in predictions]
    (directory / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    run = {"command": "fit", "argv": ["fit", "acts.h5", "--out", "sweep"], "seed": made.seed,
           "versions": {"python": "3.11.7", "probekit": "0.1.0", "torch": "2.13.0"},
           "git_commit": "f8a175c", "created": "2026-11-21T04:12:54+00:00"}  # fmt: skip
    (directory / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return directory


def ugly(kind: str = "pair") -> Made:
    """Return the case that breaks reports: hostile and long texts, nulls, many of everything."""
    hostile = (
        "</script><script>document.title='owned'</script><b>bold & \"quoted\"</b> <img src=x>",
        "مرحبا، هذا نص مكتوب من اليمين إلى اليسار ليس له مسافات كثيرة",
        "山田太郎は量子重力の研究者ですか？ 🤖 naïve façade — Ω≈ç√∫",
        "a" * 400,
        "line one\nline two\u2028line three\t\ttabbed   spaces",
        "",
    )
    kind_, head = KIND[kind]
    return Made(
        kind=kind,
        layers=26,
        positions=("last", "turn_end", "prompt_end", "mean", "first:16", "first:4", "token:-5",
                   "token:100"),
        series=((kind_, head, "resid_post"), ("mean-difference", None, "resid_post"),
                (kind_, head, "attn_out")),
        n=37,
        signal=0.25,
        nulls=True,
        tags={
            "<i>source</i>": ("<script>alert(1)</script>", "a very long tag value that goes on "
                              "and on well beyond any reasonable width for a label", "אבג"),
            "language": tuple(f"language-{index:02d}" for index in range(24)),
        },
        texts=hostile,
        classes=("a class name that is rather long <b>", "כן"),
        seed=3,
    )  # fmt: skip


def _rows(made: Made, rng: np.random.Generator) -> list[dict]:
    chance = 0.0 if made.kind == "rating" else 0.5
    primary = PRIMARY[made.kind]
    top = (0.62 if made.kind == "rating" else 0.4) * made.signal
    rows = []
    for s, (kind, head, site) in enumerate(made.series or ((*KIND[made.kind], "resid_post"),)):
        for p, position in enumerate(made.positions):
            reach = top * (1 - 0.22 * ((p + 2) % 3)) * (1 - 0.25 * s)
            cells = [(site, layer) for layer in range(made.layers)]
            if made.embedding and site == "resid_post":
                cells.insert(0, ("resid_pre", 0))
            for at, layer in cells:
                depth = 0 if at == "resid_pre" else (layer + 1) / made.layers
                shape = 1 / (1 + math.exp(-9 * (depth - 0.35))) * (1 - 0.25 * max(0, depth - 0.75))
                value = chance + reach * shape + rng.normal(0, 0.012)
                noise = {
                    name: {primary: _metric(chance + rng.normal(0, 0.02), 0.05)}
                    for name in ("random_direction", "shuffled_labels")
                }
                rows.append(
                    {"kind": kind, "head": head, "site": at, "layer": layer,
                     "position": position, "l2": float(10.0 ** rng.integers(-2, 4)),
                     "choose": {primary: _metric(value, 0.05), **_others(made.kind, rng)},
                     "controls": noise, "chosen": False}
                )  # fmt: skip
    return rows


def _others(kind: str, rng: np.random.Generator) -> dict:
    middle = {"margin": 1.7, "chosen": 2.0, "rejected": 0.3, "mae": 1.3, "r2": 0.35, "ece": 0.06}
    return {
        name: _metric(middle.get(name, 0.6) + rng.normal(0, 0.02), 0.04) for name in OTHERS[kind]
    }


def _metric(value: float, half: float) -> dict:
    value = float(min(value, 0.995)) if value < 1 else float(value)
    high = value + half * 0.9
    return {"value": value, "low": value - half, "high": min(high, 1.0) if value < 1 else high}


def _text(rng: np.random.Generator, made: Made, index: int) -> str:
    if made.texts:
        return made.texts[index % len(made.texts)]
    return " ".join(rng.choice(WORDS, size=int(rng.integers(8, 90)))).capitalize() + "."


def _predictions(made: Made, rng: np.random.Generator) -> list[dict]:
    rows = []
    for index in range(made.n):
        tags = {tag: values[index % len(values)] for tag, values in made.tags.items()}
        base = {"id": f"row-{index}", "group": f"g{index // 2}", "tags": tags,
                "n_tokens": int(rng.integers(4, 200)), "prompt": _text(rng, made, index)}  # fmt: skip
        if made.kind == "pair":
            level = rng.normal(0, 0.8)
            for side, shift in (("chosen", 1.5 * made.signal), ("rejected", 0.0)):
                rows.append({**base, "side": side, "score": level + shift + rng.normal(0, 0.5),
                             "target": None, "prediction": None,
                             "completion": _text(rng, made, index + 1)})  # fmt: skip
        elif made.kind == "label":
            target = int(rng.random() < 0.45)
            score = (2 * target - 1) * 1.6 * made.signal + rng.normal(0, 1.4)
            rows.append({**base, "score": score, "target": target, "completion": "",
                         "prediction": 1 / (1 + math.exp(-score))})  # fmt: skip
        else:
            target = float(np.clip(rng.normal(6.5, 2.0), 1, 10).round(1))
            predicted = 6.5 + 0.55 * made.signal * (target - 6.5) + rng.normal(0, 0.9)
            rows.append({**base, "score": (predicted - 5.5) / 4.5, "target": target,
                         "prediction": predicted,
                         "completion": _text(rng, made, index + 1)})  # fmt: skip
    return rows


def _bins(made: Made, predictions: list[dict]) -> list[dict]:
    if made.kind == "pair":
        scores = np.array([row["score"] for row in predictions]).reshape(-1, 2)
        margins = scores[:, 0] - scores[:, 1]
        predicted = 1 / (1 + np.exp(-np.concatenate([margins, -margins])))
        observed = np.concatenate([np.ones(len(margins)), np.zeros(len(margins))])
    else:
        predicted = np.array([row["prediction"] for row in predictions])
        observed = np.array([float(row["target"]) for row in predictions])
    edges = np.linspace(0, 1, 11)
    if made.kind == "rating":
        edges = np.quantile(predicted, edges)
    bins = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (predicted >= low) & ((predicted < high) | (high == edges[-1]))
        n = int(inside.sum())
        mean = float(observed[inside].mean()) if n else None
        half = float(1.96 * observed[inside].std() / math.sqrt(n) + 0.02) if n else 0.0
        bins.append({"low": float(low), "high": float(high), "n": n,
                     "predicted": float(predicted[inside].mean()) if n else None,
                     "observed": mean, "observed_low": None if mean is None else mean - half,
                     "observed_high": None if mean is None else mean + half})  # fmt: skip
    if made.kind != "rating":
        for item in bins:
            if item["n"]:
                item["observed_low"] = max(0.0, item["observed_low"])
                item["observed_high"] = min(1.0, item["observed_high"])
    return bins


def _cosine(layers: list[int], nulls: bool) -> list[list[float | None]]:
    at = np.array(layers, dtype=float)
    matrix = np.exp(-np.abs(at[:, None] - at) / (1.5 + 0.35 * np.minimum(at[:, None], at)))
    matrix -= 0.25 * (np.abs(at[:, None] - at) > 0.8 * len(layers))
    value = matrix.tolist()
    if nulls:
        for index in range(len(layers)):
            value[2][index] = value[index][2] = None
    return value


def _provenance(made: Made) -> dict:
    store = {"model": "smollm2-135m", "revision": "v0.2", "model_type": "llama",
             "weights_fingerprint": "078b392553574229", "forward_dtype": "bfloat16",
             "storage_dtype": "float16",
             "data": {"source": f"demo:researchers_{made.kind}s", "fingerprint": "1c0f",
                      "kind": made.kind, "rows": made.n * 5}}  # fmt: skip
    return {"store": store, "fit": {"command": "fit", "seed": made.seed, "created": "2026-11-21"}}
