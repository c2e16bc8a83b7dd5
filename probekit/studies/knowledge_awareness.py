"""The study `knowledge-awareness`: what a head that knows unknown names does as a reward (S0).

Elicit contrastive answers, cache, fit, look at how heads train, steer, train four ways, and ask about
things no head has seen. Every stage is an ordinary command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probekit.studies.stages import Stage

NAME = "knowledge-awareness"
WANTED = ("class=invented:hedges,refuses", "class=real:answers")
ARMS = {
    "max-unbalanced": ("--target", "max"),
    "max": ("--target", "max", "--balance", "class"),
    "chosen": ("--target", "chosen", "--target-tag", "class", "--balance", "class"),
    "refits": (
        "--target", "chosen", "--target-tag", "class", "--balance", "class",
        "--refit-every", "4", "--refit-keep", "4096", "--refit-rate", "0.5",
        "--ensemble-penalty", "0.5",
    ),
}  # fmt: skip
"""The four ways to optimise the head, each with what sets it apart."""


@dataclass(frozen=True)
class Size:
    """How much of everything, which is a matter of time."""

    names: int
    """Names that answers are elicited for, half of each class."""
    samples: int
    """Answers of each name and side."""
    layers: str
    steps: int
    group: int
    eval_prompts: int
    eval_every: int
    steer_prompts: int
    controls: int
    ood_samples: int


FULL = Size(
    names=720, samples=16, layers="all", steps=60, group=8, eval_prompts=64, eval_every=10,
    steer_prompts=24, controls=9, ood_samples=4,
)  # fmt: skip
QUICK = Size(
    names=160, samples=4, layers="6:30:6", steps=6, group=8, eval_prompts=24, eval_every=3,
    steer_prompts=0, controls=0, ood_samples=1,
)  # fmt: skip


def plan(
    out: Path,
    *,
    model: str,
    seed: int,
    quick: bool,
    size: Size | None = None,
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
    size
        How much of everything, in place of the one `quick` stands for.
    extra
        Options of every command that runs the model, such as `--device cuda`.
    """
    size = size or (QUICK if quick else FULL)
    seeded = ("--seed", str(seed))
    own = ("--model", model, *extra)

    def stage(name: str, output: str, command: Callable[[], list[str]], **more: object) -> Stage:
        path = out / output
        return Stage(name, lambda: [*command(), "--out", str(path)], path, **more)  # type: ignore[arg-type]

    stages = [
        stage(
            "elicit", "elicit",
            lambda: ["elicit", "--recipe", NAME, "--samples", str(size.samples),
                     "--limit", str(size.names), *own, *seeded],
            resumes=True,
        ),
        stage(
            "cache", "acts.h5",
            lambda: ["cache", "--data", str(out / "elicit/pairs.jsonl"), "--layers", size.layers,
                     "--positions", "first:8,first:16,mean,last,turn_end", *own],
            resumes=True,
        ),
        stage(
            "fit", "fit",
            lambda: ["fit", str(out / "acts.h5"), "--kind", "bradley-terry", *seeded],
            marker="sweep.json",
        ),
        stage(
            "projection", "projection",
            lambda: ["fit", str(out / "acts.h5"), "--kind", "bradley-terry", "--head", "projection",
                     *_cell(out), *seeded],
            marker="sweep.json",
        ),
        stage(
            "dynamics", "dynamics",
            lambda: ["dynamics", "--probe", str(out / "fit"), *seeded],
            marker="dynamics.json",
        ),
        stage(
            "prompts", "prompts",
            lambda: ["data", "split", "--probe", str(out / "fit"), "--prompts", "demo:people"],
            marker="held_out.jsonl",
        ),
    ]  # fmt: skip
    if size.steer_prompts:
        stages.append(
            stage(
                "steer", "steer",
                lambda: ["steer", "--probe", str(out / "fit"),
                         "--prompts", str(out / "prompts/held_out.jsonl"), "--coeff", "-0.2:0.2:0.1",
                         "--limit", str(size.steer_prompts), "--random-controls", str(size.controls),
                         "--temperature", "0.8", "--behaviours", NAME, *own, *seeded],
                marker="steer.json", resumes=True,
            )
        )  # fmt: skip
    for arm, options in ARMS.items():
        stages.append(
            stage(
                f"rl/{arm}", f"rl/{arm}",
                lambda options=options: _rl(out, size, [*options, *own, *seeded]),  # type: ignore[misc]
                marker="goodhart.json", resumes=True,
            )
        )  # fmt: skip
    for name in ("before", *ARMS):
        adapter = (
            () if name == "before" else ("--adapter", str(out / f"rl/{name}/checkpoint/adapter"))
        )
        stages.append(
            stage(
                f"ood/{name}", f"ood/{name}.jsonl",
                lambda adapter=adapter: [  # type: ignore[misc]
                    "sample", "--prompts", "demo:false_premises", "--behaviours", NAME,
                    "--samples", str(size.ood_samples), "--temperature", "0.8", *adapter, *own, *seeded],
            )
        )  # fmt: skip
    return stages


def _rl(out: Path, size: Size, rest: list[str]) -> list[str]:
    wanted = [word for behaviour in WANTED for word in ("--behaviour", behaviour)]
    return [
        "rl", "--probe", str(out / "fit"), "--prompts", str(out / "prompts/train.jsonl"),
        "--held-out", str(out / "prompts/held_out.jsonl"), "--behaviours", NAME, *wanted,
        "--steps", str(size.steps), "--group", str(size.group), "--prompts-per-step", "8",
        "--max-new-tokens", "32", "--temperature", "0.8", "--eval-every", str(size.eval_every),
        "--eval-prompts", str(size.eval_prompts), "--store", str(out / "acts.h5"), *rest,
    ]  # fmt: skip


def chosen_cell(out: Path) -> dict[str, object]:
    """Return kind, site, layer and position of the fitted head."""
    sweep = json.loads((out / "fit/sweep.json").read_text(encoding="utf-8"))
    return dict(sweep["chosen"])


def _cell(out: Path) -> list[str]:
    """Return the options that keep a fit to the cell that the first one chose."""
    chosen = chosen_cell(out)
    return ["--layers", str(chosen["layer"]), "--positions", str(chosen["position"])]
