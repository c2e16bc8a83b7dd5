"""`report.html` of `probekit rl`, and of several runs together; the words are in its templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.errors import ProbeError
from probekit.reports import look
from probekit.reports.figures import Marks, histograms, level, lines, points
from probekit.reports.formats import number, ranges, sentence, shorten, spans
from probekit.reports.page import said, write_page
from probekit.results.diversity import TEXTS
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.measures import Measure, measure, measures
from probekit.results.outcomes import OUTCOMES, risen
from probekit.results.rl import ALL, RLRun

HEALTH = (
    "entropy", "kl", "n_tokens", "finished", "distinct_2", *TEXTS, "alike_acts", "mahalanobis", "drift",
)  # fmt: skip
STEPS, HELD_OUT = "Training steps", "held-out prompts"
CHANGE, RATIO = "Change (SD at the start)", "Times the start"
MOST_RUNS = 8
"""Runs drawn together: there are no more colours that can be told apart."""
MOST_MARKED = 12
"""Refits that are marked: more lines than that would hide what lies behind them."""
MOST_CATEGORIES, MOST_PARTS, MOST_PROMPTS = 5, 6, 10


def write_rl_report(
    directory: Path, *, out: Path | None = None, force: bool = False, compare: Sequence[Path] = ()
) -> Path:
    """Write the report of what `probekit rl --out` wrote; see `probekit.reports`.

    A run that was killed is shown as far as it got; `compare` are directories of runs that are
    drawn together with it at the top of the page.
    """
    runs = open_runs([Path(directory), *map(Path, compare)])
    return write_page("rl.html.j2", rl_context(runs), Path(directory), out, force=force)


def open_runs(directories: Sequence[Path]) -> dict[str, RLRun]:
    """Return runs by their name; two of one name are told apart by the folders that they lie in."""
    paths = [path.resolve() for path in directories]
    if len(paths) > MOST_RUNS:
        raise ProbeError(f"runs: got {len(paths)}, expected {MOST_RUNS} at most. Compare fewer.")
    for path in paths:
        if paths.count(path) > 1:
            raise ProbeError(f"{path}: is given twice. Compare a run with another one.")
    runs = map(RLRun.open, directories)
    alike = {path.name for path in paths if [other.name for other in paths].count(path.name) > 1}
    names = ["/".join(path.parts[-2:] if path.name in alike else path.parts[-1:]) for path in paths]
    return dict(zip(names, runs, strict=True))


def rl_context(runs: Mapping[str, RLRun]) -> dict[str, Any]:
    """Return what the template asks for: the run, those beside it, and the functions below."""
    functions = (
        compare_figure, shares_figure, score_figure, independent_figure, goodhart_figure, scores_figure,
        health_figure, same_score, measured, definitions, independent, rates, part_name, part_tables,
        chosen_scores, alarms, examples, outcomes, shown_risen,
    )  # fmt: skip
    most = {"marked": MOST_MARKED, "parts": MOST_PARTS, "categories": MOST_CATEGORIES}
    made: dict[str, Any] = {function.__name__: function for function in functions}
    return {"run": next(iter(runs.values())), "runs": runs, "most": most, **made}


def rl_headline(verdict: str) -> str:
    """Return the page's sentence for a verdict, for a terminal."""
    return said("rl_words.html.j2", "headline", verdict)


def part_name(part: str) -> str:
    """Return `class=real` as `Class: real`."""
    tag, _, value = part.partition("=")
    return "All prompts" if part == ALL else sentence(f"{tag}: {value or '(none)'}")


def measured(run: RLRun) -> dict[str, Measure]:
    """Return the measures of the evaluations; a head that is optimised alone is the score itself."""
    names = [f"head:{name}" for name in run.record["optimised"]]
    own = names if len(names) == 1 else []
    return {name: measure("rl", name) for name in run.measures if name not in own}


def definitions(run: RLRun) -> list[Measure]:
    """Return the measures of the evaluations and of the curve; those of a family once."""
    names = {name.partition(":")[0] for name in run.measures} | {"root_kl", "independent"}
    names |= {"own", "unwanted", *outcomes(run)} if outcomes(run) else set()
    return [what for name, what in measures("rl").items() if name.rstrip(":") in names]


def outcomes(run: RLRun) -> dict[str, str]:
    """Return the measures that count outcomes, with their names; none where no behaviour was measured."""
    names = [f"outcome:{name}" for name in OUTCOMES] if run.has_outcomes else []
    return {name: sentence(measure("rl", name).label) for name in names}


def shown_risen(run: RLRun, part: str = ALL) -> list[str]:
    """Return the outcomes that became more frequent, as keys of the words for them."""
    return risen({name: run.change(f"outcome:{name}", part) for name in OUTCOMES})


def part_tables(run: RLRun) -> list[tuple[list[str], list[str]]]:
    """Return the parts that stand beside each other, all prompts and the values of one tag, and headings."""
    tags = dict.fromkeys(part.partition("=")[0] for part in run.parts if part != ALL)
    tables = [[ALL, *(p for p in run.parts if p.startswith(f"{tag}="))] for tag in tags] or [[ALL]]
    return [(ps, [f"{part_name(p)}, n = {run.prompts(p)}" for p in ps]) for ps in tables]


def independent(run: RLRun) -> list[str]:
    """Return the measures that read the score with heads that nothing optimises."""
    own = {f"head:{name}" for name in run.record["optimised"]}
    return [m for m in run.measures if m == "disjoint" or (m.startswith("head:") and m not in own)]


def rates(run: RLRun) -> dict[str, str]:
    """Return the rates that are drawn, with their names: the wanted one, and those that moved most.

    Where one category is the wanted behaviour, one line stands for both.
    """
    twin = f"rate:{run.record['behaviour']}"
    others = [name for name in run.measures if name.startswith("rate:") and name != twin]
    if len(run.evaluated) > 1:
        moved = sorted(others, key=lambda name: -abs(run.change(name).value))
        others = [name for name in others if name in moved[:MOST_CATEGORIES]]
    names = {name: measure("rl", name).label for name in ("wanted", *others[:MOST_CATEGORIES])}
    if twin in run.measures:
        names["wanted"] = f"{shorten(run.record['behaviour'], 30)} (wanted)"
    return {name: label for name, label in names.items() if name in run.measures}


def alarms(run: RLRun) -> list[list[Any]]:
    """Return every alarm as it was worded last, at how many steps, and which: numbers in it may differ."""
    kinds = run.alarms["alarm"].str.replace(r"\d[\d.,]*", "#", regex=True)
    groups = [
        (rows["alarm"].iloc[-1], {*rows["step"]})
        for _, rows in run.alarms.groupby(kinds, sort=False)
    ]
    groups.sort(key=lambda group: -len(group[1]))
    return [[sentence(alarm), len(steps), ranges(sorted(steps))] for alarm, steps in groups]


def examples(run: RLRun) -> list[tuple[dict[str, Any], ...]]:
    """Return first and last completion of prompts that are drawn with the run's seed."""
    if len(run.evaluated) < 2:
        return []
    rows = run.rows[run.rows["sample"] == 0].set_index(["step", "prompt_id"], drop=False)
    ends = run.evaluated[0], run.evaluated[-1]
    both = sorted(set(rows.loc[ends[0]].index) & set(rows.loc[ends[1]].index))
    order = np.random.default_rng(max(0, run.record["seed"] or 0)).permutation(len(both))
    drawn = order[:MOST_PROMPTS]
    return [tuple(rows.loc[(step, both[index])].to_dict() for step in ends) for index in drawn]


def same_score(runs: Sequence[RLRun]) -> bool:
    """Return whether runs optimise the same heads, so that their scores have one unit."""
    keys = ("optimised", "probes", "model")
    return len({str([run.record.get(key) for key in keys]) for run in runs}) < 2


def compare_figure(
    runs: Mapping[str, RLRun], names: Sequence[str], *, over_kl: bool = False, **texts: str
) -> go.Figure:
    """Draw measures of several runs over training steps, or over the root of the divergence.

    Entropy is drawn in parts of its start, the score of different heads as a change.
    """
    data, same = [], same_score([*runs.values()])
    for name, (label, run) in product(names, runs.items()):
        more: dict[str, Any] = {"name": shorten(label)}
        if over_kl:
            kl = [run.level("kl", at=step).value for step in run.evaluated]
            more["x"] = np.sqrt(np.maximum(kl, 0.0))
        if name == "entropy":
            more |= {"read": partial(run.ratio, name), "axis": RATIO}
        elif name == "score" and not same:
            more |= {"read": partial(run.scaled, name), "axis": CHANGE}
        data.append(_curve(run, name, **more))
    title = measure("rl", "root_kl").axis_title if over_kl else STEPS
    return _drawn(data, x_title=title, bars=over_kl, **texts)


def shares_figure(run: RLRun, names: Mapping[str, str], **texts: str) -> go.Figure:
    """Draw shares of completions by their measure, each under a name, a panel a value of a tag."""
    data = []
    for part, (name, label) in product(run.parts[:MOST_PARTS], names.items()):
        panel = f"{shorten(part_name(part), 16)} (n = {run.prompts(part)})"
        data.append(_curve(run, name, part=part, panel=panel, name=label))
    return _drawn(data, same=True, **texts)


def score_figure(run: RLRun, **texts: str) -> go.Figure:
    """Draw the optimised score, and its distance to the chosen ones, by class where the target is."""
    data = [_curve(run, "score", name=HELD_OUT), _trained(run, "score")]
    first = {**_panel("score"), "name": sentence(measure("rl", "score_first").label)}
    data.append(_curve(run, "score_first", **first))
    if chosen := chosen_scores(run):
        mean = float(np.mean(chosen))
        label = f"chosen scores, mean ({number(mean)})"
        data.append(level(mean, [0, run.done], label, **_panel("score")))
    name, tag = "distance_to_chosen", run.record["target"]["tag"]
    data += [_curve(run, name, name=HELD_OUT), _trained(run, name)]
    classes = [part for part in run.parts if part.startswith(f"{tag}=")]
    data += [_curve(run, name, part=part, name=part_name(part)) for part in classes]
    return _drawn(data, marks=_refits(run), **texts)


def independent_figure(run: RLRun, **texts: str) -> go.Figure:
    """Draw changes of the optimised score and of heads that nothing optimises, each in its own unit."""
    panel = {"panel": "", "axis": CHANGE}
    data = [level(0.0, run.evaluated, **panel)]
    for name in ["score", *independent(run)][: len(look.SERIES) - 1]:
        label = sentence(measure("rl", name).label)
        data.append(_curve(run, name, partial(run.scaled, name), name=label, **panel))
    for name in run.placebos:  # all under one name: each ends with a gap
        more = {**panel, "name": "placebo heads", "look": "control"}
        data.append(_curve(run, name, partial(run.scaled, name), **more))
        data.append(points([math.nan], [NO_VALUE], [""], **more))
    return _drawn(data, marks=_refits(run), **texts)


def goodhart_figure(run: RLRun, **texts: str) -> go.Figure:
    """Draw changes of score, independent readings and behaviour over the root of the divergence."""
    assert run.curve is not None
    data, curve, spot = [], run.curve.points, run.curve.sweet_spot
    drawn = [("training", "after {} steps", curve)]
    drawn += [("best of n", "best of {}", run.picks.points)] if run.picks else []
    for key, name in (("score", "score"), ("independent", "independent"), ("behaviour", "wanted")):
        what = measure("rl", name)
        if not any(getattr(point, key).known for point in curve):
            continue
        scale, unit = (100, "percentage points") if what.share else (1, what.axis or what.unit)
        panel = {"panel": sentence(what.label), "axis": f"Change ({unit})"}
        data.append(level(0.0, [point.root_kl for point in curve], **panel))
        for line, step, found in drawn:
            changes = [Interval(*(scale * end for end in getattr(p, key))) for p in found]
            hover = [f"{step.format(p.step)}, √KL {number(p.root_kl)}" for p in found]
            data.append(points([p.root_kl for p in found], changes, hover, name=line, **panel))
    best = [point.root_kl for point in curve if point.step == spot]
    tops = [(point.root_kl, str(point.step)) for point in curve[::-1]]
    marks = {f"sweet spot (step {spot})": (best, look.PURPLE)}
    title = measure("rl", "root_kl").axis_title
    return _drawn(data, x_title=title, bars=True, marks=marks, tops=tops, **texts)


def scores_figure(run: RLRun, **texts: str) -> go.Figure:
    """Draw the scores before and after training beside the chosen ones, a panel a part."""
    ends, data = dict.fromkeys([run.evaluated[0], run.evaluated[-1]]), []
    for part in run.parts[:MOST_PARTS]:
        wide, names = run.wide("score", part), zip(("before", "after"), ends, strict=False)
        values = {f"{word}: step {step}": wide[step].dropna() for word, step in names}
        values["target: chosen scores"] = pd.Series(chosen_scores(run, part), dtype=float)
        sizes = ", ".join(str(len(column)) for column in values.values() if len(column))
        panel = f"{shorten(part_name(part), 20)} (n = {sizes})"
        for name, column in values.items():
            data.append(pd.DataFrame({"panel": panel, "name": name, "value": column}))
    return histograms(pd.concat(data), x_title=measure("rl", "score").axis_title, **texts)


def health_figure(run: RLRun, **texts: str) -> go.Figure:
    """Draw what training did to the text and to the activations, a panel a measure."""
    data = []
    for name in HEALTH:
        data += [_trained(run, name), _curve(run, name, name=HELD_OUT)]
    alarmed = [(low - 0.5, high + 0.5) for low, high in spans(run.alarms["step"])]
    marks = {**_refits(run), "alarm": (alarmed, look.VERMILLION)}
    return _drawn(data, across=3, marks=marks, **texts)


def chosen_scores(run: RLRun, part: str = ALL) -> list[float]:
    """Return the scores that the target has for a part: those of its class, or all."""
    target = run.record["target"]
    tag, _, value = part.partition("=")
    scores = target["chosen"].get(value) if tag == target["tag"] else None
    return [s for s in scores or target["chosen"].get("", []) if s is not None]


def _curve(
    run: RLRun, measured: str, read: Callable[..., Interval] | None = None, part: str = ALL,
    **more: Any,  # noqa: ANN401 - columns of `lines`
) -> pd.DataFrame:  # fmt: skip
    """Return a measure at every evaluation, in a panel of its own by default; nothing unmeasured."""
    if measured not in [*run.measures, *outcomes(run)]:
        return pd.DataFrame()
    read = read or partial(run.level, measured, part)
    hover = [f"after {step} steps" for step in run.evaluated]
    values = [read(at=step) for step in run.evaluated]
    return points(**{"x": run.evaluated, **_panel(measured), **more}, values=values, hover=hover)


def _trained(run: RLRun, name: str) -> pd.DataFrame:
    """Return a measure of the training steps, thin; a divergence of 0 throughout was not taken."""
    if name not in run.steps or not run.steps[name].fillna(0).any():
        return pd.DataFrame()
    hover = [f"step {step}" for step in run.steps["step"]]
    values = [Interval(value) for value in run.steps[name]]
    own = {"name": "training steps", "look": "thin", **_panel(name)}
    return points(run.steps["step"].tolist(), values, hover, **own)


def _panel(name: str) -> dict[str, Any]:
    what = measure("rl", name)
    axis = sentence(what.axis or what.unit)
    return {"panel": sentence(what.label), "axis": axis, "share": what.share}


def _refits(run: RLRun) -> Marks:
    """Return where heads were fitted again: half a step earlier, after what the old ones read."""
    steps = run.steps["step"][run.steps["refit"].notna()] - 0.5
    few = steps.tolist() if len(steps) <= MOST_MARKED else []
    return {"heads fitted again": (few, look.ORANGE)}


def _drawn(data: Sequence[pd.DataFrame], x_title: str = STEPS, **more: Any) -> go.Figure:  # noqa: ANN401
    return lines(data, x_title=x_title, **more)
