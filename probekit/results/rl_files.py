"""The files that `probekit rl` leaves in a directory, declared for writer and readers."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from probekit.results.table import Document, Table

Number = float | None


class Measures(TypedDict, total=False):
    """Numbers of a completion, and their mean over a step's; see measures.toml."""

    score: Number
    score_first: Number
    disjoint: Number
    drift: Number
    mahalanobis: Number
    kl: Number
    entropy: Number
    n_tokens: Number
    finished: Number
    distinct_2: Number


class Step(Measures):
    """A training step."""

    step: int
    distance_to_chosen: NotRequired[Number]
    refit: NotRequired[dict[str, Number]]
    alarms: list[str]


class Sample(Measures):
    """A completion of a held-out prompt at an evaluation."""

    step: int
    prompt_id: str
    prompt: str
    tags: dict[str, str]
    text: str
    heads: dict[str, Number]
    placebos: NotRequired[dict[str, Number]]
    category: str | None
    wanted: Number


class Evaluation(TypedDict):
    """Every measure after a number of steps: part to measure to `value`, `low`, `high`."""

    step: int
    evaluation: dict[str, dict[str, dict[str, Number]]]
    alarms: list[str]


class Record(TypedDict):
    """Keys of run.json that readers need."""

    command: str
    seed: int | None
    settings: dict[str, Any]
    labels: NotRequired[dict[str, str]]
    probes: list[str]
    behaviour: str | None
    optimised: list[str]
    target: dict[str, Any]
    n_train: int
    n_held_out: int
    n_trainable: int


DOCUMENT = Document("rl", "an RL run", "run.json", None, 1, Record)
STEPS = Table("metrics.jsonl", Step, "a training step", growing=True)
EVALUATIONS = Table("evaluations.jsonl", Evaluation, "a held-out evaluation", growing=True)
SPREAD = {"heads": "head:", "placebos": "placebo:", "tags": "tag:"}
SAMPLES = Table("samples.jsonl", Sample, "a sample", growing=True, spread=SPREAD)
BEST_OF = Table("best_of.jsonl", Sample, "a sample", spread=SPREAD)
