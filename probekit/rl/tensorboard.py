"""A run's metrics as TensorBoard event files, for people who watch many runs at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probekit.errors import OutputError


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
