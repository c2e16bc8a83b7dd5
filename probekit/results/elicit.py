"""What `probekit elicit` leaves: pairs, the completions they were made of, and what their words tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import TypedDict

from probekit.errors import ProbeError
from probekit.parsing import read_json
from probekit.results.intervals import Interval
from probekit.results.runs import Run
from probekit.results.table import Document, Table, measured

if TYPE_CHECKING:
    import pandas as pd

LEAKS = "leaks.json"
KEPT = "kept"
"""What stands in place of a reason where a completion was not dropped."""


class PairRow(TypedDict):
    """Two completions of a prompt."""

    id: str
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    group: str
    tags: dict[str, str]


class ElicitedRow(TypedDict):
    """A completion, how it was asked for, and whether it was kept."""

    id: str
    prompt: list[dict[str, str]]
    completion: str
    label: str
    group: str
    tags: dict[str, str]
    prompt_id: str
    variant: str
    sample: int
    finished: bool
    kept: str
    """`kept`, or the reason why it was dropped."""


class ElicitRecord(TypedDict):
    """What run.json holds beside the run record and the model's identity."""

    command: str
    recipe: dict[str, Any]
    identity: dict[str, Any]
    familiarity: dict[str, dict[str, float]] | None
    """Class to `n` and `n_kept` prompts, by how well the model knows their names."""
    known: dict[str, dict[str, int]]
    """Class to `n` and `n_kept` groups, by how many of their completions tell a fact."""
    drops: dict[str, dict[str, int]]
    """Variant to number of completions by reason."""
    n_pairs: int
    n_pairs_told_by_words: int


DOCUMENT = Document("elicit", "elicited pairs", "run.json", None, 1, ElicitRecord)
PAIRS = Table("pairs.jsonl", PairRow, "a pair", spread={"tags": "tag:"})
COMPLETIONS = Table("completions.jsonl", ElicitedRow, "a completion", spread={"tags": "tag:"})


@dataclass(frozen=True, repr=False)
class ElicitRun(Run):
    """Pairs of completions that a model wrote under conditions."""

    DOCUMENT: ClassVar[Document] = DOCUMENT

    @cached_property
    def leaks(self) -> dict[str, dict[str, Interval]]:
        """Accuracy of pairs by words (`tfidf`) and by `length` alone: of `all` and of each class."""
        leaks = read_json(self.directory / LEAKS, ProbeError, DOCUMENT.again)
        parts = {"all": leaks["total"], **leaks["by_class"]}
        return {
            part: {name: Interval.from_json(value) for name, value in features.items()}
            for part, features in parts.items()
        }

    @property
    def metrics(self) -> pd.DataFrame:
        """A row an entry of `leaks`: `part`, `measure`, `value`, `low`, `high`."""
        parts = self.leaks.items()
        return measured(["part"], [(part, *item) for part, by in parts for item in by.items()])

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a pair."""
        return PAIRS.read(self.directory, DOCUMENT.again)

    @cached_property
    def completions(self) -> pd.DataFrame:
        """A row a completion, those that were dropped too."""
        return COMPLETIONS.read(self.directory, DOCUMENT.again)

    @property
    def drops(self) -> dict[str, dict[str, float]]:
        """Variant to completions `written` and `kept`, the `share` kept, and dropped by reason."""
        drops = self.record["drops"]
        reasons = dict.fromkeys(reason for by in drops.values() for reason in by if reason != KEPT)
        table = {}
        for variant, by in drops.items():
            written, kept = sum(by.values()), by.get(KEPT, 0)
            shown = {"written": written, "kept": kept, "share": kept / written}
            table[variant] = shown | {reason: by.get(reason, 0) for reason in reasons}
        return table
