"""What `probekit steer` leaves: files declared once, read as frames, changes with a verdict each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, NotRequired

from typing_extensions import TypedDict

from probekit.errors import ProbeError
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.measures import Measure, measure
from probekit.results.runs import Run
from probekit.results.table import Document, Ends, Table, measured, numbers

if TYPE_CHECKING:
    import pandas as pd

PROBE, RANDOM, SHUFFLED, PLACEBO, LAYER = "probe", "random-", "shuffled-", "placebo-", "layer-"
"""Names of directions: the steered one, and what those of controls and of a re-ranking begin with."""
CONTROLS = {"random": RANDOM, "shuffled": SHUFFLED, "placebo": PLACEBO}
"""Kinds of control directions: random, of shuffled labels, of unrelated contrasts."""
FEWEST_CONTROLS = 39
"""Controls from which on a rank can support a two-sided 95 % statement."""


class Condition(NamedTuple):
    """One way to write: which direction, what is done with it, how strongly."""

    direction: str
    """`none`, `probe`, `random-01`, `shuffled-01`, `placebo-NAME`, or in a re-ranking `layer-07`."""
    mode: str
    """`none`, `add`, `ablate` or `clamp`."""
    coeff: float | None
    """None for ablate, which has no strength."""

    @classmethod
    def at(cls, direction: str, mode: str, coeff: float) -> Condition:
        """Return the condition of a strength: adding nothing is the unsteered model."""
        return BASELINE if coeff == 0 and mode != "clamp" else cls(direction, mode, coeff)

    @property
    def name(self) -> str:
        """A name for files and messages."""
        strength = "" if self.coeff is None else f"_{self.coeff!r}"
        return f"{self.direction}_{self.mode}{strength}"

    @property
    def control(self) -> str:
        """The kind of control direction that is steered along, or nothing."""
        return next((k for k, start in CONTROLS.items() if self.direction.startswith(start)), "")


BASELINE = Condition("none", "none", 0.0)
"""The unsteered model."""
ABLATED = Condition(PROBE, "ablate", None)
"""The model with the probe's direction projected out."""


class _Condition(TypedDict):
    direction: str
    mode: str
    coeff: float | None
    n: int
    n_scored: int
    values: dict[str, Ends]
    differences: dict[str, Ends]


class _Change(TypedDict):
    slope: NotRequired[Ends]
    difference: NotRequired[Ends]
    random: list[float | None]
    shuffled: NotRequired[list[float | None]]
    placebo: NotRequired[list[float | None]]
    p: float | None
    p_shuffled: NotRequired[float | None]
    over: NotRequired[Annotated[dict[str, Any], numbers("direction")]]
    coeffs: NotRequired[list[float]]


class SteerRecord(TypedDict):
    """What steer.json holds; see docs/formats.md."""

    probe: dict[str, Any]
    settings: NotRequired[dict[str, Any]]
    labels: NotRequired[dict[str, str]]
    mode: Literal["add", "clamp", "ablate"]
    where: str
    coeffs: list[float]
    n: dict[str, int]
    seed: int
    max_new_tokens: int
    temperature: float
    top_p: float
    damage_bound: float
    measures: list[dict[str, Any]]
    conditions: list[_Condition]
    doses: dict[str, _Change] | None
    usable: Annotated[dict[str, Any], numbers("reasons")] | None
    ablation: dict[str, _Change]
    rerank: Annotated[dict[str, Any], numbers("metric", "measure")] | None
    reference: Annotated[list[dict[str, Any]], numbers("name")] | None
    vector: dict[str, Any]
    controls: NotRequired[Annotated[list[dict[str, Any]], numbers("direction", "what")]]
    judge: dict[str, Any] | None
    provenance: dict[str, Any]


class CompletionRow(TypedDict):
    """A completion and what was read from it."""

    direction: str
    mode: str
    coeff: float | None
    prompt_id: str
    sample: int
    prompt: str
    tags: dict[str, str]
    text: str
    n_tokens: int
    finished: bool
    score: float | None
    scores: dict[str, float | None]
    nll: float | None
    kl: float | None
    distinct_1: float | None
    distinct_2: float | None
    category: str | None
    judge: str | None


DOCUMENT = Document("steer", "a steering run", "steer.json", "probekit.steer", 1, SteerRecord)
SPREAD = {"tags": "tag:", "scores": "score@"}
COMPLETIONS = Table("completions.jsonl", CompletionRow, "a completion", spread=SPREAD)
RERANKED = Table("rerank.jsonl", CompletionRow, "a completion", spread=SPREAD)


class Change(NamedTuple):
    """How far a measure moves: its slope over the coefficients, or its difference under ablation."""

    interval: Interval = NO_VALUE
    controls: Mapping[str, tuple[float, ...]] = {}
    """The same along each control direction that has a value, by their kind."""
    p: float | None = None
    """Rank of the size among the random directions."""
    p_shuffled: float | None = None
    """Rank of the size among the directions of shuffled labels."""
    over: Interval = NO_VALUE
    """Size of the change minus that along the strongest shuffled or placebo direction, paired."""
    rival: str = ""
    """Name of that direction."""
    coeffs: tuple[float, ...] = ()
    """Those that a slope was fitted on."""

    def ends(self, kind: str) -> list[Interval]:
        """Return the lowest and the highest along the controls of a kind."""
        values = self.controls.get(kind, ())
        return [Interval(end) for end in sorted({min(values), max(values)})] if values else []

    def as_large(self, *kinds: str) -> int:
        """Return how many controls (of some kinds) move the measure at least as far."""
        values = [v for kind in kinds or self.controls for v in self.controls.get(kind, ())]
        return sum(abs(value) >= abs(self.interval.value) for value in values)

    @property
    def times(self) -> float:
        """Size of the change in parts of that along the strongest shuffled or placebo direction."""
        rest = abs(self.interval.value) - self.over.value
        return abs(self.interval.value) / rest if rest > 0 else math.nan

    @property
    def n_controls(self) -> int:
        """How many controls have a value."""
        return sum(map(len, self.controls.values()))

    @property
    def verdict(self) -> str:
        """What the interval and the controls say, as a key.

        `unknown` (no interval), `not shown` (0 lies in it), `uncontrolled` (no control direction),
        `shared` (a control moves the measure as far, or the strongest shuffled or placebo direction
        is not shown to move it less) or `specific`.
        """
        if not self.interval.has_interval:
            return "unknown"
        if not self.interval.side():
            return "not shown"
        if not self.n_controls:
            return "uncontrolled"
        beaten = not self.over.known or self.over.side() > 0
        return "specific" if beaten and not self.as_large() else "shared"


class SteerRun(Run):
    """A steering sweep: every measure under every condition, the changes, and the completions."""

    DOCUMENT: ClassVar[Document] = DOCUMENT

    @cached_property
    def conditions(self) -> dict[Condition, dict[str, Any]]:
        """Entries of steer.json by their condition, the unsteered model among them."""
        conditions = {
            Condition(entry["direction"], entry["mode"], entry["coeff"]): entry
            for entry in self.record["conditions"]
        }
        if BASELINE not in conditions:
            raise ProbeError(
                f"{self.directory / DOCUMENT.file}: no condition is unsteered, expected one to "
                f"compare with. {DOCUMENT.again}"
            )
        return conditions

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a number with its interval, and `p` of a slope or an ablation.

        `quantity` is `value` or `difference` under a condition (`direction`, `mode`, `coeff`),
        `slope`, `ablation` or `ranking`.
        """
        rows: list[tuple[Any, ...]] = []
        p: dict[int, float] = {}
        for condition, entry in self.conditions.items():
            for quantity in ("value", "difference"):
                rows += [(quantity, *condition, *item) for item in entry[f"{quantity}s"].items()]
        for quantity, mode in (("slope", self.record["mode"]), ("ablation", "ablate")):
            for name, entry in self._changes(quantity).items():
                p[len(rows)] = entry["p"]
                ends = entry["slope" if quantity == "slope" else "difference"]
                rows.append((quantity, PROBE, mode, None, name, ends))
                for kind, names in self.controls.items():
                    each = zip(names, entry.get(kind, ()), strict=False)
                    rows += [(quantity, at, mode, None, name, {"value": v}) for at, v in each]
        rerank = self.record["rerank"] or {"rows": ()}
        for row in rerank["rows"]:
            at = ("ranking", f"{LAYER}{row['layer']:02d}", "add", rerank["coeff"])
            rows += [(*at, name, row[name]) for name in ("metric", "effect", "damage", "ratio")]
        frame = measured(["quantity", *Condition._fields], rows)
        return frame.assign(p=[p.get(i) for i in frame.index]).astype({"coeff": float, "p": float})

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a completion; `tag:NAME` and `score@LAYER` are columns, `coeff` is NaN for ablate."""
        n = self.record["n"]["completions"]
        return COMPLETIONS.read(self.directory, DOCUMENT.again, n).astype({"coeff": float})

    @property
    def ablate_only(self) -> bool:
        """Whether the direction was only projected out, so that there is no coefficient."""
        return bool(self.record["mode"] == "ablate")

    @cached_property
    def controls(self) -> dict[str, list[str]]:
        """Names of the control directions by their kind; a kind that was not run is absent."""
        found: dict[str, list[str]] = {}
        for kind, name in dict.fromkeys((c.control, c.direction) for c in self.conditions):
            if kind:
                found.setdefault(kind, []).append(name)
        return found

    @property
    def n_controls(self) -> int:
        """How many control directions there are."""
        return sum(map(len, self.controls.values()))

    @cached_property
    def placebos(self) -> dict[str, dict[str, Any]]:
        """What is known of the placebos: `what` they are, `cosine`, `held_out`."""
        entries = self.record.get("controls", ())
        return {e["direction"]: e for e in entries if e["direction"].startswith(PLACEBO)}

    @property
    def own_direction(self) -> bool:
        """Whether the direction is that of probes, not one from elsewhere."""
        source = self.record["vector"]["source"]
        return source == "probe" or " probe at " in source

    @property
    def usable(self) -> list[float]:
        """Coefficients at which the text is not damaged."""
        return list((self.record["usable"] or {"coeffs": ()})["coeffs"])

    @property
    def ends(self) -> tuple[Condition, Condition]:
        """The probe's direction at the lowest and the highest usable coefficient, or at 0."""
        mode, usable = self.record["mode"], (0.0, *self.usable)
        return Condition.at(PROBE, mode, min(usable)), Condition.at(PROBE, mode, max(usable))

    @property
    def slopes_on_damaged(self) -> bool:
        """Whether slopes rest on more than the usable coefficients, which were too few."""
        return not set(self.change("score").coeffs) <= set(self.usable)

    @property
    def smallest_p(self) -> float:
        """Smallest p that a rank among the random directions can give."""
        return 1 / (1 + len(self.controls.get("random", ())))

    @property
    def incomplete(self) -> list[Measure]:
        """Measures without a value under some condition of the probe's direction."""
        own = [condition for condition in self.conditions if condition.direction == PROBE]
        measures = self.measures("effect", "behaviour", "damage")
        return [m for m in measures if not all(self.value(m.name, c).known for c in own)]

    @cached_property
    def texts(self) -> dict[str, float]:
        """Number of completions, of `empty` ones, and the share that was `cut` at the limit."""
        empty, cut = self.rows["text"].str.strip() == "", ~self.rows["finished"].astype(bool)
        return {"n": len(empty), "empty": int(empty.sum()), "cut": float(cut.mean())}

    def measures(self, *groups: str) -> list[Measure]:
        """Return the measures of the groups `effect`, `layers`, `behaviour` or `damage`."""
        return [
            replace(measure("steer", entry["name"]), label=entry["label"], unit=entry["unit"])
            for entry in self.record["measures"]
            if entry["group"] in groups
        ]

    def curve(self, direction: str = PROBE) -> list[Condition]:
        """Return a direction's conditions by coefficient, the unsteered model at 0."""
        mode, coeffs = self.record["mode"], sorted(self.record["coeffs"])
        curve = [Condition.at(direction, mode, coeff) for coeff in coeffs]
        return [condition for condition in curve if condition in self.conditions]

    def value(self, name: str, condition: Condition = BASELINE, of: str = "values") -> Interval:
        """Return a measure under a condition, or its `differences` from the unsteered model."""
        return Interval.from_json(self.conditions.get(condition, {of: {}})[of].get(name))

    def ratio(self, name: str, condition: Condition) -> Interval:
        """Return a measure under a condition in parts of what it is unsteered, without an interval."""
        base = self.value(name).value
        return Interval(self.value(name, condition).value / base) if base else NO_VALUE

    def change(self, name: str, quantity: str | None = None) -> Change:
        """Return a measure's `slope` or `ablation`; by default what the run's mode gives."""
        quantity = quantity or ("ablation" if self.ablate_only else "slope")
        entry = self._changes(quantity).get(name)
        if entry is None:
            return Change()
        controls = {
            kind: tuple(value for value in entry.get(kind, ()) if value is not None)
            for kind in CONTROLS
        }
        return Change(
            Interval.from_json(entry["slope" if quantity == "slope" else "difference"]),
            {kind: values for kind, values in controls.items() if values},
            entry["p"],
            entry.get("p_shuffled"),
            Interval.from_json(entry.get("over")),
            entry.get("over", {}).get("direction", ""),
            tuple(entry.get("coeffs", ())),
        )

    def _changes(self, quantity: str) -> dict[str, dict[str, Any]]:
        return dict(self.record["doses" if quantity == "slope" else "ablation"] or {})

    @cached_property
    def layers(self) -> dict[int, Change]:
        """Change that the probe of each layer reads."""
        layers = sorted(item["layer"] for item in self.record["measures"] if "layer" in item)
        return {layer: self.change(f"score@{layer}") for layer in layers}

    @property
    def agreeing_layers(self) -> tuple[int, int]:
        """How many layers read the score's change, beyond every control; of how many."""
        known = [change for change in self.layers.values() if change.interval.has_interval]
        side = -1 if self.change("score").interval.value < 0 else 1
        agree = [c for c in known if c.interval.side() == side and not c.as_large()]
        return len(agree), len(known)

    @property
    def best_layers(self) -> tuple[int | None, int | None]:
        """Layers of the largest effect for its damage (shown not to be 0) and of the best metric."""
        rows = (self.record["rerank"] or {"rows": ()})["rows"]
        ranks = {row["rank"]: row["layer"] for row in rows if row["established"]}
        known = [row for row in rows if Interval.from_json(row["metric"]).known]
        best = max(known, key=lambda row: row["metric"]["value"], default={"layer": None})
        return ranks.get(1), best["layer"]
