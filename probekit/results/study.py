"""What a study left: its stages and where each stands, and the runs among their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Self

from typing_extensions import TypedDict

from probekit.errors import ProbeError
from probekit.foreign import inside
from probekit.results.runs import HEARTS, Run, open_run
from probekit.results.table import Document

if TYPE_CHECKING:
    import pandas as pd


class StageRow(TypedDict):
    """A stage of a study, as far as it got."""

    name: str
    argv: list[str]
    """Its command line."""
    output: str
    """Its file or directory, from the study's directory."""
    state: str
    """`running`, `done` or `failed`."""
    seconds: float | None
    run: int
    """Number of its last run among all runs of stages."""
    inputs: dict[str, int | str]
    """Stages that it read to the numbers of their runs; files from outside to their SHA-256."""
    version: str
    """Version of probekit that ran it."""


class StudyContent(TypedDict):
    """`study.json`: the run record of the command, and the stages that were begun."""

    study: str
    model: str
    seed: int
    quick: bool
    samples: NotRequired[int | None]
    arguments: NotRequired[dict[str, Any]]
    created: NotRequired[str]
    stages: list[StageRow]


DOCUMENT = Document("study", "a study", "study.json", None, 1, StudyContent)


@dataclass(frozen=True, repr=False)
class StudyRun(Run):
    """A study, as far as it got."""

    DOCUMENT: ClassVar[Document] = DOCUMENT

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read the directory of a study; see `open_run`."""
        run = super().open(directory)
        for stage in run.record["stages"]:
            try:
                inside(run.directory, stage["output"])
            except ValueError as error:
                raise ProbeError(
                    f"{run.directory / DOCUMENT.file}: stage {stage['name']}: {error}. {DOCUMENT.again}"
                ) from None
        return run

    @property
    def study(self) -> str:
        """Name of the study."""
        return str(self.record["study"])

    @property
    def model(self) -> str:
        """Name of the model, without the path to it."""
        return str(self.record["model"]).rstrip("/").rsplit("/", 1)[-1]

    @cached_property
    def stages(self) -> pd.DataFrame:
        """A row a stage that was begun, in order; see `StageRow`."""
        import pandas as pd

        return pd.DataFrame(self.record["stages"], columns=list(StageRow.__annotations__))

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Name of a stage to what it left, of the stages that left a run whole or, of `rl`, in part."""
        left = {}
        for stage in self.record["stages"]:
            folder, heart = self.directory / stage["output"], HEARTS.get("".join(stage["argv"][:1]))
            if heart and (folder / heart).is_file():
                left[stage["name"]] = open_run(folder)
        return left

    def state(self, name: str) -> str:
        """Return where the stages at `name` stand: `failed`, `running`, `done`, `` where there is none."""
        own = self.stages[self.stages["name"].str.split("/").str[0] == name]["state"]
        return next((state for state in ("failed", "running") if state in set(own)), "")

    @property
    def metrics(self) -> pd.DataFrame:
        """Metrics of all stages, the stage in the column `stage`."""
        import pandas as pd

        frames = [run.metrics.assign(stage=name) for name, run in self.runs.items()]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["stage"])

    @property
    def rows(self) -> pd.DataFrame:
        """The stages; the rows of each are those of `runs`."""
        return self.stages
