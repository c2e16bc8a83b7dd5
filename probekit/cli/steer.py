"""`probekit steer`: a probe's direction while the model writes, against controls."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.results.steer import Condition
    from probekit.steering.config import SteerConfig

TEXT = 150
"""Characters of a text that is printed."""

JUDGE = opt.with_options(
    click.option(
        "--judge-url",
        help="OpenAI-compatible endpoint of a model that names categories as well.",
    ),
    click.option(
        "--judge-model",
        default="default",
        show_default=True,
        help="Name of the model at the judge's endpoint.",
    ),
    click.option(
        "--judge-key-env",
        default="PROBEKIT_JUDGE_KEY",
        show_default=True,
        help="Environment variable that holds the key of the judge's endpoint.",
    ),
    click.option(
        "--judge-timeout",
        default=30.0,
        show_default=True,
        help="Seconds to wait for an answer of the judge.",
    ),
)


@click.command(cls=SettingsCommand, settings="probekit.steering.config:SteerConfig")
@opt.PROBE
@opt.prompts_option(required=False)
@click.option(
    "--prompt",
    "texts",
    multiple=True,
    help="Text of a prompt to answer, instead of --prompts; may be repeated.",
)
@opt.out_option("Directory to write the sweep to.")
@click.option(
    "--vector",
    type=click.Path(),
    help="Vector file (.safetensors, .gguf) to steer along, instead of the probe's direction.",
)
@opt.BEHAVIOURS
@JUDGE
@click.option(
    "--limit", default=16, show_default=True, help="Use only the first N prompts; 0 uses all."
)
@opt.ADAPTER
@opt.SAME_MODEL
@opt.RESUME
@opt.FORCE
@opt.JSON
def steer(
    probe: str,
    prompts: str | None,
    texts: tuple[str, ...],
    out: str,
    config: SteerConfig,
    **options: Any,  # noqa: ANN401
) -> None:
    """Steer a model with a probe's direction and find out whether it is causal.

    For every strength the model writes, and the unsteered model reads what it wrote: probe scores,
    behaviour rates, perplexity, KL, repetition. Random directions of the same norm go through the
    same strengths; the direction is also ablated.

    \b
    Example:
      probekit steer --probe sweep --prompts demo:researchers --out steered \\
        --coeff -0.4:0.4:0.2 --behaviours knowledge-awareness --rerank
    """
    from probekit.data.prompts import open_prompts
    from probekit.errors import DataError
    from probekit.probes import Probe
    from probekit.reports import write_steer_report
    from probekit.steering import SteeringVector, steer_sweep

    opt.refuse_both(options)
    if config.rerank_coeff is not None and not config.rerank:
        raise click.UsageError("--rerank-coeff is the strength of --rerank: pass that too.")
    if bool(prompts) == bool(texts):
        raise click.UsageError("Give either --prompts, a source of them, or --prompt TEXT.")
    if options["limit"] < 0:
        raise DataError(f"limit {options['limit']}: expected 0 or more prompts.")
    target = opt.claim(out, "steer", options)
    behaviours, judge = _classifiers(options)
    vector = SteeringVector.load(options["vector"]) if options["vector"] else None
    if vector is not None:
        vector = dataclasses.replace(vector, source=f"{options['vector']} ({vector.source})")
    fitted = Probe.load(probe)
    rows = open_prompts(prompts or list(texts), limit=options["limit"] or None)
    loaded = opt.open_model(options, fitted, adapter=options["adapter"])
    with opt.progress_bar() as progress, _kept(target):
        result = steer_sweep(
            loaded,
            probe,
            rows,
            target,
            config,
            vector=vector,
            behaviours=behaviours,
            judge=judge,
            resume=options["resume"],
            force=options["force"],
            arguments={
                "probe": probe,
                "prompts": prompts or list(texts),
                "out": out,
                **options,
                **dataclasses.asdict(config),
            },
            progress=progress,
            finish=write_steer_report,
        )
    summary = {
        **{key: result.summary[key] for key in ("probe", "n", "usable", "doses", "ablation")},
        "rerank": result.summary["rerank"],
        "judge": result.summary["judge"],
        "paths": {
            "directory": str(target),
            "report": str(target / "report.html"),
            "steer": str(target / "steer.json"),
            "completions": str(target / "completions.jsonl"),
            "vector": str(target / "vector.safetensors"),
        },
    }
    if options["as_json"]:
        return opt.echo_json(summary)
    for line in [*summary_lines(result.summary, target), *text_lines(result.rows)]:
        opt.echo(line)
    opt.echo(f"report   {summary['paths']['report']}")


@contextlib.contextmanager
def _kept(out: Path) -> Iterator[None]:
    """Say at an interrupt what of the sweep is kept, and how to go on."""
    from probekit.steering.writer import Journal

    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        folder = Journal.beside(out).path
        n = len(list(folder.glob("*.jsonl")))
        if n:
            opt.log(f"{n} finished conditions are kept in {folder}; --resume continues")
        raise


def _classifiers(options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the behaviours and the judge that were asked for."""
    from probekit.behaviours import Judge
    from probekit.errors import BehaviourError

    behaviours = opt.read_behaviours(options)
    if not options["judge_url"]:
        return behaviours, None
    if behaviours is None:
        raise BehaviourError(
            "judge: has no categories to name. Pass --behaviours with the judge's address."
        )
    judge = Judge(
        behaviours,
        options["judge_url"],
        options["judge_model"],
        key_variable=options["judge_key_env"],
        timeout=options["judge_timeout"],
    )
    return behaviours, judge


def summary_lines(summary: dict[str, Any], directory: Path) -> list[str]:
    """Return the slopes beside their controls, the usable range, the ablation and the verdict."""
    from probekit.reports.steer import steer_words
    from probekit.results.intervals import FEWEST_GROUPS

    probe, n = summary["probe"], summary["n"]
    where = f"layer {', '.join(map(str, summary['vector']['layers']))}"
    lines = [
        f"steered  {summary['vector']['source']}, {where}, mode {summary['mode']}; {n['prompts']} "
        f"prompts x {n['samples']} samples, {n['random_controls']} random controls, "
        f"{n['shuffled_controls']} of shuffled labels, {n['placebo_controls']} placebos; score of the "
        f"{probe['kind']} probe at layer {probe['layer']} in a clean pass"
    ]
    lines += opt.positive_line(probe.get("positive_class"))
    if n["prompts"] < FEWEST_GROUPS:
        lines.append(f"         fewer than {FEWEST_GROUPS} prompts make no interval")
    if summary["doses"]:
        lines += _dose_lines(summary)
    lines.append("ablated minus unsteered")
    for measure in _shown(summary, "effect", "behaviour", "damage"):
        found = summary["ablation"][measure["name"]]
        lines.append(_measured(measure["name"], found["difference"], found))
    judge = summary["judge"]
    if judge and judge["failed"]:
        lines.append(
            f"judge    {judge['failed']} of {judge['asked']} completions got no answer "
            f"({judge['problem']}); their gap is left open"
        )
    return [*lines, *(f"{name:<9}{words}" for name, words in steer_words(directory).items())]


def _dose_lines(summary: dict[str, Any]) -> list[str]:
    """Return the usable range, the slopes, and what the strongest usable doses do to the text."""
    usable, n = summary["usable"], summary["n"]
    words = f"coeff {usable['low']:g} to {usable['high']:g}" if usable["coeffs"] else "no coeff"
    lines = [
        f"usable   {words} (perplexity at most {usable['bound']:g} times the unsteered, distinct "
        f"bigrams at least 1/{usable['bound']:g})"
    ]
    reasons = list(usable["reasons"].items())[:6]
    lines += [f"         not {coeff}: {why}" for coeff, why in reasons]
    used = summary["doses"]["score"]["coeffs"]
    note = "" if used == usable["coeffs"] else ", damaged ones among them"
    n_random = n["random_controls"]
    rank = (
        f"; p: rank of its size among the random, at least {1 / (1 + n_random):.3f}"
        if n_random
        else ""
    )
    over = (
        "; over: its size minus the strongest other's"
        if "over" in summary["doses"]["score"]
        else ""
    )
    lines.append(
        f"slope a unit of coeff over {', '.join(f'{c:g}' for c in used)}{note}, 95 % over "
        f"prompts{rank}{over}"
    )
    for measure in _shown(summary, "effect", "behaviour"):
        dose = summary["doses"][measure["name"]]
        lines.append(_measured(measure["name"], dose["slope"], dose))
    curve = [
        c for c in summary["conditions"] if c["direction"] == "probe" and c["coeff"] is not None
    ]
    curve = sorted((c for c in curve if c["coeff"] in used), key=lambda c: c["coeff"])
    shown = [next(c for c in summary["conditions"] if c["direction"] == "none"), *curve]
    lines.append("damage   unsteered, then at coeff " + ", ".join(f"{c['coeff']:g}" for c in curve))
    for measure in _shown(summary, "damage"):
        values = [c["values"][measure["name"]]["value"] for c in shown]
        text = ", ".join("none" if v is None else f"{v:.3f}" for v in values)
        lines.append(f"  {measure['name']:<20}{text}")
    return lines


def text_lines(rows: Mapping[Condition, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the first prompt, and what the model writes after it unsteered and at each strength."""
    from probekit.reports.formats import shorten
    from probekit.results.steer import PROBE

    own = [c for c in rows if c.direction in ("none", PROBE) and c.mode != "ablate"]
    if not own:
        return []
    first = rows[own[0]][0]
    lines = [f"prompt   {shorten(first['prompt'], TEXT)}"]
    for condition in sorted(own, key=lambda c: (c.coeff or 0.0, c.direction)):
        texts = (r["text"] for r in rows[condition] if r["prompt_id"] == first["prompt_id"])
        name = "unsteered" if condition.direction == "none" else f"coeff {condition.coeff:+g}"
        lines.append(f"  {name:<12}{shorten(next(texts), TEXT)}")
    return lines


def _shown(summary: dict[str, Any], *groups: str) -> list[dict[str, Any]]:
    return [measure for measure in summary["measures"] if measure["group"] in groups]


def _measured(name: str, metric: dict[str, Any], change: dict[str, Any]) -> str:
    rank = "" if change["p"] is None else f"  p = {change['p']:.3f}"
    over = f"  over {_interval(change['over'])}" if "over" in change else ""
    return f"  {name:<20}{_interval(metric)}{rank}{over}"


def _interval(metric: dict[str, Any]) -> str:
    value, low, high = (
        float("nan") if metric[key] is None else round(metric[key], 3) + 0.0
        for key in ("value", "low", "high")
    )
    if low != low:  # NaN
        return f"{value:+.3f} (no interval)"
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
