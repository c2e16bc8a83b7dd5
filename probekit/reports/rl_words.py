"""What the measures of an RL run are called, in which unit, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from probekit.reports.rl_rows import ALL, HEAD, RATE, RLRun
from probekit.reports.rows import Metric
from probekit.reports.steer_rows import Measure
from probekit.reports.steer_words import change_text, signed, value_text
from probekit.reports.words import count, shorten

STEPS = "Training steps"
ROOT_KL = "√KL from the frozen model (√nats per token)"
SD = "standard deviations at the start"


MOST_MARKED = 12
"""Refits marked in figures; more lines than that would hide what lies behind them."""


class _Measure(NamedTuple):
    label: str
    unit: str
    definition: str


_MEASURES = {
    "wanted": _Measure(
        "wanted behaviour", "share",
        "Share of completions that show the wanted behaviour, as the behaviours file finds it."),
    "score": _Measure(
        "optimised score", "score units",
        "Score of the optimised heads (of several: mean − λ · std on one scale) as the frozen "
        "model reads the completion."),
    "score_first": _Measure(
        "score under the first heads", "score units",
        "The same under the heads the run began with, before any was fitted again."),
    "distance_to_chosen": _Measure(
        "distance to the chosen scores", "score units",
        "1-Wasserstein distance between the scores and the chosen ones. No interval."),
    "disjoint": _Measure(
        "disjoint head", "score units",
        "A head of the same kind, fitted on groups that the optimised head never saw."),
    "kl": _Measure(
        "KL from the frozen model", "nats per token",
        "Mean over the completion's tokens of log-probability minus that of the frozen model."),
    "entropy": _Measure(
        "entropy", "nats per token", "Mean over the completion's tokens of −log-probability."),
    "n_tokens": _Measure("length", "tokens", "New tokens of a completion."),
    "finished": _Measure("ended its turn", "share", "Share not cut at the length limit."),
    "distinct_2": _Measure(
        "distinct bigrams", "share",
        "Share of a completion's token bigrams that differ; it falls with repetition."),
    "mahalanobis": _Measure(
        "Mahalanobis distance", "1 = as new rows of the data",
        "Distance of the activations from the rows the head was fitted on, in units of the root mean "
        "square distance of that data's own new rows. Far above 1, the head reads what it was not "
        "fitted for."),
    "drift": _Measure(
        "drift of the reading", "score units",
        "The same head on the policy's own activations minus on the frozen model's."),
}  # fmt: skip

HEALTH = ("entropy", "kl", "n_tokens", "finished", "distinct_2", "mahalanobis", "drift")


def measure(name: str) -> Measure:
    """Return label and unit of a measure by its name in an evaluation."""
    if name.startswith(HEAD):
        return Measure(name, f"head {head_name(name.removeprefix(HEAD))}", "score units", "head")
    if name.startswith(RATE):
        return Measure(name, name.removeprefix(RATE), "share", "behaviour")
    known = _MEASURES.get(name)
    if known is None:
        return Measure(name, name.replace("_", " "), "", "other")
    return Measure(name, known.label, known.unit, "other")


def definition(name: str) -> str:
    """Return what a measure is, in a sentence; empty for one that is not known."""
    if name.startswith(RATE):
        return "Share of completions in this category of the behaviours file."
    if name.startswith(HEAD):
        return "Score of this head as the frozen model reads the completion."
    return _MEASURES[name].definition if name in _MEASURES else ""


def head_name(name: str) -> str:
    """Return `ridge/resid_post/020/mean` as `ridge, resid_post layer 20, mean`."""
    parts = name.split("/")
    if len(parts) != 4 or not parts[2].isdigit():
        return shorten(name, 60)
    kind, site, layer, position = parts
    return f"{kind}, {site} layer {int(layer)}, {position}"


def heads_text(names: Sequence[str]) -> str:
    """Return heads for a sentence."""
    return "; ".join(head_name(name) for name in names) or "not recorded"


def part_name(part: str) -> str:
    """Return `class=invented` as `class: invented`."""
    if part == ALL:
        return "all prompts"
    tag, _, value = part.partition("=")
    return f"{tag}: {value or '(none)'}"


def report_n(run: RLRun) -> str:
    """Return over what an evaluation is taken, as a subtitle."""
    prompts = run.prompts()
    per = run.completions / prompts if prompts else 0
    each = f" × {per:g} completions" if per > 1 else ""
    return f"n = {count(prompts)} held-out prompts{each} at every evaluation"


def level_text(name: str, metric: Metric) -> str:
    """Return what a measure is: shares in per cent, all else to about three figures."""
    return value_text(measure(name), metric)


def changed_text(name: str, metric: Metric) -> str:
    """Return a change with its sign and interval: shares in points, all else in their unit."""
    if not metric.known or measure(name).unit != "share":
        return change_text(metric)
    points = Metric(*(100 * value for value in metric))
    text = f"{signed(points.value, 0)} points"
    if not points.has_interval:
        return text
    return f"{text} [{signed(points.low, 0)}, {signed(points.high, 0)}]"


EVEN = 4
"""More steps at one distance than these are not named one by one."""


def refits_text(run: RLRun) -> str:
    """Return what a caption says of refits, which are marked where there are few."""
    if not run.refitted:
        return ""
    if len(run.refitted) <= MOST_MARKED:
        return " Dotted upright: heads fitted again."
    return f" Heads were fitted again at steps {ranges(run.refitted)}."


def ranges(steps: Sequence[int]) -> str:
    """Return steps as `3, 7–9`, and many at one distance as `5, 9, …, 237`."""
    known = sorted(set(steps))
    distances = {after - before for before, after in pairwise(known)}
    if len(known) > EVEN and len(distances) == 1 and distances != {1}:
        return f"{known[0]}, {known[1]}, …, {known[-1]}"
    spans: list[list[int]] = []
    for step in known:
        if spans and spans[-1][-1] == step - 1:
            spans[-1] = [spans[-1][0], step]
        else:
            spans.append([step])
    return ", ".join("–".join(str(end) for end in item) for item in spans)


def code(value: object) -> str:
    """Return a value as inline code; nothing for nothing."""
    return f"<code>{escape(str(value))}</code>" if value not in (None, "") else ""
