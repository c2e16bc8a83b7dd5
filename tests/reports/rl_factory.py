"""Made-up run directories of the RL loop, with planted changes, written without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from probekit.results.intervals import Resampler
from probekit.results.rl import RLRun
from tests.reports.words import WORDS

OPTIMISED = "ridge/resid_post/020/mean"
OTHERS = ("ridge/resid_post/008/mean", "ridge/resid_post/014/mean", "ridge/resid_post/024/mean")
NEW = ("wanted", "drift", "mahalanobis", "disjoint")


@dataclass
class MadeRL:
    """What to make; the defaults are a run whose behaviour followed."""

    steps: int = 50
    every: int = 10
    prompts: int = 32
    samples: int = 1
    score: float = 2.0
    """Change of the score over the whole run."""
    follow: float = 0.6
    """Change of the rate of the wanted behaviour."""
    independent: float = 0.9
    """Change of the other heads."""
    tags: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"class": ("real", "invented")}
    )
    categories: tuple[str, ...] = ("answers", "hedges", "refuses")
    wanted: str = "hedges"
    behaviour: str = ""
    """Its words, where it is not the name of a category."""
    refits: tuple[int, ...] = ()
    alarms: dict[int, str] = field(default_factory=dict)
    done: int | None = None
    """Training steps before the run was killed."""
    n_chosen: int = 120
    text: str = ""
    """Every text and name that a user may choose, instead of plain ones."""
    spread: float = 0.8
    hedging: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Class to the planted rate of the wanted category at the start and at the end, in place of `follow`."""
    balance: str | None = None
    entropy: float = -0.7
    """Change of the entropy."""
    seed: int = 0


def write_rl(folder: Path, made: MadeRL | None = None) -> Path:
    """Write the files of a run into `folder` and return it."""
    made = made or MadeRL()
    rng = np.random.default_rng(made.seed)
    folder.mkdir(parents=True)
    done = made.steps if made.done is None else made.done
    rows = [
        row
        for step in range(0, done + 1, made.every)
        for row in _samples(made, step, np.random.default_rng(made.seed + 1), rng)
    ]
    if made.done == 0:
        rows = []
    _lines(folder / "samples.jsonl", rows)
    at = sorted({row["step"] for row in rows})
    _lines(folder / "evaluations.jsonl", [
        dict(step=step, evaluation=_evaluation(made, [r for r in rows if r["step"] == step]),
             alarms=[])
        for step in at
    ])  # fmt: skip
    _lines(folder / "metrics.jsonl", [_step(made, n, rng) for n in range(1, done + 1)])
    (folder / "run.json").write_text(json.dumps(_record(made, rng)), encoding="utf-8")
    if made.done is None:
        curve = RLRun.open(folder).curve
        (folder / "goodhart.json").write_text(json.dumps(curve.to_json()), encoding="utf-8")
    return folder


def _samples(
    made: MadeRL, step: int, luck: np.random.Generator, rng: np.random.Generator
) -> list[dict]:
    share = step / made.steps
    rows = []
    for prompt in range(made.prompts):
        base, behave = luck.normal(0, made.spread), luck.uniform()
        for sample in range(made.samples):
            tags = {tag: values[prompt % len(values)] for tag, values in made.tags.items()}
            score = 0.4 + base + made.score * share + rng.normal(0, 0.2)
            rate = 0.15 + made.follow * share
            if made.hedging:
                start, end = made.hedging[tags["class"]]
                rate = start + (end - start) * share
            category = made.wanted if behave < rate else ("answers" if behave < 0.9 else "refuses")
            heads = {OPTIMISED: score} | {
                name: 0.5 * base + made.independent * share * (0.4 + 0.3 * i) + rng.normal(0, 0.3)
                for i, name in enumerate(OTHERS)
            }
            row = dict(
                step=step, prompt_id=f"p{prompt:02}",
                prompt=made.text or f"Who is the researcher number {prompt}, and what is she known for?",
                tags={made.text: f"{made.text}{prompt % 2}"} if made.text else tags,
                text=made.text or " ".join(rng.permutation(WORDS)[: int(22 + 10 * share)])
                + f" ({sample})",
                score=score, heads=heads, n_tokens=int(40 - 12 * share + rng.integers(-6, 6)),
                finished=bool(rng.uniform() < 0.7 + 0.2 * share),
                kl=float(max(0.0, 0.35 * share**1.5 + rng.normal(0, 0.02) * (step > 0))),
                entropy=float(1.6 + made.entropy * share + rng.normal(0, 0.15)),
                distinct_2=float(np.clip(0.95 - 0.1 * share + rng.normal(0, 0.03), 0, 1)),
                category=category,
            )  # fmt: skip
            if not made.categories:
                row["category"] = category = None
            wanted = category == made.wanted if made.categories else None
            row |= dict(wanted=wanted, drift=0.8 * share + rng.normal(0, 0.1),
                        mahalanobis=1.0 + 0.9 * share + rng.normal(0, 0.08),
                        disjoint=0.6 * base + 0.7 * share + rng.normal(0, 0.3))  # fmt: skip
            if made.refits:
                row["score_first"] = 1.1 * score
            rows.append(row)
    return rows


def _evaluation(made: MadeRL, rows: list[dict]) -> dict:
    found = {"all": _metrics(made, rows)}
    for tag in sorted({tag for row in rows for tag in row["tags"]}):
        for value in sorted({row["tags"][tag] for row in rows}):
            own = [row for row in rows if row["tags"][tag] == value]
            found[f"{tag}={value}"] = _metrics(made, own)
    return found


def _metrics(made: MadeRL, rows: list[dict]) -> dict:
    draws = Resampler(np.array([row["prompt_id"] for row in rows]))

    def mean(values: list) -> dict:
        return draws.mean(np.array(values, dtype=float)).to_json()

    names = ["score", "kl", "entropy", "n_tokens", "finished", "distinct_2"]
    names += NEW if made.categories else NEW[1:]
    found = {name: mean([row[name] for row in rows]) for name in names}
    for head in rows[0]["heads"]:
        found[f"head:{head}"] = mean([row["heads"][head] for row in rows])
    for name in made.categories:
        found[f"rate:{name}"] = mean([row["category"] == name for row in rows])
    if made.refits:
        found["score_first"] = mean([row["score"] * 1.1 for row in rows])
    distance = abs(2.4 - float(np.mean([row["score"] for row in rows])))
    found["distance_to_chosen"] = dict(value=distance, low=None, high=None)
    return found


def _step(made: MadeRL, step: int, rng: np.random.Generator) -> dict:
    share = step / made.steps
    score = 0.4 + made.score * share + rng.normal(0, 0.25)
    row = dict(
        step=step, score=score, score_sd=0.8, distance_to_chosen=abs(2.4 - score), reward=score,
        flat_groups=0.1, loss=0.01, kl=max(0.0, 0.35 * share**1.5 + rng.normal(0, 0.015)),
        entropy=1.6 - 0.7 * share + rng.normal(0, 0.05), clipped=0.0, grad_norm=0.4,
        sampler_gap=0.01, n_tokens=40 - 12 * share + rng.normal(0, 2), finished=0.7 + 0.2 * share,
        seconds=1.0, alarms=[made.alarms[step]] if step in made.alarms else [],
    )  # fmt: skip
    if made.refits:
        row["score_first"] = score * 1.1
        if step in made.refits:
            row["refit"] = dict(n_outputs=128, n_wanted_left_out=14, accuracy=0.91, cosine=0.87)
    return row


def _record(made: MadeRL, rng: np.random.Generator) -> dict:
    record = dict(
        command="rl", arguments=dict(behaviour=made.wanted), seed=made.seed,
        argv=["rl", "--probe", "sweep"], versions=dict(python="3.12.1", torch="2.9.0"),
        git_commit="0123456789abcdef", created="2026-01-02T03:04:05+00:00",
        model=made.text or "smollm2-135m", revision="main",
        settings=dict(
            steps=made.steps, prompts=8, group=8, max_new_tokens=48, temperature=1.0, top_p=1.0,
            target="chosen", target_tag=next(iter(made.tags), None), ensemble_penalty=0.0,
            estimator="grpo", epochs=1, clip=0.2, kl_coeff=0.02, entropy_bonus=0.0,
            learning_rate=2e-4, warmup=5, rank=16, alpha=32, eval_every=made.every,
            **(dict(balance=made.balance) if made.balance else {}),
            **(dict(refit_every=made.refits[0]) if made.refits else {}),
        ),
        probes=["sweep"], n_train=96, n_held_out=made.prompts, n_trainable=1_234_567,
    )  # fmt: skip
    tag = next(iter(made.tags), None)
    values = {"": rng.normal(2.4, 0.8, made.n_chosen).tolist()}
    for i, value in enumerate(made.tags.get(tag, ()) if tag else ()):
        values[value] = rng.normal(2.0 + 0.8 * i, 0.6, made.n_chosen // 2).tolist()
    record |= dict(
        target=dict(name="chosen", tag=tag, chosen=values, rejected={"": []}),
        optimised=[OPTIMISED],
        behaviour=(made.text or made.behaviour or made.wanted) if made.categories else None,
    )  # fmt: skip
    return record


def _lines(path: Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
