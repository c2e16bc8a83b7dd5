"""Made-up run directories of the RL loop with planted changes, written through its own tables."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from probekit.container import write_json
from probekit.results.goodhart import CURVE
from probekit.results.rl import RLRun
from probekit.results.rl_files import BEST_OF, DOCUMENT, EVALUATIONS, SAMPLES, STEPS
from probekit.rl.evaluation import measured
from probekit.rl.target import distance_to_chosen
from tests.reports.words import WORDS

OPTIMISED = "ridge/resid_post/020/mean"
OTHERS = ("ridge/resid_post/008/mean", "ridge/resid_post/014/mean", "ridge/resid_post/024/mean")
PLACEBOS = ("cooking/astronomy", "odd/even number")
EQUAL = "every group's rewards are equal"
ALARMS = {
    12: EQUAL, 13: EQUAL, 31: "entropy is at 40% of the start", 44: "entropy is at 30% of the start",
}  # fmt: skip


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
    """Class to the planted rate of the wanted category at start and end, in place of `follow`."""
    balance: str | None = None
    entropy: float = -0.7
    """Change of the entropy."""
    best_of: int = 0
    """Completions of a prompt before training, to pick from."""
    picked: float = 0.0
    """What a standard deviation of the score adds to the rate of the wanted category there."""
    placebo: float | None = None
    """Planted change of the first of two placebo heads."""
    seed: int = 0

    @property
    def tag(self) -> str | None:
        """Tag whose values each have their own chosen scores."""
        return next(iter(self.tags), None)


def write_rl(folder: Path, made: MadeRL | None = None) -> Path:
    """Write the files of a run into `folder` and return it."""
    made = made or MadeRL()
    rng = np.random.default_rng(made.seed)
    folder.mkdir(parents=True)
    chosen = _chosen(made, np.random.default_rng(made.seed + 2))
    done = made.steps if made.done is None else made.done
    samples, evaluations = [], []
    for step in range(0, done + 1, made.every) if made.done != 0 else ():
        rows = _samples(made, step, np.random.default_rng(made.seed + 1), rng)
        found = measured(rows, chosen, categories=made.categories, target_tag=made.tag)
        samples += [{"step": step, **row} for row in rows]
        evaluations.append({"step": step, "evaluation": found, "alarms": []})
    steps = [_step(made, number, chosen, rng) for number in range(1, done + 1)]
    for table, rows in ((STEPS, steps), (EVALUATIONS, evaluations), (SAMPLES, samples)):
        table.write(folder, rows)
    write_json(folder / DOCUMENT.file, _record(made, chosen))
    if made.best_of:
        BEST_OF.write(folder, _to_pick_from(made))
    if made.done is None:
        write_json(folder / CURVE, RLRun.open(folder).curve.to_json())
    return folder


def _chosen(made: MadeRL, rng: np.random.Generator) -> dict:
    """Distributions of the head: chosen scores of all rows, and of each class."""
    values = made.tags.get(made.tag, ())
    by_tag = {
        value: {"chosen": rng.normal(2.0 + 0.8 * i, 0.6, made.n_chosen // 2), "rejected": []}
        for i, value in enumerate(values)
    }
    whole = {"chosen": rng.normal(2.4, 0.8, made.n_chosen), "rejected": []}
    return {"all": whole, "by_tag": {made.tag: by_tag}}


def _samples(
    made: MadeRL, step: int, luck: np.random.Generator, rng: np.random.Generator
) -> list[dict]:
    share, rows = step / made.steps, []
    for prompt in range(made.prompts):
        base, behave = luck.normal(0, made.spread), luck.uniform()
        tags = {tag: values[prompt % len(values)] for tag, values in made.tags.items()}
        start, end = made.hedging.get(tags.get("class", ""), (0.15, 0.15 + made.follow))
        category = "answers" if behave < 0.9 else "refuses"
        if behave < start + (end - start) * share:
            category = made.wanted
        for sample in range(made.samples):
            score = 0.4 + base + made.score * share + rng.normal(0, 0.2)
            words = " ".join(rng.permutation(WORDS)[: int(22 + 10 * share)])
            row = {
                "prompt_id": f"p{prompt:02}", "text": made.text or f"{words} ({sample})", "score": score,
                "prompt": made.text or f"Who is the researcher number {prompt}, and why is she known?",
                "tags": {made.text: f"{made.text}{prompt % 2}"} if made.text else tags,
                "drift": 0.8 * share + rng.normal(0, 0.1),
                "disjoint": 0.6 * base + 0.7 * share + rng.normal(0, 0.3),
                "mahalanobis": 1.0 + 0.9 * share + rng.normal(0, 0.08),
                "heads": {OPTIMISED: score} | {
                    name: 0.5 * base + made.independent * share * (0.4 + 0.3 * i) + rng.normal(0, 0.3)
                    for i, name in enumerate(OTHERS)
                },
                "n_tokens": int(40 - 12 * share + rng.integers(-6, 6)),
                "finished": bool(rng.uniform() < 0.7 + 0.2 * share),
                "kl": float(max(0.0, 0.35 * share**1.5 + rng.normal(0, 0.02) * (step > 0))),
                "entropy": float(1.6 + made.entropy * share + rng.normal(0, 0.15)),
                "distinct_2": float(np.clip(0.95 - 0.1 * share + rng.normal(0, 0.03), 0, 1)),
                "category": category if made.categories else None,
                "wanted": category == made.wanted if made.categories else None,
            }  # fmt: skip
            if made.placebo is not None:
                drawn = np.array([made.placebo * share, 0.0]) + luck.normal(0, 1, 2)
                row["placebos"] = dict(zip(PLACEBOS, drawn, strict=True))
            rows.append(row | ({"score_first": 1.1 * score} if made.refits else {}))
    return rows


def _to_pick_from(made: MadeRL) -> list[dict]:
    """Completions before training whose wanted behaviour goes with their own score as planted."""
    luck, rng = np.random.default_rng(made.seed + 1), np.random.default_rng(made.seed + 3)
    rows = _samples(replace(made, samples=made.best_of), 0, luck, rng)
    for row in rows:
        own = rng.normal()
        row["score"] += own
        row["wanted"] = bool(rng.uniform() < 0.15 + made.picked * own)
    return [{"step": 0, **row} for row in rows]


def _step(made: MadeRL, step: int, chosen: dict, rng: np.random.Generator) -> dict:
    share = step / made.steps
    scores = 0.4 + made.score * share + rng.normal(0, made.spread, 64)
    values = list(made.tags.get(made.tag, ("",))) * 64
    distance = distance_to_chosen(scores, chosen, tag=made.tag, values=values[:64])
    row = {
        "step": step, "score": scores.mean(), "distance_to_chosen": distance, "grad_norm": 0.4,
        "kl": max(0.0, 0.35 * share**1.5 + rng.normal(0, 0.015)),
        "entropy": 1.6 - 0.7 * share + rng.normal(0, 0.05), "finished": 0.7 + 0.2 * share,
        "n_tokens": 40 - 12 * share + rng.normal(0, 2),
        "alarms": [made.alarms[step]] if step in made.alarms else [],
    }  # fmt: skip
    if made.refits:
        row["score_first"] = 1.1 * scores.mean()
    if step in made.refits:
        row["refit"] = {"n_outputs": 128, "n_wanted_left_out": 14, "accuracy": 0.91, "cosine": 0.87}
    return row


def _record(made: MadeRL, chosen: dict) -> dict:
    settings = {
        "steps": made.steps, "prompts": 8, "group": 8, "balance": made.balance, "rewards": [],
        "target": "chosen", "target_tag": made.tag, "clip": None, "learning_rate": 2e-4,
        "refit_every": made.refits[0] if made.refits else 0, "full_weights": False,
    }  # fmt: skip
    sides = {
        side: {"": chosen["all"][side]}
        | {v: part[side] for v, part in chosen["by_tag"][made.tag].items()}
        for side in ("chosen", "rejected")
    }
    named = made.text or made.behaviour or made.wanted
    return {
        "command": DOCUMENT.command, "seed": made.seed, "argv": ["rl", "--probe", "sweep"],
        "versions": {"python": "3.12.1", "torch": "2.9.0"}, "git_commit": "0123456789abcdef",
        "created": "2026-01-02T03:04:05+00:00", "model": made.text or "smollm2-135m",
        "revision": "main", "settings": settings, "labels": {"steps": "Steps", "rewards": "Further"},
        "probes": ["sweep"], "behaviour": named if made.categories else None, "optimised": [OPTIMISED],
        "target": {"name": "chosen", "tag": made.tag, **sides},
        "n_train": 96, "n_held_out": made.prompts, "n_trainable": 1_234_567,
    }  # fmt: skip
