"""What `probekit rl` prints while a run goes on and at its end, and its TensorBoard events."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from probekit.cli.options import echo, echo_json, log, positive_line
from probekit.errors import OutputError, with_extra
from probekit.parsing import read_json, read_jsonl


class Watch:
    """Follows a run: a line for every step and evaluation, and TensorBoard where it is wanted."""

    def __init__(self, steps: int, events: Path | None) -> None:
        self.steps = steps
        self._first: tuple[int, float] | None = None
        self._events = Events(events) if events else None

    def __call__(self, row: dict[str, Any]) -> None:
        """Take one row of metrics.jsonl or evaluations.jsonl."""
        if self._events and "step" in row:
            self._events.write(row)
        if "note" in row:
            log(row["note"])
        elif "evaluation" in row:
            log(progress_line(row))
        else:
            log(progress_line(row, self._left(int(row["step"]))))

    def _left(self, step: int) -> str:
        """Return the place in the run and the time left, evaluations included."""
        now = time.monotonic()
        first, start = self._first = self._first or (step, now)
        if step == first:
            return f"{step}/{self.steps}"
        left = (now - start) / (step - first) * (self.steps - step)
        return f"{step}/{self.steps}, {left / 60:.1f} min left"


def finish(target: Path, *, as_json: bool) -> None:
    """Print what a run came to."""
    from probekit.reports.rl import rl_headline
    from probekit.results.goodhart import CURVE
    from probekit.results.rl_files import DOCUMENT, EVALUATIONS, SAMPLES, STEPS

    found = read_jsonl(target / EVALUATIONS.file)
    verdict = read_json(target / CURVE, OutputError, DOCUMENT.again)
    record = read_json(target / DOCUMENT.file, OutputError, DOCUMENT.again)
    positive = record["target"].get("positive_class")
    names = {
        "metrics": STEPS.file, "evaluations": EVALUATIONS.file, "samples": SAMPLES.file,
        "adapter": "checkpoint/adapter", "best": "best/adapter", "report": "report.html",
    }  # fmt: skip
    paths = {"directory": str(target), **{key: str(target / name) for key, name in names.items()}}
    if as_json:
        first, last = (found[0], found[-1]) if found else (None, None)
        return echo_json(
            {
                "first": first,
                "last": last,
                "goodhart": verdict,
                "paths": paths,
                "positive_class": positive,
            }
        )
    for line in positive_line(positive):
        echo(line)
    for row in found[:1] + found[1:][-1:]:
        echo(progress_line(row))
    end = {**verdict["points"][-1], "wanted": verdict["points"][-1]["behaviour"]}
    changes = [_written(name, end[name], sign=True) for name in ("score", "independent", "wanted")]
    echo(f"verdict  {rl_headline(verdict['verdict'])}")
    echo(f"changes  {'; '.join(filter(None, changes))}")
    for name, part in verdict.get("by_class", {}).items():  # no such key in older runs
        echo(
            f"class    {name}: {part['verdict']}; {_written('wanted', part['behaviour'], sign=True)}"
        )
    if kept := verdict.get("kept"):
        honest, own = (_written(kept["measure"], kept[key], sign=True) for key in ("honest", "own"))
        echo(
            f"kept     step {verdict['sweet_spot']}, chosen among {kept['among']} evaluations: {honest}, "
            f"cross-fitted (on the prompts that chose it {own})"
        )
    if found_best := verdict.get("best_of"):
        gap = _written("wanted", found_best["behaviour"], sign=True)
        echo(
            f"best of  {found_best['n']} before training {'has' if found_best['reached'] else 'is below'} "
            f"the score of the trained policy; trained minus picked: {gap or 'no behaviour was counted'}"
        )
    echo(f"adapter  {paths['adapter']}")
    if (target / "best").is_dir():
        echo(f"best     {paths['best']}, of step {verdict['sweet_spot']}")
    echo(f"report   {paths['report']}")


def progress_line(row: dict[str, Any], place: str = "") -> str:
    """Return the main numbers of a step or of an evaluation in a line."""
    from probekit.reports.formats import number, percent
    from probekit.results.measures import measure

    alarms = "".join(f"\n  alarm: {alarm}" for alarm in row.get("alarms", ()))
    if "evaluation" in row:
        found = row["evaluation"]["all"]
        shown = ["score", "kl", "entropy", "opening"]
        shown += [name for name in found if name.startswith("rate:")]
        words = ", ".join(_written(name, found[name]) for name in shown if name in found)
        return f"held out after {row['step']} steps: {words}{alarms}"
    # Rewards that match a distribution have a mean of 0 by construction: its distance says how far it is.
    distance = row.get("distance_to_chosen")
    aim = "reward" if distance is None else measure("rl", "distance_to_chosen").label
    parts = [
        f"score {number(row['score'], 3, sign=True)}",
        f"{aim} {number(row['reward'] if distance is None else distance, 3, sign=distance is None)}",
        f"KL {number(row['kl'], 4)}",
        f"entropy {number(row['entropy'])}",
        f"{number(row['n_tokens'], 0)} tokens",
        f"{number(row['seconds'], 1)} s",
    ]
    if "wanted" in row:
        parts.append(f"wanted {percent(row['wanted'])}")
    if "refit" in row:
        parts.append(f"refit on {row['refit']['n_outputs']} outputs")
    return f"step {place or row['step']}: {', '.join(parts)}{alarms}"


def _written(name: str, ends: dict[str, float] | None, *, sign: bool = False) -> str:
    """Return a measure with its interval; nothing where it was not taken."""
    from probekit.reports.formats import spanned
    from probekit.results.intervals import Interval
    from probekit.results.measures import measure

    what, value = measure("rl", name), Interval.from_json(ends)
    return f"{what.label} {spanned(value, what.unit, sign=sign)}" if value.known else ""


class Events:
    """Writes rows of a run's log as scalars.

    Raises
    ------
    OutputError
        When TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OutputError(
                f"tensorboard: is not installed. {with_extra('tensorboard')} Or leave --tensorboard out."
            ) from error
        self._make: Any = lambda: SummaryWriter(str(folder))
        self._writer: Any = None

    def write(self, row: dict[str, Any]) -> None:
        """Write one row of metrics.jsonl or evaluations.jsonl."""
        # Made with the first row: the run's directory has to be new when the run begins.
        self._writer = self._writer or self._make()
        step = int(row["step"])
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(f"step/{name}", value, step)
        for part, metrics in row.get("evaluation", {}).items():
            for name, found in metrics.items():
                self._writer.add_scalar(f"{part}/{name}", found["value"], step)
        self._writer.flush()
