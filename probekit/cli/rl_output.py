"""What `probekit rl` prints while a run goes on and at its end, and its TensorBoard events."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from probekit.cli.options import echo_json, log
from probekit.container import read_jsonl
from probekit.errors import OutputError


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
    found = read_jsonl(target / "evaluations.jsonl")
    summary: dict[str, Any] = {
        "first": found[0] if found else None,
        "last": found[-1] if found else None,
        "goodhart": json.loads((target / "goodhart.json").read_text(encoding="utf-8")),
        "paths": {
            "directory": str(target),
            "metrics": str(target / "metrics.jsonl"),
            "evaluations": str(target / "evaluations.jsonl"),
            "samples": str(target / "samples.jsonl"),
            "adapter": str(target / "checkpoint" / "adapter"),
            "best": str(target / "best" / "adapter"),
            "report": str(target / "report.html"),
        },
    }
    if as_json:
        return echo_json(summary)
    for row in found[:1] + found[1:][-1:]:
        click.echo(progress_line(row))
    verdict = summary["goodhart"]
    click.echo(f"verdict  {verdict['verdict']}: {'; '.join(verdict['evidence'])}")
    click.echo(f"adapter  {target / 'checkpoint' / 'adapter'}")
    if (target / "best").is_dir():
        click.echo(f"best     {target / 'best' / 'adapter'}, of step {verdict['sweet_spot']}")
    click.echo(f"report   {target / 'report.html'}")


def progress_line(row: dict[str, Any], place: str = "") -> str:
    """Return a step's or an evaluation's key figures in a line."""
    alarms = "".join(f"\n  alarm: {alarm}" for alarm in row.get("alarms", ()))
    if "evaluation" in row:
        found = row["evaluation"]["all"]
        shown = ["score", "kl", "entropy", *(name for name in found if name.startswith("rate:"))]
        words = ", ".join(
            f"{name} {found[name]['value']:.3f} [{found[name]['low']:.3f}, {found[name]['high']:.3f}]"
            for name in shown
        )
        return f"held out after {row['step']} steps: {words}{alarms}"
    refit = row.get("refit")
    words = (
        f"step {place or row['step']}: score {row['score']:+.3f}, reward {row['reward']:+.3f}, kl "
        f"{_or_dash(row['kl'])}, entropy {row['entropy']:.2f}, tokens {row['n_tokens']:.0f}, "
        f"{row['seconds']:.1f} s"
        + (f", wanted {row['wanted']:.2f}" if "wanted" in row else "")
        + (f", refit on {refit['n_outputs']} outputs" if refit else "")
    )
    return words + alarms


def _or_dash(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


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
                "tensorboard: is not installed. Run pip install 'probekit[tensorboard]', or leave "
                "--tensorboard out."
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
