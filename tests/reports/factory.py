"""Made-up output directories of a fit, of every kind of data, written as the command writes them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from probekit.container import write_json
from probekit.results.sweep import DOCUMENT, PREDICTIONS, CellRow, PredictionRow, SweepRecord
from tests.reports.words import HOSTILE, WORDS, ends

MEASURES = {
    "label": ("auroc", "accuracy", "balanced_accuracy", "log_loss", "ece"),
    "rating": ("pearson", "spearman", "r2", "mae", "pair_accuracy"),
    "pair": ("pair_accuracy", "chosen", "rejected", "margin", "log_loss", "ece"),
}
KIND = {"label": ("logistic", None), "rating": ("ridge", None), "pair": ("bradley-terry", "linear")}
NONE = {"value": None, "low": None, "high": None}


@dataclass
class Made:
    """What to make; the defaults are a plain sweep of a 30-layer model."""

    kind: str = "pair"
    layers: int = 30
    positions: tuple[str, ...] = ("last", "turn_end", "mean")
    series: tuple[tuple[str, str | None, str], ...] = ()
    """Kind, head and site of each set of cells; one by default."""
    embedding: bool = True
    n: int = 160
    signal: float = 1.0
    """0: nothing to find. 1: a clear probe."""
    nulls: bool = False
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    """Every text in turn, instead of made-up ones."""
    classes: tuple[str, str] = ("invented", "real")
    seed: int = 0


def ugly(kind: str = "pair") -> Made:
    """Return the case that breaks reports: hostile and long texts, nulls, many of everything."""
    kind_, head = KIND[kind]
    texts = (HOSTILE, "نص مكتوب من اليمين", "a" * 400, "one\ntwo\u2028three\t\ttabbed", "")
    long = "a very long tag value that goes on and on well beyond the width of a label"
    return Made(
        kind, layers=26, n=37, signal=0.25, nulls=True, texts=texts, seed=3,
        positions=("last", "turn_end", "prompt_end", "mean", "first:16", "first:4", "token:-5"),
        series=((kind_, head, "resid_post"), ("mean-difference", None, "resid_post"),
                (kind_, head, "attn_out")),
        tags={"<i>source</i>": ("<script>alert(1)</script>", long, "אבג"),
              "language": tuple(f"language-{index:02d}" for index in range(24))},
        classes=("a class name that is rather long <b>", "כן"),
    )  # fmt: skip


def write_fit(directory: Path, made: Made) -> Path:
    """Write what a fit leaves in `directory` and return it."""
    rng = np.random.default_rng(made.seed)
    rows = _predictions(made, rng)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / DOCUMENT.file, {**DOCUMENT.header, **_record(made, rows, rng)})
    PREDICTIONS.write(directory, rows)
    run = {"command": "fit", "argv": ["fit", "acts.h5", "--out", "sweep"], "seed": made.seed,
           "versions": {"python": "3.11.7"}, "created": "2026-11-21T04:12:54+00:00"}  # fmt: skip
    write_json(directory / "run.json", run)
    return directory


def _record(made: Made, rows: list[PredictionRow], rng: np.random.Generator) -> SweepRecord:
    primary, chance = MEASURES[made.kind][0], 0.0 if made.kind == "rating" else 0.5
    cells = _cells(made, chance, rng)
    best = max(cells, key=lambda cell: cell["choose"][primary]["value"])
    best["chosen"], value = True, best["choose"][primary]["value"]
    levels = {"length": 0.06, "tfidf": 0.02 + 0.14 * made.signal, "random_direction": 0.03,
              "shuffled_labels": -0.01, "layer_0": 0.1 * made.signal}  # fmt: skip
    levels["length_partialled"] = value - 0.04 - chance
    controls = {name: _values(made.kind, chance + at, rng) for name, at in levels.items()}
    by_tag = {
        tag: {v: _values(made.kind, value + rng.normal(0, 0.04), rng, 0.09) for v in values}
        for tag, values in made.tags.items()
    }
    if made.nulls:
        parts = [next(iter(values.values())) for values in by_tag.values()]
        empty = [cell["choose"] for cell in cells[1::7] if not cell["chosen"]]
        for values in (controls["tfidf"], *parts, *empty):
            values[primary] = NONE
    head = {key: best[key] for key in ("kind", "head", "site", "layer", "position", "l2")}
    at = np.arange(made.layers)
    cosine = np.exp(-np.abs(at[:, None] - at) / 4) - 0.2 * (np.abs(at[:, None] - at) > 20)
    n = {"examples": 5 * made.n, "groups": 4 * made.n, "fit": 3 * made.n}
    for split in ("fit", "choose", "report"):
        n |= {split: n.get(split, made.n), f"{split}_groups": int(0.8 * n.get(split, made.n))}
    store = {"model": "smollm2-135m", "revision": "v0.2", "weights_fingerprint": "078b39",
             "forward_dtype": "bfloat16", "storage_dtype": "float16",
             "data": {"source": f"demo:researchers_{made.kind}s", "fingerprint": "1c0f",
                      "rows": made.n * 5}}  # fmt: skip
    return {
        "data_kind": made.kind, "chosen": head, "primary": primary, "choose": best["choose"],
        "report": _values(made.kind, value - 0.02, rng), "controls": controls, "by_tag": by_tag, "n": n,
        "classes": made.classes if made.kind == "label" else None,
        "score_range": (1.0, 10.0) if made.kind == "rating" else None, "seed": made.seed,
        "splits": {"fit": 0.6, "choose": 0.2, "report": 0.2}, "rows": cells,
        "cosine": {key: head[key] for key in ("kind", "site", "position")}
        | {"layers": at.tolist(), "matrix": np.where(made.nulls & (at == 2), np.nan, cosine).tolist()},
        "reliability": {"what": "observed", "bins": _bins(made, rows)},
        "provenance": {"store": store, "fit": {"command": "fit", "seed": made.seed}},
    }  # fmt: skip


def _values(kind: str, value: float, rng: np.random.Generator, half: float = 0.05) -> dict:
    """Return all measures of a head; the primary one at `value`."""
    middle = {"margin": 1.7, "chosen": 2.0, "rejected": 0.3, "mae": 1.3, "r2": 0.35, "ece": 0.06}
    at = {name: middle.get(name, 0.6) + rng.normal(0, 0.02) for name in MEASURES[kind]}
    at[MEASURES[kind][0]] = value
    return {name: ends(float(v), half, 0.9 * half) for name, v in at.items()}


def _cells(made: Made, chance: float, rng: np.random.Generator) -> list[CellRow]:
    cells, top = [], (0.62 if made.kind == "rating" else 0.4) * made.signal
    series = made.series or ((*KIND[made.kind], "resid_post"),)
    for (s, (kind, head, site)), (p, position) in itertools.product(
        enumerate(series), enumerate(made.positions)
    ):
        places = [(site, layer) for layer in range(made.layers)]
        if made.embedding and site == "resid_post":
            places.insert(0, ("resid_pre", 0))
        reach = top * (1 - 0.22 * ((p + 2) % 3)) * (1 - 0.25 * s)
        for place, layer in places:
            depth = 0 if place == "resid_pre" else (layer + 1) / made.layers
            shape = (1 - 0.25 * max(0, depth - 0.75)) / (1 + math.exp(-9 * (depth - 0.35)))
            controls = {
                name: _values(made.kind, chance + rng.normal(0, 0.02), rng)
                for name in ("random_direction", "shuffled_labels")
            }
            value = chance + reach * shape + rng.normal(0, 0.012)
            cells.append({
                "kind": kind, "head": head, "site": place, "layer": layer, "position": position,
                "l2": float(10.0 ** rng.integers(-2, 4)), "choose": _values(made.kind, value, rng),
                "controls": controls, "chosen": False,
            })  # fmt: skip
    return cells


def _predictions(made: Made, rng: np.random.Generator) -> list[PredictionRow]:
    rows, texts = [], itertools.cycle(made.texts)

    def text() -> str:
        words = " ".join(rng.choice(WORDS, size=int(rng.integers(8, 60))))
        return next(texts) if made.texts else words

    for index in range(made.n):
        tags = {tag: values[index % len(values)] for tag, values in made.tags.items()}
        base = {"id": f"row-{index}", "group": f"g{index // 2}", "tags": tags, "prompt": text(),
                "n_tokens": int(rng.integers(4, 200)), "target": None, "prediction": None}  # fmt: skip
        if made.kind == "pair":
            level = rng.normal(0, 0.8)
            for side, shift in (("chosen", 1.5 * made.signal), ("rejected", 0.0)):
                score = level + shift + rng.normal(0, 0.5)
                rows.append({**base, "side": side, "score": score, "completion": text()})
        elif made.kind == "label":
            target = int(rng.random() < 0.45)
            score = (2 * target - 1) * 1.6 * made.signal + rng.normal(0, 1.4)
            p = 1 / (1 + math.exp(-score))
            rows.append(
                {**base, "score": score, "target": target, "prediction": p, "completion": ""}
            )
        else:
            target = float(np.clip(rng.normal(6.5, 2.0), 1, 10).round(1))
            predicted = 6.5 + 0.55 * made.signal * (target - 6.5) + rng.normal(0, 0.9)
            rows.append({**base, "score": (predicted - 5.5) / 4.5, "target": target,
                         "prediction": predicted, "completion": text()})  # fmt: skip
    return rows


def _bins(made: Made, rows: list[PredictionRow]) -> list[dict]:
    if made.kind == "pair":
        scores = np.array([row["score"] for row in rows]).reshape(-1, 2)
        margins = scores[:, 0] - scores[:, 1]
        predicted = 1 / (1 + np.exp(-np.concatenate([margins, -margins])))
        observed = np.repeat([1.0, 0.0], len(margins))
    else:
        predicted, observed = np.array([[row["prediction"], row["target"]] for row in rows]).T
    edges = np.linspace(0, 1, 11)
    edges = np.quantile(predicted, edges) if made.kind == "rating" else edges
    at = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, 9)
    bins = []
    for k in np.unique(at):
        inside = observed[at == k]
        half = 1.96 * inside.std() / math.sqrt(len(inside)) + 0.02
        seen = {"": inside.mean(), "_low": inside.mean() - half, "_high": inside.mean() + half}
        bins.append({"low": edges[k], "high": edges[k + 1], "n": len(inside),
                     "predicted": predicted[at == k].mean(),
                     **{f"observed{end}": value for end, value in seen.items()}})  # fmt: skip
    return bins
