"""Made-up steering runs with planted effects: completions without a model, figures by the writer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from probekit.activations.table import Cell
from probekit.container import jsonable, write_json
from probekit.probes import Probe
from probekit.results.steer import COMPLETIONS, DOCUMENT, LAYER, Condition
from probekit.steering import SteerConfig
from probekit.steering.grid import conditions, random_names
from probekit.steering.rerank import rerank_conditions
from probekit.steering.summary import SteerSummary
from tests.reports.words import WORDS, ends


@dataclass
class MadeSteer:
    """What to make; the defaults are a run that worked."""

    slope: float = 3.0
    """Planted slope of the score."""
    random_slope: float = 0.4
    """Spread of the random directions' slopes."""
    mode: str = "add"
    coeffs: str = "-0.6:0.6:0.2"
    damage: float = 2.4
    """Divergence at coefficient 1, in nats per token; it grows with the square."""
    random: int = 5
    shuffled: int = 2
    placebos: tuple[str, ...] = ("placebo-cooking-astronomy", "placebo-odd-even-number")
    layers: int = 6
    """Layers whose probes read the score."""
    steered: tuple[int, ...] = (4,)
    behaviours: dict[str, float] = field(
        default_factory=lambda: {"hedges": 0.5, "refuses": 0.02, "invents": -0.35}
    )
    """Behaviour to its planted slope."""
    prompts: int = 24
    samples: int = 2
    rerank: bool = True
    judge: bool = True
    reference: bool = True
    nulls: bool = False
    """Whether two strengths have no score."""
    classes: tuple[str, str] | None = None
    text: str = ""
    """Every text and name that a user may choose, instead of plain ones."""
    seed: int = 0


BARE = dict(
    placebos=(), shuffled=0, behaviours={}, rerank=False, judge=False, reference=False, layers=1, steered=(0,)
)  # fmt: skip
SMALL = dict(
    prompts=16, samples=1, layers=3, steered=(1,), random=2, shuffled=1, coeffs="-0.6,-0.3,0.3,0.6"
)


def make_steer(made: MadeSteer) -> tuple[dict, list[dict]]:
    """Return what steer.json and completions.jsonl hold."""
    config = SteerConfig(
        coeffs=made.coeffs, mode=made.mode, samples=made.samples, max_new_tokens=96, temperature=0.8,
        top_p=0.95, random_controls=made.random, seed=7,
    )  # fmt: skip
    names = [f"{made.text}{name}" for name in made.behaviours]
    controls = [
        *random_names(made.random), *(f"shuffled-{i + 1:02d}" for i in range(made.shuffled)),
        *made.placebos,
    ]  # fmt: skip
    todo = conditions(made.mode, config.grid(), controls)
    rows = {condition: _rows(made, condition, names) for condition in todo}
    probes = [_probe(made, layer) for layer in range(made.layers)]
    summary = SteerSummary(
        rows, probes[made.steered[0]], probes, config,
        behaviours=SimpleNamespace(names=names) if names else None, judged=made.judge,
    )  # fmt: skip
    at = rerank_conditions(range(made.layers), 0.2) if made.rerank else []
    value = summary.to_json(
        {c: _rows(made, c, names)[:: 2 * made.samples] for c in at}, steered=made.steered
    )
    value["probe"]["path"] = made.text or "out/sweep/probe.json"
    value["controls"] = [
        dict(direction=name, what=made.text or "cooking/astronomy", cosine=0.02, held_out=0.9)
        for name in made.placebos
    ]
    value["vector"] = dict(
        source=made.text or "probe", site="resid_post", layers=list(made.steered),
        norms={layer: 61.2 + layer for layer in made.steered},
    )  # fmt: skip
    value["judge"] = made.judge and dict(
        url="http://localhost:8000/v1", model="judge-7b", asked=100, answered=93, failed=7,
        problem=None, agreement=0.87,
    ) or None  # fmt: skip
    value["provenance"] = dict(
        command="steer", model=made.text or "models/smollm2-135m", revision=None, seed=7,
        versions={"python": "3.11.2", "probekit": "0.1.0"}, created="2026-03-01T10:00:00+00:00",
        git_commit="0123456789abcdef", argv=["steer", "--coeff", made.coeffs],
    )  # fmt: skip
    return value, [row for found in rows.values() for row in found]


def write_steer(folder: Path, made: MadeSteer) -> Path:
    """Write the files of a run into `folder` and return it."""
    value, rows = make_steer(made)
    folder.mkdir(parents=True)
    write_json(folder / DOCUMENT.file, value)
    COMPLETIONS.write(folder, rows)
    return folder


def _probe(made: MadeSteer, layer: int) -> Probe:
    at = 0.55 + 0.38 / (1 + math.exp(-(layer - made.layers / 3)))
    rng, primary = np.random.default_rng(layer), "auroc" if made.classes else "pair_accuracy"
    scores = {"chosen": rng.normal(1.9, 0.8, 50), "rejected": rng.normal(-0.6, 0.9, 50)}
    return Probe(
        kind="logistic" if made.classes else "bradley-terry", head=None if made.classes else "linear",
        cell=Cell("resid_post", layer, "mean"), coef=np.ones(3), bias=0.0, l2=None,
        data_kind="label" if made.classes else "pair", classes=made.classes,
        metrics={primary: ends(at, 0.03)}, distributions={"all": scores} if made.reference else {},
    )  # fmt: skip


def _rows(made: MadeSteer, condition: Condition, behaviours: list[str]) -> list[dict]:
    """Return completions; what prompts and samples have of their own is the same everywhere."""
    own, coeff = not condition.control, -0.15 if condition.coeff is None else condition.coeff
    hurt = min(coeff**2, 1.5)
    luck, rng = (np.random.default_rng([made.seed, *n.encode()]) for n in ("", condition.name))
    slope = made.slope if own else np.random.default_rng([*condition.direction.encode()]).normal(
        0, made.random_slope * (1 if condition.control == "random" else 2)
    )  # fmt: skip
    rates = np.array(list(made.behaviours.values()))
    reach = 1 / (1 + np.exp(made.steered[0] - 2 - np.arange(made.layers)))
    if condition.direction.startswith(LAYER):
        at = int(condition.direction[len(LAYER) :])
        slope, hurt = slope * math.exp(-(((at - made.layers / 2) / 2) ** 2)), hurt * (1 + at / 8)
    rows = []
    for prompt, sample in product(range(made.prompts), range(made.samples)):
        level, draw, cut = luck.normal(0.4, 0.3), luck.random(), luck.random()
        size = max(3, int(luck.integers(8, 40) + 14 * coeff * own))
        words = [WORDS[int(i)] for i in rng.integers(0, len(WORDS), size)]
        start = ["I", "am", "not", "sure,"] if own and coeff > 0.3 else []
        text = made.text or " ".join([*start, *words]).capitalize() + "."
        scores = level + slope * coeff * reach + rng.normal(0, 0.2, made.layers)
        upto = np.cumsum(np.clip(0.2 + own * rates * coeff + rng.normal(0, 0.02), 0, 1))
        category = next(
            (name for name, end in zip(behaviours, upto, strict=True) if draw < end), None
        )
        empty = prompt == 3 and condition.coeff == 0.6
        if empty or (made.nulls and condition.coeff in (0.2, -0.4)):
            scores = np.full(made.layers, np.nan)
        rows.append(dict(
            **condition._asdict(), prompt_id=f"{made.text[:9]}q{prompt}", sample=sample,
            prompt=made.text or f"What did physicist number {prompt} publish on quantum gravity?",
            tags={"topic": "physics"}, text="" if empty else text, n_tokens=0 if empty else size,
            finished=bool(cut > 0.1 + 0.9 * hurt), score=scores[made.steered[0]],
            scores={str(layer): score for layer, score in enumerate(scores)},
            nll=1.9 + made.damage * hurt + rng.normal(0, 0.05), kl=made.damage * hurt * rng.uniform(0.8, 1.2),
            distinct_1=0.8 - 0.4 * hurt + rng.normal(0, 0.02),
            distinct_2=0.94 - 0.5 * hurt + rng.normal(0, 0.02),
            category=category, judge=category if made.judge and own else None,
        ))  # fmt: skip
    return jsonable(rows)
