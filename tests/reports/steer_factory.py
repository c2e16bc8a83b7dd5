"""Made-up output directories of a steering run, with planted slopes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.reports.words import WORDS

MEASURES = [
    ("score", "probe score (layer 18)", "log-odds of being preferred", "effect", None),
    ("perplexity", "perplexity", "unsteered model", "damage", None),
    ("kl", "KL to the unsteered model", "nats per token", "damage", None),
    ("distinct_1", "distinct words", "share", "damage", None),
    ("distinct_2", "distinct word pairs", "share", "damage", None),
    ("length", "length", "tokens", "damage", None),
    ("finished", "ended its turn", "share", "damage", None),
]


@dataclass
class MadeSteer:
    """What to make; the defaults are a run that worked."""

    slope: float = 3.0
    """Planted slope of the score."""
    width: float = 0.4
    """Half of every slope's interval."""
    mode: str = "add"
    coeffs: tuple[float, ...] = (-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6)
    usable: tuple[float, ...] = (-0.4, -0.2, 0.0, 0.2, 0.4)
    random: int = 5
    random_slope: float = 0.4
    """Spread of the random directions' slopes."""
    layers: int = 24
    """Layers whose probes read the score; 0 for none."""
    steered: tuple[int, ...] = (18,)
    behaviours: dict[str, float] = field(
        default_factory=lambda: {"hedges": 0.5, "refuses": 0.02, "invents": -0.35}
    )
    """Behaviour to its planted slope."""
    prompts: int = 24
    samples: int = 2
    ablation: bool = True
    rerank: bool = True
    judge: bool = True
    reference: bool = True
    nulls: bool = False
    text: str = ""
    """Every text and name that a user may choose, instead of plain ones."""
    seed: int = 0


def make_steer(made: MadeSteer) -> tuple[dict, list[dict]]:
    """Return what steer.json and completions.jsonl hold."""
    rng = np.random.default_rng(made.seed)
    measures = _measures(made)
    slopes = {m["name"]: _planted(made, m) for m in measures}
    names = ["probe", *(f"random-{index + 1:02}" for index in range(made.random))]
    moved = {
        (d, m["name"]): slopes[m["name"]] if d == "probe" else _noise(made, m, rng)
        for d in names
        for m in measures
    }
    conditions = [_condition("none", "none", 0.0, made, measures, moved, rng)]
    for direction in names:
        if made.mode != "ablate":
            for coeff in made.coeffs:
                if coeff or made.mode == "clamp":
                    args = (direction, made.mode, coeff, made, measures, moved, rng)
                    conditions.append(_condition(*args))
        if made.ablation or made.mode == "ablate":
            conditions.append(_condition(direction, "ablate", None, made, measures, moved, rng))
    for item in conditions:
        item["differences"] = {"score": _difference(item, conditions[0])}
    rows = _completions(made, conditions, rng)
    value = {
        **_header(made, len(rows)),
        "measures": measures,
        "conditions": conditions,
        "doses": None if made.mode == "ablate" else {
            m["name"]: _dose(made, m["name"], moved, names[1:]) for m in measures
        },
        "ablation": _ablation(made, conditions, measures),
        "rerank": _rerank(made, rng) if made.rerank else None,
        "judge": dict(url="http://localhost:8000/v1", model="judge-7b", asked=100, answered=93,
                      failed=7, agreement=0.87) if made.judge else None,
        "reference": [dict(name="chosen", mean=1.9, sd=0.8), dict(name="rejected", mean=-0.6, sd=0.9)]
        if made.reference else None,
    }  # fmt: skip
    return value, rows


def write_steer(folder: Path, made: MadeSteer) -> Path:
    """Write the files of a run into `folder` and return it."""
    value, rows = make_steer(made)
    folder.mkdir(parents=True)
    (folder / "steer.json").write_text(json.dumps(value), encoding="utf-8")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "completions.jsonl").write_text(lines, encoding="utf-8")
    return folder


def _metric(value: float | None, half: float = 0.0) -> dict:
    if value is None:
        return dict(value=None, low=None, high=None)
    return dict(value=float(value), low=float(value - half), high=float(value + half))


def _measures(made: MadeSteer) -> list[dict]:
    found = [(n, lab, unit, group, at) for n, lab, unit, group, at in MEASURES]
    for name in made.behaviours:
        found.insert(1, (f"rate:{name}", made.text or f"{name} (rate)", "share", "behaviour", None))
    for layer in range(made.layers):
        found.append(
            (
                f"score@{layer}",
                f"probe score (layer {layer})",
                "log-odds of being preferred",
                "layers",
                layer,
            )
        )
    if made.judge and made.behaviours:
        first = next(iter(made.behaviours))
        found.append((f"judge:{first}", f"{first} (judge)", "share", "behaviour", None))
    keys = ("name", "label", "unit", "group", "layer")
    return [{k: v for k, v in zip(keys, row, strict=True) if v is not None} for row in found]


def _planted(made: MadeSteer, measure: dict) -> float:
    name = measure["name"]
    if name.startswith("score@"):
        return made.slope * float(1 / (1 + np.exp(-(measure["layer"] - made.steered[0] + 3))))
    if name.startswith(("rate:", "judge:")):
        return made.behaviours[name.split(":", 1)[1]]
    return {"score": made.slope, "length": 14.0}.get(name, 0.0)


def _noise(made: MadeSteer, measure: dict, rng: np.random.Generator) -> float:
    scale = {
        "effect": made.random_slope,
        "layers": made.random_slope,
        "behaviour": 0.05,
        "damage": 0.01,
    }
    return float(rng.normal(0, scale[measure["group"]]))


def _curve(name: str, coeff: float, slope: float) -> float:
    """Return what a measure is at a dose: linear in it, damage in its square."""
    damage = coeff**2
    start = {"score": 0.4, "length": 62.0, "finished": 0.93, "perplexity": 6.5, "kl": 0.0,
             "distinct_1": 0.78, "distinct_2": 0.94}  # fmt: skip
    if name in ("perplexity",):
        return 6.5 * float(np.exp(2.2 * damage + slope * coeff))
    value = start.get(name, 0.3 if ":" in name else 0.2) + slope * coeff
    value += {"kl": 2.4, "distinct_1": -0.5, "distinct_2": -0.8, "finished": -0.9}.get(
        name, 0
    ) * damage
    share = name.startswith(("rate:", "judge:", "distinct", "finished"))
    return float(np.clip(value, 0, 1)) if share else value


def _half(name: str) -> float:
    wide = {"perplexity": 0.6, "kl": 0.02, "length": 5.0, "distinct_1": 0.02, "distinct_2": 0.02}
    return 0.07 if name.startswith(("rate:", "judge:", "finished")) else wide.get(name, 0.18)


def _condition(direction, mode, coeff, made, measures, moved, rng) -> dict:
    values = {}
    for measure in measures:
        name = measure["name"]
        slope = moved.get((direction, name), 0.0)
        at = -0.15 if coeff is None else coeff
        value = _curve(name, at, slope)
        if coeff:
            value += float(rng.normal(0, 0.1 * _half(name)))
        if name in ("perplexity", "kl") or direction != "none":
            value = max(value, 0.0) if measure["group"] == "damage" else value
        share = measure["unit"].startswith("share")
        metric = _metric(min(max(value, 0.0), 1.0) if share else value, _half(name))
        if share:
            metric["low"], metric["high"] = max(0.0, metric["low"]), min(1.0, metric["high"])
        values[name] = metric
        if name.startswith("judge:") and direction.startswith("random"):
            values[name] = _metric(None)  # random directions are not judged
    if made.nulls and coeff in (0.2, -0.4):
        values["kl"], values["score"] = _metric(None), None
    return dict(
        direction=direction, mode=mode, coeff=coeff, n=made.prompts * made.samples, values=values
    )


def _difference(item: dict, base: dict) -> dict:
    value, start = item["values"]["score"], base["values"]["score"]
    if value is None:
        return _metric(None)
    return _metric(value["value"] - start["value"], 0.15 if item is not base else 0.0)


def _p(value: float, random: list[float]) -> float | None:
    if not random:
        return None
    return (1 + sum(abs(r) >= abs(value) for r in random)) / (1 + len(random))


def _dose(made: MadeSteer, name: str, moved: dict, controls: list[str]) -> dict:
    slope, random = moved["probe", name], [moved[control, name] for control in controls]
    if name.startswith("judge:"):
        return dict(slope=_metric(slope, made.width / 4), random=[None] * len(random), p=None,
                    coeffs=list(made.usable))  # fmt: skip
    half = made.width * (0.25 if ":" in name else 1.0)
    if made.nulls and name == "kl":
        return dict(slope=_metric(None), random=[None] * len(random), p=None, coeffs=[])
    return dict(
        slope=_metric(slope, half), random=random, p=_p(slope, random), coeffs=list(made.usable)
    )


def _minus(value: float | None, base: float) -> float | None:
    return None if value is None else value - base


def _ablation(made: MadeSteer, conditions: list[dict], measures: list[dict]) -> dict | None:
    if not (made.ablation or made.mode == "ablate"):
        return None
    base = conditions[0]["values"]
    ablated = {c["direction"]: c["values"] for c in conditions if c["mode"] == "ablate"}
    found = {}
    for measure in measures:
        name = measure["name"]
        change = {
            d: _minus(values[name]["value"], base[name]["value"]) for d, values in ablated.items()
        }
        random = [value for d, value in change.items() if d != "probe" and value is not None]
        found[name] = dict(difference=_metric(change["probe"], _half(name)), random=random,
                           p=_p(change["probe"], random))  # fmt: skip
    return found


def _rerank(made: MadeSteer, rng: np.random.Generator) -> dict:
    rows = []
    for layer in range(max(made.layers, 2)):
        metric = 0.55 + 0.38 / (1 + np.exp(-(layer - 9) / 2)) + rng.normal(0, 0.008)
        effect = 0.6 * np.exp(-(((layer - 13) / 5) ** 2)) + rng.normal(0, 0.03)
        damage = 0.05 + 0.1 * np.exp(-layer / 8)
        rows.append(dict(
            layer=layer, metric=_metric(metric, 0.03), effect=_metric(effect, 0.08),
            damage=_metric(damage, 0.01), ratio=_metric(effect / damage, 0.9),
            steered=layer in made.steered,
        ))  # fmt: skip
    for rank, row in enumerate(sorted(rows, key=lambda row: -row["ratio"]["value"]), start=1):
        row["rank"] = rank
    if made.nulls:
        rows[1]["ratio"] = _metric(None)
    return dict(coeff=0.2, metric="pair_accuracy", measure="score", n_prompts=12, rows=rows,
                spearman=_metric(0.41, 0.2))  # fmt: skip


def _header(made: MadeSteer, completions: int) -> dict:
    return {
        "format": "probekit.steer", "format_version": 1, "complete": True,
        "probe": dict(path=made.text or "out/sweep/probe.json", kind="bradley-terry", head="linear",
                      site="resid_post", layer=made.steered[0], position="mean", data_kind="pair",
                      classes=None, score_range=None,
                      metric=dict(name="pair_accuracy", **_metric(0.91, 0.04))),
        "vector": dict(source="probe", layers=list(made.steered),
                       norms={str(layer): 61.2 + layer for layer in made.steered}),
        "mode": made.mode, "where": "both",
        "coeffs": [0.0] if made.mode == "ablate" else list(made.coeffs),
        "n": dict(prompts=made.prompts, samples=made.samples, random_controls=made.random,
                  completions=completions),
        "seed": 7, "max_new_tokens": 96, "temperature": 0.8, "top_p": 0.95, "damage_bound": 1.5,
        "usable": None if made.mode == "ablate" else dict(
            low=min(made.usable), high=max(made.usable), coeffs=list(made.usable), bound=1.5,
            reasons={f"{c:g}": "perplexity is 2.21 times the unsteered"
                     for c in made.coeffs if c not in made.usable},
        ),
        "provenance": dict(
            command="steer", model=made.text or "models/smollm2-135m", seed=7,
            versions={"python": "3.11.2", "probekit": "0.1.0", "torch": "2.12.0"},
            created="2026-03-01T10:00:00+00:00", git_commit="0123456789abcdef0123456789abcdef01234567",
            argv=["steer", "--probe", "out/sweep/probe.json", "--coeff", "-0.6:0.6:0.2"],
        ),
    }  # fmt: skip


def _completions(made: MadeSteer, conditions: list[dict], rng: np.random.Generator) -> list[dict]:
    rows = []
    for condition in conditions:
        score = (condition["values"]["score"] or {}).get("value")
        for prompt in range(made.prompts):
            for sample in range(made.samples):
                size = int(rng.integers(8, 70))
                words = [WORDS[int(i)] for i in rng.integers(0, len(WORDS), size)]
                if condition["coeff"] and condition["coeff"] > 0.3:
                    words = ["I am not sure, but", *words]
                text = made.text or " ".join(words).capitalize() + "."
                empty = prompt == 3 and condition["coeff"] == 0.6
                at = None if score is None else score + (prompt - made.prompts / 2) * 0.02
                rows.append(dict(
                    direction=condition["direction"], mode=condition["mode"],
                    coeff=condition["coeff"], prompt_id=made.text[:9] + f"q{prompt}",
                    sample=sample, tags={"topic": "physics"},
                    prompt=made.text or f"What did the physicist number {prompt} publish on quantum gravity?",
                    text="" if empty else text, n_tokens=0 if empty else size,
                    finished=bool(rng.random() < 0.9), score=at, scores={}, nll=1.9, kl=0.1,
                    distinct_1=0.8, distinct_2=0.9,
                    category=(made.text or "hedges") if rng.random() < 0.4 else None, judge=None,
                ))  # fmt: skip
    return rows
