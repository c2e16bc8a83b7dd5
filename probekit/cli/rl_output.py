"""What `probekit rl` prints while a run goes on and at its end, and what it sends to trackers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from probekit.cli.options import echo, echo_json, log, positive_line
from probekit.errors import OutputError
from probekit.parsing import read_json, read_jsonl


class Watch:
    """Follows a run: a line for every step and evaluation, and the trackers that are wanted."""

    def __init__(self, steps: int, folder: Path, trackers: Sequence[str] = ()) -> None:
        self.steps = steps
        self._first: tuple[int, float] | None = None
        self._events = [Events(folder / "tensorboard", name) for name in dict.fromkeys(trackers)]

    def __call__(self, row: dict[str, Any]) -> None:
        """Take one row of metrics.jsonl or evaluations.jsonl."""
        for events in self._events if "step" in row else ():
            events.write(row)
        if "note" in row:
            log(row["note"])
        elif "evaluation" in row:
            log(progress_line(row))
        else:
            log(progress_line(row, self._left(int(row["step"]))))

    def close(self) -> None:
        """Let the trackers send the rest."""
        for events in self._events:
            events.close()

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


TRACKERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Name of a tracker to the module that it is imported from."""


class Events:
    """Writes rows of a run's log as scalars to a tracker.

    Parameters
    ----------
    folder
        Where TensorBoard's files go; others get the name of the folder that it is in as the run's name.
    name
        A key of `TRACKERS`.

    Raises
    ------
    OutputError
        When the tracker is not installed.
    """

    def __init__(self, folder: Path, name: str = "tensorboard") -> None:
        try:
            self._module: Any = import_module(TRACKERS[name])
        except ImportError as error:
            raise OutputError(
                f"{name}: is not installed. Run: pip install {name}. Or leave --report-to {name} out."
            ) from error
        self._folder, self._is_files = folder, name == "tensorboard"
        self._run: Any = None

    def write(self, row: dict[str, Any]) -> None:
        """Write one row of metrics.jsonl or evaluations.jsonl."""
        step = int(row["step"])
        scalars = {
            f"step/{name}": value
            for name, value in row.items()
            if isinstance(value, (int, float)) and name != "step"
        }
        for part, metrics in row.get("evaluation", {}).items():
            scalars |= {f"{part}/{name}": found["value"] for name, found in metrics.items()}
        # Made with the first row: the run's directory has to be new when the run begins.
        if self._is_files:
            self._run = self._run or self._module.SummaryWriter(str(self._folder))
            for name, value in scalars.items():
                self._run.add_scalar(name, value, step)
            self._run.flush()
        else:
            named = {"project": "probekit", "name": self._folder.parent.name}
            self._run = self._run or self._module.init(**named)
            self._module.log(scalars, step=step)

    def close(self) -> None:
        """Let a tracker that sends send the rest."""
        if self._run is not None and not self._is_files:
            self._module.finish()
