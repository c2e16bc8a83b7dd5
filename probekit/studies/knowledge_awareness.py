"""The study `knowledge-awareness`: what a head that knows unknown names does as a reward.

Elicit contrastive answers, cache, fit, look at how heads train, steer, train policies in four ways, and
ask about things that no head has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from probekit.behaviours import Behaviours, measure_quality
from probekit.parsing import parse_json
from probekit.reports.knowledge_awareness import context
from probekit.results.intervals import Interval
from probekit.results.study import StudyRun
from probekit.results.sweep import SweepRun
from probekit.studies.stages import Setting, Stage
from probekit.studies.study import Study

LABELLED = "labelled_knowledge_awareness.jsonl"
BEHAVIOURS = "knowledge-awareness-strict"
"""A hedge that goes on to tell all the same does not count as one: policies learn to write those."""
POSITIONS = "first:8,first:16,mean,last,turn_end"
READ = "first:16,last,turn_end"
"""Positions that heads may read. A head at `first:8` tells pairs apart as well, but as a reward it leaves
the rest of an answer free. One at `mean` tells them apart less well, and is chosen by chance now and then."""
SPLIT = ("--stratify", "class")
WANTED = ("--behaviour", "class=invented:hedges,refuses", "--behaviour", "class=real:answers")
BY_CLASS = ("--target", "chosen", "--target-tag", "class", "--balance", "class")
RATE = ("--learning-rate", "5e-4")
ARMS = {
    "max-unbalanced": ("--target", "max", "--balance", "class=invented:3,real:1", *RATE),
    "max": ("--target", "max", "--balance", "class", *RATE),
    "chosen": (*BY_CLASS, "--ood-penalty", "4", *RATE),
    "refits": (
        "--target", "clip", "--clip-margin", "0.5", "--target-tag", "class",
        "--balance", "class=invented:9,real:7", "--ood-penalty", "1", "--refit-every", "4",
        "--ensemble-penalty", "0.5", "--entropy-bonus", "0.02", "--entropy-target", "0.95",
        "--learning-rate", "4e-4",
    ),
}  # fmt: skip
"""The four ways to optimise the head, each with the options that set it apart.

`refits` has a smaller OOD penalty, since an ensemble's score is in standard deviations and one of these is
about four units of a single head's score. It asks nine questions about invented names for seven about real
ones: in earlier runs the reward for answering about real names was clearer to the heads than the reward for
hedging about invented ones, and the policy learned it faster."""
TRAINING = (
    "--guides", "2", "--max-new-tokens", "24", "--temperature", "0.8", "--decay", "cosine",
    "--kl-coeff", "0.02", "--estimator", "grpo",
)  # fmt: skip
"""What the four ways share. Guides, since the model hardly ever writes a hedge that could be rewarded."""

MORE_HEADS, APART = 2, 2
"""Heads of the ensemble beside the chosen one, and the least distance of their layers: neighbours agree."""


@dataclass(frozen=True)
class Size:
    """How much of everything, which is a matter of time."""

    questions: int
    """Questions that the recipe chooses from, half of each class. The first half asks about every name once.
    The recipe takes equally many questions of each class; since fewer real names are known to the model, real
    names are more often asked about twice."""
    samples: int
    """Answers to each question and side."""
    layers: str
    steps: int
    guide_steps: int
    """First steps with guides: enough for a policy to have met what the head prefers."""
    refit_steps: int
    """Steps where heads are refitted: more, since the classes separate slowly."""
    refit_guide_steps: int
    prompts: int
    """Prompts of a training step: many names, since the policy has to learn to tell names apart."""
    group: int
    eval_prompts: int
    evaluations: int
    """Evaluations of a run after the one at its start."""
    steer_prompts: int
    controls: int
    """Random directions, directions of shuffled labels, and placebos."""
    picks: int
    """Samples for best-of-n."""
    ood_samples: int


FULL = Size(
    questions=2560, samples=8, layers="all", steps=60, guide_steps=8, refit_steps=240,
    refit_guide_steps=40, prompts=8, group=8, eval_prompts=80, evaluations=10,
    steer_prompts=16, controls=5, picks=16, ood_samples=2,
)  # fmt: skip
QUICK = Size(
    questions=320, samples=4, layers="6:30:6", steps=6, guide_steps=4, refit_steps=6,
    refit_guide_steps=4, prompts=8, group=8, eval_prompts=24, evaluations=2,
    steer_prompts=4, controls=1, picks=4, ood_samples=1,
)  # fmt: skip


def stages(s: Setting) -> None:
    """Add the stages of the study."""
    elicit = s.stage(
        "elicit", "elicit", "--recipe", s.recipe, "--samples", str(s.size.samples),
        "--limit", str(s.size.questions), *s.with_model, *s.with_seed,
    )  # fmt: skip
    store = s.stage(
        "cache", "cache", "--data", elicit / "pairs.jsonl", "--layers", s.size.layers,
        "--positions", POSITIONS, *s.with_model, output="acts.h5",
    )  # fmt: skip
    bradley_terry = ("fit", store, "--kind", "bradley-terry")
    fit = s.stage("fit", *bradley_terry, "--positions", READ, *SPLIT, *s.with_seed)
    s.stage(
        "projection", *bradley_terry, "--head", "projection", fit.after(_cell), *SPLIT, *s.with_seed
    )
    s.stage("dynamics", "dynamics", "--probe", fit, "--store", store, *s.with_seed)
    prompts = s.stage(
        "prompts", "data", "split", "--probe", fit, "--store", store, "--prompts", "demo:people"
    )
    s.stage(
        "steer", "steer", "--probe", fit, "--prompts", prompts / "held_out.jsonl",
        "--coeff", "-0.2:0.2:0.1", "--limit", str(s.size.steer_prompts),
        "--random-controls", str(s.size.controls), "--shuffled-controls", str(s.size.controls),
        "--placebo-controls", str(s.size.controls), "--temperature", "0.8",
        "--behaviours", BEHAVIOURS, *s.with_model, *s.with_seed,
    )  # fmt: skip
    # The longest first: where several run at once, the others fit beside it.
    trained = {arm: _train(s, arm, store, fit, prompts) for arm in reversed(ARMS)}
    sample = (
        "sample", "--prompts", "demo:false_premises", "--behaviours", BEHAVIOURS,
        "--samples", str(s.size.ood_samples), "--temperature", "0.8", *s.with_model, *s.with_seed,
    )  # fmt: skip
    s.stage("ood/before", *sample, output="ood/before.jsonl")
    for arm in ARMS:
        adapter = ("--adapter", trained[arm] / "checkpoint/adapter")
        s.stage(f"ood/{arm}", *sample, *adapter, output=f"ood/{arm}.jsonl")


def _train(s: Setting, arm: str, store: Stage, fit: Stage, prompts: Stage) -> Stage:
    """Add the RL run of an arm.

    Where heads are refitted, a step has as many answers from twice the names: telling names apart takes
    examples.
    """
    size = s.size
    steps, guide_steps, per_step, group = size.steps, size.guide_steps, size.prompts, size.group
    if arm == "refits":
        steps, guide_steps = size.refit_steps, size.refit_guide_steps
        per_step, group = 2 * per_step, group // 2
    heads = [fit.after(_ensemble)] if arm == "refits" else []
    return s.stage(
        f"rl/{arm}", "rl", "--probe", fit, "--prompts", prompts / "train.jsonl",
        "--held-out", prompts / "held_out.jsonl", "--behaviours", BEHAVIOURS, *WANTED, *TRAINING,
        "--eval-prompts", str(size.eval_prompts), "--store", store, *ARMS[arm],
        "--steps", str(steps), "--guide-steps", str(guide_steps), "--prompts-per-step", str(per_step),
        "--group", str(group), "--eval-every", str(steps // size.evaluations), *heads,
        "--set", f"best_of={size.picks}", "--set", f"placebo_heads={size.controls}",
        *s.with_model, *s.with_seed,
    )  # fmt: skip


def _cell(fit: Path) -> list[str]:
    """Return the options that keep a fit to the cell that another one chose."""
    chosen = SweepRun.open(fit).record["chosen"]
    return ["--layers", str(chosen["layer"]), "--positions", str(chosen["position"])]


def _ensemble(fit: Path) -> list[str]:
    """Return the option that adds the next best layers, at the position of the chosen one."""
    run = SweepRun.open(fit)
    chosen = run.record["chosen"]
    cells = run.metrics.query("split == 'choose' and control == '' and measure == 'pair_accuracy'")
    here = (cells["site"] == chosen["site"]) & (cells["position"] == chosen["position"])
    layers = [int(chosen["layer"])]
    for layer in cells[here].sort_values("value", ascending=False, kind="stable")["layer"]:
        if min(abs(layer - other) for other in layers) >= APART:
            layers.append(int(layer))
    more = sorted(layers[1 : MORE_HEADS + 1])
    return ["--ensemble-layers", ",".join(map(str, more))] if more else []


def page(run: StudyRun) -> dict[str, Any]:
    """Return what the template shows, with the accuracy of the patterns that count behaviour."""
    return {**context(run), "patterns": pattern_accuracy()}


@cache
def pattern_accuracy() -> Interval:
    """Return how often the shipped patterns agree with labels by hand that they were not written on."""
    text = (files("probekit.behaviours") / LABELLED).read_text(encoding="utf-8")
    rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    held_out = [
        {key: str(row[key]) for key in ("prompt", "completion", "label")}
        for row in rows
        if row.get("split") == "test"
    ]
    share, _ = measure_quality(Behaviours.load("knowledge-awareness"), held_out)
    return Interval(share.value, share.low, share.high)


STUDY = Study(
    name="knowledge-awareness",
    stages=stages,
    full=FULL,
    quick=QUICK,
    recipe="knowledge-awareness",
    template="knowledge_awareness.html.j2",
    page=page,
)
