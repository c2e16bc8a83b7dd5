"""Read what `probekit rl` left in a directory, refusing what is foreign or damaged.

A run that was killed is no damage: its logs are read as far as they go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probekit.errors import ProbeError
from probekit.reports.output import Kind, json_number
from probekit.reports.rl_rows import (
    ALL,
    HEAD,
    Curve,
    Evaluation,
    Point,
    Refit,
    RLRun,
    Sample,
    Step,
)
from probekit.reports.rows import NO_VALUE, Metric

MOST = 8
"""Runs drawn together at most: there are no more colours that can be told apart."""


@dataclass(frozen=True)
class _Run(Kind):
    """A run record has no format of its own; it says which command wrote it."""

    def _check_header(self, path: Path, value: dict[str, Any]) -> None:
        if value.get("command") != self.command:
            raise ProbeError(
                f"{path}: is of the command {value.get('command')!r}, expected {self.command!r}. "
                f"{self.give}"
            )


KIND = _Run("rl", "an RL run", "run.json", "probekit.rl", 1)


def load_rl(directory: Path) -> RLRun:
    """Return the run that `probekit rl` left in `directory`, as far as it got.

    Parameters
    ----------
    directory
        Holds `run.json`; where they were begun `metrics.jsonl`, `evaluations.jsonl` and
        `samples.jsonl`; and when it ended `goodhart.json`.

    Raises
    ------
    ProbeError
        When the directory is missing, is not the output of an RL run, or is damaged.
    """
    directory = Path(directory)
    record = KIND.read(directory)
    steps = KIND.read_rows(directory / "metrics.jsonl", _step, "training step", growing=True)
    path = directory / "evaluations.jsonl"
    evaluations = KIND.read_rows(path, _evaluation, "held-out evaluation", growing=True)
    samples = KIND.read_rows(directory / "samples.jsonl", _sample, "sample", growing=True)
    run = KIND.whole(directory / KIND.file, lambda: _run(directory, record, samples))
    at = {row.step for row in samples}
    lost = [row.step for row in evaluations if row.step not in at]
    # The rows of an evaluation are written after its line: only the last can be on its way.
    if [step for step in lost if step != evaluations[-1].step]:
        raise ProbeError(
            f"{directory / 'samples.jsonl'}: has no rows of the evaluation after step {lost[0]}, "
            f"the file is partial or from another run. {KIND.again}"
        )
    whole = {row.step: row for row in evaluations if row.step not in lost}
    run = replace(
        run,
        steps=[*{row.step: row for row in steps}.values()],
        evaluations=[whole[step] for step in sorted(whole)],
    )
    return replace(run, curve=_curve(run))


def load_runs(directory: Path, compare: Sequence[Path]) -> list[RLRun]:
    """Return a run and those it is compared with, each with a name of its own.

    Raises
    ------
    ProbeError
        When one is not an RL run or is damaged, is given twice, or there are too many.
    """
    paths = [Path(directory), *(Path(path) for path in compare)]
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ProbeError(f"{path}: is given twice. Compare a run with another one.")
        seen.add(path.resolve())
    if len(paths) > MOST:
        raise ProbeError(
            f"{len(paths)} runs: are too many for one figure, expected {MOST} at most. Compare fewer."
        )
    runs = [load_rl(path) for path in paths]
    names = [path.resolve().name for path in paths]
    # Two runs of one name are told apart by the folders they lie in.
    longer = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in paths]
    return [
        replace(run, name=long if names.count(name) > 1 else name)
        for run, name, long in zip(runs, names, longer, strict=True)
    ]


def _run(directory: Path, record: dict[str, Any], samples: list[Sample]) -> RLRun:
    settings, arguments = dict(record.get("settings") or {}), record.get("arguments") or {}
    target = record.get("target") or {}
    chosen = target.get("chosen") or {}
    # Runs from before the key named one category, as an argument.
    behaviour = record.get("behaviour", arguments.get("behaviour")) or None
    optimised = record.get("optimised")
    if optimised is None:
        # The optimised heads are read first, and one is taken from every probe directory.
        names = [name.removeprefix(HEAD) for name in (samples[0].values if samples else {})
                 if name.startswith(HEAD)]  # fmt: skip
        optimised = names[: len(record.get("probes") or [1])]
    return RLRun(
        name=directory.resolve().name,
        path=directory,
        record=record,
        steps=[],
        evaluations=[],
        samples=samples,
        optimised=[str(name) for name in optimised],
        behaviour=None if behaviour is None else str(behaviour),
        chosen={
            str(value): [float(score) for score in scores if score is not None]
            for value, scores in chosen.items()
        },
        chosen_tag=target.get("tag"),
        settings=settings,
    )


def _metric(value: dict[str, Any]) -> Metric:
    return Metric(
        json_number(value["value"]), json_number(value.get("low")), json_number(value.get("high"))
    )


def _evaluation(value: dict[str, Any]) -> Evaluation:
    parts = {
        str(part): {str(name): _metric(item) for name, item in found.items()}
        for part, found in value["evaluation"].items()
    }
    if ALL not in parts:
        raise ValueError("no part holds all prompts")
    return Evaluation(int(value["step"]), parts, _alarms(value))


def _alarms(value: dict[str, Any]) -> list[str]:
    return [str(alarm) for alarm in value.get("alarms") or []]


def _numbers(value: dict[str, Any]) -> dict[str, float]:
    return {
        str(name): json_number(item)
        for name, item in value.items()
        if item is None or isinstance(item, (bool, int, float))
    }


def _step(value: dict[str, Any]) -> Step:
    refit = value.get("refit")
    return Step(
        step=int(value["step"]),
        values=_numbers(value),
        alarms=_alarms(value),
        refit=None
        if not refit
        else Refit(*(json_number(refit.get(name)) for name in Refit._fields)),
    )


def _sample(value: dict[str, Any]) -> Sample:
    category, heads = value.get("category"), value.get("heads") or {}
    return Sample(
        step=int(value["step"]),
        prompt_id=str(value["prompt_id"]),
        prompt=str(value["prompt"]),
        text=str(value["text"]),
        tags={str(tag): str(item) for tag, item in (value.get("tags") or {}).items()},
        category=None if category is None else str(category),
        values={
            **{f"{HEAD}{name}": json_number(score) for name, score in heads.items()},
            **_numbers({key: value[key] for key in value.keys() - {"step", "category"}}),
        },
    )


def _curve(run: RLRun) -> Curve | None:
    """Return goodhart.json; computed here for a run that did not get to write it."""
    path = run.path / "goodhart.json"
    if path.is_file():
        value = KIND.read_json(path)
        found = KIND.whole(path, lambda: _parsed(value))
        # One that a resumed run has gone past is not of this run's end.
        if not run.evaluations or (found.points and found.points[-1].step == run.last.step):
            return found
    return _parsed(_computed(run)) if run.compared else None


def _parsed(value: dict[str, Any]) -> Curve:
    spot = value.get("sweet_spot")
    return Curve(
        points=[
            Point(
                step=int(point["step"]),
                root_kl=json_number(point["root_kl"]),
                **{
                    name: _metric(point[name]) if point.get(name) else NO_VALUE
                    for name in ("score", "independent", "behaviour")
                },
            )
            for point in value["points"]
        ],
        sweet_spot=None if spot is None else int(spot),
        verdict=str(value["verdict"]),
        evidence=[str(line) for line in value.get("evidence") or []],
    )


def _computed(run: RLRun) -> dict[str, Any]:
    from probekit.results.rl import RLRun

    curve = RLRun(run.path, run.record).curve
    assert curve is not None
    return curve.to_json()
