"""The study `knowledge-awareness`: what a head that knows unknown names does as a reward.

Elicit contrastive answers, cache, fit, look at how heads train, steer, train four ways, and ask about
things no head has seen. Every stage is an ordinary command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probekit.studies.stages import Stage

NAME = "knowledge-awareness"
BEHAVIOURS = "knowledge-awareness-strict"
"""A hedge that goes on to tell all the same is none: policies find it."""
POSITIONS = "first:8,first:16,mean,last,turn_end"
READ = "first:16,last,turn_end"
"""Positions of heads. One that reads 8 tokens tells pairs apart as well, and as a reward leaves the rest of
an answer free; over all tokens the mean tells them apart less well, and is chosen by chance now and then."""
SPLIT = ("--stratify", "class")
WANTED = ("class=invented:hedges,refuses", "class=real:answers")
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
"""The four ways to optimise the head, each with what sets it apart. An ensemble's score is in standard
deviations, which are some four units of the head's own: hence the smaller penalty. In earlier
runs it told an answer about a real person from a hedge more surely than a hedge about an invented one from
an answer, and pulled so much harder: hence nine questions to seven, in place of equally many."""
TRAINING = (
    "--guides", "2", "--max-new-tokens", "24", "--temperature", "0.8", "--decay", "cosine",
    "--kl-coeff", "0.02",
)  # fmt: skip
"""What they share. Guides, since the model hardly ever writes a hedge that could be rewarded."""

MORE_HEADS, APART = 2, 2
"""Heads beside the chosen one in the ensemble, and least distance of their layers: neighbours agree."""


@dataclass(frozen=True)
class Size:
    """How much of everything, which is a matter of time."""

    questions: int
    """Questions that the recipe chooses from, half of each class: the first half of all is one of every
    name. It takes equally many of each class, so of real names, of which fewer are known, more often both."""
    samples: int
    """Answers of each question and side."""
    layers: str
    steps: int
    guide_steps: int
    """Enough for a policy to have met what the head prefers."""
    refit_steps: int
    """More, where heads are refitted: the classes part slowly."""
    refit_guide_steps: int
    prompts: int
    """Of a training step: many names, since what is to be learnt is to tell names apart."""
    group: int
    eval_prompts: int
    evaluations: int
    """Of a run, beside the one before it."""
    steer_prompts: int
    controls: int
    ood_samples: int


FULL = Size(
    questions=2560, samples=8, layers="all", steps=60, guide_steps=8, refit_steps=240,
    refit_guide_steps=40, prompts=8, group=8, eval_prompts=80, evaluations=10,
    steer_prompts=16, controls=5, ood_samples=2,
)  # fmt: skip
QUICK = Size(
    questions=320, samples=4, layers="6:30:6", steps=6, guide_steps=4, refit_steps=6,
    refit_guide_steps=4, prompts=8, group=8, eval_prompts=24, evaluations=2,
    steer_prompts=4, controls=1, ood_samples=1,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the command lines of a study share."""

    out: Path
    size: Size
    own: tuple[str, ...]
    """Options of every command that runs the model."""
    seeded: tuple[str, ...]

    def stage(self, name: str, command: Callable[[], list[str]], **more: Any) -> Stage:  # noqa: ANN401
        """Return a stage whose output has its name, under the directory of the study."""
        path = self.out / more.pop("output", name)
        return Stage(name, lambda: [*command(), "--out", str(path)], path, **more)


def plan(
    out: Path,
    *,
    model: str,
    seed: int,
    quick: bool,
    samples: int | None = None,
    extra: tuple[str, ...] = (),
) -> list[Stage]:
    """Return the stages in order.

    Parameters
    ----------
    out
        Directory of the study.
    model
        Name, hub id or directory.
    seed
        Of every stage.
    quick
        A small study that shows every stage, not an effect.
    samples
        Answers of each question and side, in place of the size's own.
    extra
        Options of every command that runs the model, such as `--device cuda`.
    """
    size = QUICK if quick else FULL
    if samples:
        size = replace(size, samples=samples)
    setting = Setting(out, size, ("--model", model, *extra), ("--seed", str(seed)))
    return [*_head(setting), *_steering(setting), *_training(setting), *_elsewhere(setting)]


def _head(s: Setting) -> list[Stage]:
    """Data, activations, heads, and the prompts that no head has seen."""
    store, fit = str(s.out / "acts.h5"), str(s.out / "fit")
    return [
        s.stage(
            "elicit",
            lambda: ["elicit", "--recipe", NAME, "--samples", str(s.size.samples),
                     "--limit", str(s.size.questions), *s.own, *s.seeded],
            resumes=True,
        ),
        s.stage(
            "cache",
            lambda: ["cache", "--data", str(s.out / "elicit/pairs.jsonl"), "--layers", s.size.layers,
                     "--positions", POSITIONS, *s.own],
            output="acts.h5", resumes=True, reads=("elicit",),
        ),
        s.stage(
            "fit",
            lambda: ["fit", store, "--kind", "bradley-terry", "--positions", READ, *SPLIT, *s.seeded],
            marker="sweep.json", reads=("cache",),
        ),
        s.stage(
            "projection",
            lambda: ["fit", store, "--kind", "bradley-terry", "--head", "projection", *_cell(s.out),
                     *SPLIT, *s.seeded],
            marker="sweep.json", reads=("cache", "fit"),
        ),
        s.stage(
            "dynamics", lambda: ["dynamics", "--probe", fit, *s.seeded],
            marker="dynamics.json", reads=("cache", "fit"),
        ),
        s.stage(
            "prompts", lambda: ["data", "split", "--probe", fit, "--prompts", "demo:people"],
            marker="held_out.jsonl", reads=("cache", "fit"),
        ),
    ]  # fmt: skip


def _steering(s: Setting) -> list[Stage]:
    command = [
        "steer", "--probe", str(s.out / "fit"), "--prompts", str(s.out / "prompts/held_out.jsonl"),
        "--coeff", "-0.2:0.2:0.1", "--limit", str(s.size.steer_prompts),
        "--random-controls", str(s.size.controls), "--temperature", "0.8", "--behaviours", BEHAVIOURS,
        *s.own, *s.seeded,
    ]  # fmt: skip
    reads = ("fit", "prompts")
    return [s.stage("steer", lambda: command, marker="steer.json", resumes=True, reads=reads)]


def _training(s: Setting) -> list[Stage]:
    return [
        s.stage(
            f"rl/{arm}",
            lambda arm=arm, options=options: _rl(  # type: ignore[misc]
                s.out,
                s.size,
                [*options, *_of_arm(s, arm), *s.own, *s.seeded],
            ),
            marker="goodhart.json",
            resumes=True,
            reads=("cache", "fit", "prompts"),
        )
        # The longest first: where several run at once, the others fit beside it.
        for arm, options in reversed(ARMS.items())
    ]


def _elsewhere(s: Setting) -> list[Stage]:
    """Questions about other things than people, before and after."""
    command = [
        "sample", "--prompts", "demo:false_premises", "--behaviours", BEHAVIOURS,
        "--samples", str(s.size.ood_samples), "--temperature", "0.8", *s.own, *s.seeded,
    ]  # fmt: skip
    adapters = {arm: ("--adapter", str(s.out / f"rl/{arm}/checkpoint/adapter")) for arm in ARMS}
    return [
        s.stage(
            f"ood/{name}",
            lambda adapter=adapter: [*command, *adapter],  # type: ignore[misc]
            output=f"ood/{name}.jsonl",
            reads=(f"rl/{name}",) if name in ARMS else (),
        )
        for name, adapter in {"before": (), **adapters}.items()
    ]


def _of_arm(s: Setting, arm: str) -> list[str]:
    """Return the options of an arm that depend on the size, or on the fit.

    Where heads are refitted, as many answers are of twice the names: telling names apart takes examples.
    """
    size = s.size
    steps, guided, heads = size.steps, size.guide_steps, []
    prompts, group = size.prompts, size.group
    if arm == "refits":
        steps, guided, heads = size.refit_steps, size.refit_guide_steps, _ensemble(s.out)
        prompts, group = 2 * prompts, group // 2
    return [
        "--steps", str(steps), "--guide-steps", str(guided), "--prompts-per-step", str(prompts),
        "--group", str(group), "--eval-every", str(steps // size.evaluations), *heads,
    ]  # fmt: skip


def _rl(out: Path, size: Size, rest: list[str]) -> list[str]:
    wanted = [word for behaviour in WANTED for word in ("--behaviour", behaviour)]
    return [
        "rl", "--probe", str(out / "fit"), "--prompts", str(out / "prompts/train.jsonl"),
        "--held-out", str(out / "prompts/held_out.jsonl"), "--behaviours", BEHAVIOURS, *wanted,
        *TRAINING, "--eval-prompts", str(size.eval_prompts), "--store", str(out / "acts.h5"), *rest,
    ]  # fmt: skip


def _cell(out: Path) -> list[str]:
    """Return the options that keep a fit to the cell that the first one chose."""
    chosen = _sweep(out)["chosen"]
    return ["--layers", str(chosen["layer"]), "--positions", str(chosen["position"])]


def _ensemble(out: Path) -> list[str]:
    """Return the option that adds the next best layers, at the position of the chosen one."""
    sweep = _sweep(out)
    chosen = sweep["chosen"]
    rows = [
        row
        for row in sweep["rows"]
        if (row["site"], row["position"]) == (chosen["site"], chosen["position"])
    ]
    layers = [int(chosen["layer"])]
    for row in sorted(rows, key=lambda row: -row["choose"]["pair_accuracy"]["value"]):
        if min(abs(int(row["layer"]) - layer) for layer in layers) >= APART:
            layers.append(int(row["layer"]))
    more = sorted(layers[1 : MORE_HEADS + 1])
    return ["--ensemble-layers", ",".join(map(str, more))] if more else []


def _sweep(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "fit/sweep.json").read_text(encoding="utf-8")))
