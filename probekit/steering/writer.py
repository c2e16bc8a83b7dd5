"""One condition: the steered model writes, the unsteered one reads, and the rows are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from probekit.behaviours import Behaviours, Judge
from probekit.container import write_jsonl
from probekit.data.rows import Example
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel
from probekit.models.sampling import Completion, sample
from probekit.models.sampling_config import SamplingConfig
from probekit.parsing import read_jsonl
from probekit.partial import PartialFolder
from probekit.results.steer import RANDOM, CompletionRow, Condition
from probekit.steering.intervention import Steering, steered
from probekit.steering.reading import Reader, Reading, distinct
from probekit.steering.vector import SteeringVector


class Journal(PartialFolder):
    """The folder `OUT.partial` of a sweep: what a killed or interrupted run has finished."""

    WORK = "steering sweep"

    def read(self, condition: Condition) -> list[dict[str, Any]] | None:
        """Return the rows of a finished condition, None for one that is still to run."""
        path = self._file(condition)
        again = "Remove it to run this condition again, or pass --force."
        return read_jsonl(path, self.ERROR, again) if path.exists() else None

    def write(self, condition: Condition, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a finished condition."""
        write_jsonl(self._file(condition), rows, seal=True)

    def set_down(self) -> None:
        """Keep the folder only when it holds a finished condition."""
        if not any(self.path.glob("*.jsonl")):
            self.remove()

    def _file(self, condition: Condition) -> Path:
        return self.path / f"{condition.name}.jsonl"


class ConditionWriter:
    """Writes and measures completions of the same prompts under any condition.

    Parameters
    ----------
    loaded
        The model.
    prompts
        Rows that end with their prompt.
    reader
        Reads the completions back.
    layer
        Layer of the probe whose score is `score`.
    where
        Tokens to steer.
    behaviours, judge
        Name what a completion does; either may be absent.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompts: Sequence[Example],
        reader: Reader,
        *,
        layer: int,
        where: str,
        behaviours: Behaviours | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.loaded, self.prompts, self.reader = loaded, list(prompts), reader
        self.rendered = [render(prompt, loaded.tokenizer) for prompt in prompts]
        self.layer, self.where, self.behaviours, self.judge = layer, where, behaviours, judge

    def write(
        self,
        condition: Condition,
        vector: SteeringVector | None,
        config: SamplingConfig,
        *,
        n_prompts: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[dict[str, Any]]:
        """Return one row for each completion, in prompt-major order.

        Parameters
        ----------
        condition
            What is done with the vector.
        vector
            None for the unsteered model.
        config
            How completions are drawn.
        n_prompts
            Only the first so many prompts.
        progress
            Told how many completions are written.
        """
        prompts = self.rendered[:n_prompts]

        def steering() -> AbstractContextManager[Steering]:
            assert vector is not None
            coeff = 0.0 if condition.coeff is None else condition.coeff
            return steered(
                self.loaded,
                vector,
                coeff,
                mode=condition.mode,
                where=self.where,
                backend=self.reader.backend,
            )

        with steering() if vector is not None else nullcontext():
            written = sample(self.loaded, prompts, config, progress=progress)
        rows = [c.rendered(prompts[c.prompt], self.loaded.turn) for c in written]
        readings = self.reader.read(
            rows, [len(c.ids) for c in written], None if vector is None else steering
        )
        rows_of_condition = [
            self._row(condition, completion, row, reading)
            for completion, row, reading in zip(written, rows, readings, strict=True)
        ]
        self.fill_gaps(rows_of_condition)
        return rows_of_condition

    def fill_gaps(self, rows: list[dict[str, Any]]) -> bool:
        """Show the judge the rows that it has not answered; return whether any were shown.

        Rows of random directions are left to the patterns: there are many, and each costs a call.
        """
        if self.judge is None or rows[0]["direction"].startswith(RANDOM):
            return False
        gaps = [row for row in rows if row["judge"] is None]
        pairs = [(row["prompt"], row["text"]) for row in gaps]
        for row, category in zip(gaps, self.judge.judge(pairs), strict=True):
            row["judge"] = category
        return bool(gaps)

    def _row(
        self, condition: Condition, written: Completion, row: Rendered, reading: Reading
    ) -> dict[str, Any]:
        prompt = self.prompts[written.prompt]
        content = row.ids[row.start : row.stop].tolist()
        text = self.loaded.tokenizer.decode(content, skip_special_tokens=True)
        question = prompt.prompt[-1].content if prompt.prompt else ""
        category = None
        if self.behaviours is not None:
            category = self.behaviours.classify(question, text)
        measured: CompletionRow = {
            "direction": condition.direction,
            "mode": condition.mode,
            "coeff": condition.coeff,
            "prompt_id": prompt.id,
            "sample": written.sample,
            "prompt": question,
            "tags": prompt.tags,
            "text": text,
            "n_tokens": len(written.ids),
            "finished": written.finished,
            "score": reading.scores[self.layer],
            "scores": {str(k): v for k, v in reading.scores.items()},
            "nll": reading.nll,
            "kl": reading.kl,
            "distinct_1": distinct(content, 1),
            "distinct_2": distinct(content, 2),
            "category": category,
            "judge": None,
        }
        return dict(measured)
