"""Read the directory of a study; a stage that left nothing is named, one that is damaged is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from probekit.errors import ProbeError
from probekit.reports.dynamics_rows import load_dynamics
from probekit.reports.load import load_sweep
from probekit.reports.output import Kind, json_number
from probekit.reports.rl_load import MOST, load_rl
from probekit.reports.rl_rows import RLRun
from probekit.reports.rows import NO_VALUE, Metric, Sweep
from probekit.reports.steer_load import load_steer
from probekit.reports.study_rows import CLASS, Answer, Elicitation, Pair, Size, Stage, Study

STUDY = "knowledge-awareness"
ARMS = ("max-unbalanced", "max", "chosen", "refits")
"""The order in which RL runs are shown; runs of other names come after."""
TOTAL = "all"

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class _Study(Kind):
    """A study's record has no format of its own; it says which study it is of."""

    def _check_header(self, path: Path, value: dict[str, Any]) -> None:
        if value.get("study") != STUDY:
            raise ProbeError(
                f"{path}: is of the study {value.get('study')!r}, expected {STUDY!r}. {self.give}"
            )


KIND = _Study(f"study {STUDY}", "a study", "study.json", "probekit.study", 1)


def load_study(directory: Path) -> Study:
    """Return what the study left in `directory`, as far as it got.

    Raises
    ------
    ProbeError
        When the directory is missing, is not that of the study, or a stage in it is damaged.
    """
    directory = Path(directory)
    record = KIND.read(directory)
    path = directory / KIND.file
    stages = KIND.whole(path, lambda: [_stage(item) for item in record.get("stages") or []])
    absent: dict[str, str] = {}

    def read(name: str, heart: str, load: Callable[[Path], _Found]) -> _Found | None:
        if (directory / name / heart).is_file():
            return load(directory / name)
        absent[name] = _why(name, stages)
        return None

    groups = _prompts(directory / "prompts")
    found = Study(
        path=directory,
        record=record,
        stages=stages,
        elicitation=read("elicit", "pairs.jsonl", _elicitation),
        linear=read("fit", "sweep.json", _pairs_fit),
        projection=read("projection", "sweep.json", _pairs_fit),
        dynamics=read("dynamics", "dynamics.json", load_dynamics),
        steer=read("steer", "steer.json", load_steer),
        arms=_arms(directory / "rl"),
        before=read("ood", "before.jsonl", lambda at: _answers(at / "before.jsonl")) or (),
        after=_after(directory / "ood"),
        sizes={name: Size(len(found), len(set(found))) for name, found in groups.items()},
        shared=len(set.intersection(*map(set, groups.values()))) if len(groups) > 1 else 0,
        absent=absent,
    )
    if not found.arms:
        absent["rl"] = _why("rl", stages)
    elif found.before and not found.after:
        absent["ood"] = "there are no answers after training"
    return found


def _why(name: str, stages: list[Stage]) -> str:
    own = [stage for stage in stages if stage.name.startswith(name)]
    for state in ("failed", "running"):
        if any(stage.state == state for stage in own):
            return f"the stage {'failed' if state == 'failed' else 'still runs, or was stopped'}"
    return "it left nothing" if own else "it was not run"


def _stage(value: dict[str, Any]) -> Stage:
    return Stage(
        name=str(value["name"]),
        argv=tuple(str(item) for item in value.get("argv") or ()),
        seconds=json_number(value.get("seconds")),
        state=str(value.get("state") or ""),
    )


def _pairs_fit(folder: Path) -> Sweep:
    found = load_sweep(folder)
    if found.data_kind != "pair":
        raise ProbeError(
            f"{folder}: is a fit of {found.data_kind} data, expected one of pairs. {KIND.again}"
        )
    return found


def _elicitation(folder: Path) -> Elicitation:
    run = KIND.read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    leaks = KIND.read_json(folder / "leaks.json") if (folder / "leaks.json").is_file() else {}
    drops = run.get("drops") or _counted(folder / "completions.jsonl")
    return Elicitation(
        pairs=KIND.read_rows(folder / "pairs.jsonl", _pair, "pair"),
        drops=KIND.whole(folder / "run.json", lambda: _counts(drops)),
        leaks=KIND.whole(folder / "leaks.json", lambda: _leaks(leaks)),
        recipe=dict(run.get("recipe") or {}),
        familiarity=KIND.whole(folder / "run.json", lambda: dict(run.get("familiarity") or {})),
        known=KIND.whole(folder / "run.json", lambda: dict(run.get("known") or {})),
        told_by_words=KIND.whole(
            folder / "run.json", lambda: int(run.get("n_pairs_told_by_words") or 0)
        ),
    )


def _counted(path: Path) -> dict[str, dict[str, int]]:
    """Return kept and dropped completions from the completions themselves."""
    found: dict[str, dict[str, int]] = {}
    rows = KIND.read_rows(path, lambda row: (row["variant"], row["kept"]), "completion",
                          growing=True)  # fmt: skip
    for variant, kept in rows:
        counts = found.setdefault(variant, {})
        counts[kept] = counts.get(kept, 0) + 1
    return found


def _counts(value: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {
        str(variant): {str(reason): int(n) for reason, n in counts.items()}
        for variant, counts in value.items()
    }


def _leaks(value: Mapping[str, Any]) -> dict[str, dict[str, Metric]]:
    parts = {**(value.get("by_class") or {})}
    if value.get("total"):
        parts = {TOTAL: value["total"], **parts}
    return {
        str(part): {str(name): _metric(item) for name, item in found.items()}
        for part, found in parts.items()
    }


def _metric(value: dict[str, Any] | None) -> Metric:
    if value is None:
        return NO_VALUE
    return Metric(
        json_number(value["value"]), json_number(value.get("low")), json_number(value.get("high"))
    )


def _tags(value: dict[str, Any]) -> dict[str, str]:
    return {str(tag): str(item) for tag, item in (value.get("tags") or {}).items()}


def _text(prompt: Any) -> str:  # noqa: ANN401 - a JSON value
    """Return the last turn of a prompt, which is text or a list of messages."""
    if isinstance(prompt, list):
        return str(prompt[-1]["content"]) if prompt else ""
    return str(prompt or "")


def _pair(value: dict[str, Any]) -> Pair:
    return Pair(
        _text(value["prompt"]), str(value["chosen"]), str(value["rejected"]), str(value["group"]),
        _tags(value),
    )  # fmt: skip


def _answer(value: dict[str, Any]) -> Answer:
    tags = _tags(value)
    return Answer(
        id=str(value["id"]),
        group=str(value.get("group") or value["id"]),
        value=tags[CLASS],
        topic=tags.get("topic", ""),
        category=tags["category"],
    )


def _answers(path: Path) -> list[Answer]:
    return KIND.read_rows(path, _answer, "completion")


def _arms(folder: Path) -> list[RLRun]:
    names = [path.name for path in sorted(folder.glob("*")) if (path / "run.json").is_file()]
    return [load_rl(folder / name) for name in _ordered(names)[:MOST]]


def _after(folder: Path) -> dict[str, list[Answer]]:
    names = [path.stem for path in sorted(folder.glob("*.jsonl")) if path.stem != "before"]
    return {name: _answers(folder / f"{name}.jsonl") for name in _ordered(names)[:MOST]}


def _ordered(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: ARMS.index(name) if name in ARMS else len(ARMS))


def _prompts(folder: Path) -> dict[str, list[str]]:
    """Return the groups of the prompts of RL, by what they were for."""
    return {
        name: KIND.read_rows(folder / f"{name}.jsonl", lambda row: str(row["group"]), "prompt")
        for name in ("train", "held_out")
        if (folder / f"{name}.jsonl").is_file()
    }
