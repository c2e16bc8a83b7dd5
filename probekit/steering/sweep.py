"""`steer_sweep`: a probe's direction through all strengths beside its controls, then the figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probekit.activations.layers import parse_layers
from probekit.behaviours import Behaviours, Judge
from probekit.container import atomic_directory, write_json
from probekit.data.prompts import open_prompts
from probekit.data.rows import Example
from probekit.digests import write_digests
from probekit.errors import SteeringError
from probekit.foreign import Shown
from probekit.models.kv_cache import check_decoding
from probekit.models.load import LoadedModel, load_model
from probekit.outputs import claim
from probekit.probes.folder import Fit, fit_folder
from probekit.probes.probe import Probe
from probekit.probes.scoring import Scorer
from probekit.provenance import run_record
from probekit.results.intervals import Interval
from probekit.results.steer import (
    COMPLETIONS,
    DOCUMENT,
    LAYER,
    PROBE,
    RERANKED,
    Condition,
    SteerRun,
)
from probekit.steering.config import SteerConfig
from probekit.steering.controls import Control, control_directions, probe_directions
from probekit.steering.grid import conditions
from probekit.steering.intervention import check_fits, check_same_model
from probekit.steering.reading import Reader, residual_norms
from probekit.steering.rerank import rerank_coeff, rerank_conditions
from probekit.steering.summary import SteerSummary, judged
from probekit.steering.vector import SteeringVector
from probekit.steering.writer import ConditionWriter, Journal

Progress = Callable[[str, int, int], None]
Rows = dict[Condition, list[dict[str, Any]]]


@dataclass(frozen=True, repr=False)
class SteerResult(Shown):
    """A finished sweep.

    Examples
    --------
    >>> from probekit.data.prompts import open_prompts
    >>> from probekit.models.load import load_model
    >>> from probekit.steering import SteerConfig, steer_sweep
    >>> config = SteerConfig(coeffs="0.1", samples=1, max_new_tokens=3, random_controls=1,
    ...     shuffled_controls=0, placebo_controls=0)
    >>> prompts = open_prompts("demo:sentiment_prompts", limit=2)
    >>> result = steer_sweep(load_model("smollm2-135m"), "sweep", prompts, "steered-again", config)
    >>> sorted({condition.coeff for condition in result.rows if condition.coeff is not None})
    [0.0, 0.1]
    """

    summary: dict[str, Any]
    """The content of steer.json (docs/formats.md)."""
    rows: Rows
    """Completions of every condition."""
    reranked: Rows
    """Completions of the re-ranking; empty without one."""
    vector: SteeringVector
    """What was steered with; coefficient 1 adds exactly this."""

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        found = {name: Interval.from_json(x["slope"]) for name, x in self.summary["doses"].items()}
        slopes = {f"slope of {name}": str(x) for name, x in found.items() if x.known}
        return {"vector": self.vector, "mode": self.summary["mode"], **self.summary["n"], **slopes}

    @property
    def run(self) -> SteerRun:
        """The result as `open_run` gives it, without its files: frames, and what reports read."""
        every = COMPLETIONS.in_memory(row for part in self.rows.values() for row in part)
        return SteerRun.in_memory(self.summary, rows=every.astype({"coeff": float}))

    def figure(self, name: str = "effect") -> Any:  # noqa: ANN401 - a plotly figure
        """Return a figure of the report: `effect`, `damage`, `frontier` or another that the sweep has."""
        from probekit.reports import steer_figures

        drawn = steer_figures(self.run)
        if name not in drawn:
            raise SteeringError(
                f"figure {name!r}: is none of this sweep. Expected {', '.join(drawn)}."
            )
        return drawn[name]

    def save(self, directory: Path) -> None:
        """Write steer.json, completions.jsonl, run.json and the vector into an existing directory."""
        for table, rows in ((COMPLETIONS, self.rows), (RERANKED, self.reranked)):
            if rows:
                lines = table.lines(row for part in rows.values() for row in part)
                (directory / table.file).write_text(lines, encoding="utf-8")
        self.vector.save(directory / "vector.safetensors")
        write_json(directory / "run.json", self.summary["provenance"])
        write_json(directory / DOCUMENT.file, self.summary)
        write_digests(directory, [path.name for path in directory.glob("*.jsonl")])


def steer_sweep(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    probe: Fit,
    prompts: Sequence[Example] | Any,  # noqa: ANN401 - or any source of prompts
    out: str | Path,
    config: SteerConfig | None = None,
    *,
    vector: SteeringVector | None = None,
    behaviours: Behaviours | None = None,
    judge: Judge | None = None,
    resume: bool = False,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    progress: Progress = lambda what, done, total: None,
    finish: Callable[[Path], object] = lambda folder: None,
    **settings: Any,  # noqa: ANN401 - keys of SteerConfig
) -> SteerResult:
    """Steer a model with a probe's direction and measure what happens, against controls.

    Every finished condition is kept in `OUT.partial`, so an interrupted sweep can be resumed.

    Parameters
    ----------
    loaded
        The model that the probe was fitted on, or what `load_model` takes.
    probe
        Directory written by `probekit fit`, or what `fit_sweep` returns; its chosen probe gives
        direction and score, the same kind of probe at the other layers reads along.
    prompts
        What the model answers, or what `open_prompts` takes.
    out, config
        Directory to write; settings, whose keys are taken by name too, as in `coeffs=[0.1, 0.2]`.
    vector
        Steer along this instead of the probe's direction; the probe still keeps the score.
    behaviours, judge
        Name what a completion does.
    resume, force, arguments
        Continue an interrupted sweep, also with more coefficients or controls; replace `out`; for the run
        record, when there is more to it than the settings.
    progress
        Told `("steering", completions done, completions in all)`.
    finish
        Called with the directory before it becomes visible, for example to write a report.

    Raises
    ------
    ProbekitError
        When probe, vector, prompts or model do not fit each other, or `out` exists.

    Examples
    --------
    >>> from probekit.data.prompts import open_prompts
    >>> from probekit.models.load import load_model
    >>> from probekit.steering import SteerConfig, steer_sweep
    >>> config = SteerConfig(coeffs="0.1", samples=1, max_new_tokens=3, random_controls=1,
    ...     shuffled_controls=0, placebo_controls=0)
    >>> prompts = open_prompts("demo:sentiment_prompts", limit=2)
    >>> result = steer_sweep(load_model("smollm2-135m"), "sweep", prompts, "steered", config)
    >>> sorted({condition.direction for condition in result.rows})
    ['none', 'probe', 'random-01']
    """
    config = SteerConfig.of_keys(config, settings)
    loaded, prompts = load_model(loaded), open_prompts(prompts)
    how: Any = {"force": force, "resume": resume, "marker": DOCUMENT.file, "inputs": [probe]}
    with fit_folder(probe) as fit, claim(out, DOCUMENT.command, **how) as path:
        journal = Journal.beside(path)
        if resume:
            journal.refuse_whole(path)
        plan = _Plan.make(loaded, fit, prompts, config, vector, behaviours, judge)
        journal.open(plan.settings(), resume=resume, force=force, replaces=path.exists())
        try:
            result = plan.run(journal, progress, arguments)
            with atomic_directory(path, force=force or journal.replaces) as folder:
                result.save(folder)
                finish(folder)
        except BaseException:
            journal.set_down()
            raise
        journal.remove()
        return result


@dataclass(frozen=True)
class _Plan:
    """A sweep whose parts are known to fit each other."""

    writer: ConditionWriter
    config: SteerConfig
    path: str
    chosen: Probe
    probes: list[Probe]
    unit: SteeringVector
    """The direction with norm 1 at every steered layer."""
    controls: list[Control]
    norms: dict[int, float]
    """Mean residual norm of every steered layer at the vector's site."""
    own_norms: dict[int, float]
    """The same of the probes' layers at the probes' site, for the re-ranking; else empty."""

    @classmethod
    def make(
        cls,
        loaded: LoadedModel,
        probe: str | Path,
        prompts: Sequence[Example],
        config: SteerConfig,
        vector: SteeringVector | None,
        behaviours: Behaviours | None,
        judge: Judge | None,
    ) -> _Plan:
        """Load the probes, check everything against the model, and measure its residual norms."""
        check_decoding(loaded.model)
        if not prompts:
            raise SteeringError("prompts: there are none. Expected at least one.")
        if len({prompt.id for prompt in prompts}) < len(prompts):
            raise SteeringError("prompts: two have the same id. Ids must be unique.")
        probes, chosen = Probe.load_layers(probe), Probe.load(probe)
        Scorer(chosen, loaded, batch_tokens=config.batch_tokens)  # proves that it is their model
        reader = Reader(loaded, probes, batch_tokens=config.batch_tokens)
        n_layers = reader.backend.n_layers
        if vector is None:
            unit = probe_directions(probes, chosen, config.layers, n_layers)
        else:
            wanted = None if config.layers is None else parse_layers(config.layers, n_layers)
            unit = (vector if wanted is None else vector.only(wanted)).unit()
        check_fits(unit, reader.backend)
        check_same_model(unit, loaded)
        writer = ConditionWriter(
            loaded, prompts, reader, layer=chosen.layer, where=config.where,
            behaviours=behaviours, judge=judge,
        )  # fmt: skip

        def norms(site: str, layers: Sequence[int]) -> dict[int, float]:
            return residual_norms(
                loaded,
                writer.rendered,
                layers,
                site=site,
                backend=reader.backend,
                batch_tokens=config.batch_tokens,
            )

        own_norms = norms(chosen.site, [p.layer for p in probes]) if config.rerank else {}
        steered_norms = norms(unit.site, unit.layers)
        controls = control_directions(unit, chosen, probe, loaded, config)
        return cls(
            writer, config, str(probe), chosen, probes, unit, controls, steered_norms, own_norms
        )

    def run(
        self, journal: Journal, progress: Progress, arguments: Mapping[str, Any] | None
    ) -> SteerResult:
        """Take every direction through its strengths and compute the figures."""
        run, config, writer = (
            _Run(self.writer, journal, self.config, progress),
            self.config,
            self.writer,
        )
        scaled = self.unit.in_norms(self.norms)
        rows = run.main(scaled, {c.direction: c.vector.in_norms(self.norms) for c in self.controls})
        summary = SteerSummary(
            rows,
            self.chosen,
            self.probes,
            config,
            behaviours=writer.behaviours,
            judged=writer.judge is not None,
        )
        reranked: Rows = {}
        if config.rerank:
            probe_vectors = SteeringVector.from_probes(self.probes).in_norms(self.own_norms)
            usable = summary.usable.coeffs if config.mode != "ablate" else []
            reranked = run.rerank(probe_vectors, rerank_coeff(config, usable))
        content = summary.to_json(reranked, steered=self.unit.layers)
        content["probe"]["path"] = self.path
        content["controls"] = [control.describe(self.unit) for control in self.controls]
        content["vector"] = {
            "source": self.unit.source,
            "site": self.unit.site,
            "weights_fingerprint": self.unit.model.get("weights_fingerprint"),
            "layers": self.unit.layers,
            "norms": {layer: self.norms[layer] for layer in self.unit.layers},
        }
        content["judge"] = judged(rows, writer.judge)
        content["provenance"] = {
            **run_record("steer", dict(arguments or dataclasses.asdict(config)), seed=config.seed),
            **writer.loaded.describe(),
        }
        return SteerResult(content, rows, reranked, scaled)

    def settings(self) -> dict[str, Any]:
        """Return what must not change between an interrupted sweep and its continuation."""
        writer, config = self.writer, self.config
        rows = [
            [p.id, p.tags, r.ids.tolist()]
            for p, r in zip(writer.prompts, writer.rendered, strict=True)
        ]
        judge = writer.judge
        return {
            **{name: getattr(config, name) for name in DECISIVE},
            "probes": _digest([[str(p.cell), p.coef.tolist(), p.bias] for p in self.probes]),
            "directions": _digest([[n, v.tolist()] for n, v in self.unit.vectors.items()]),
            "shuffled": _digest(Probe.load_shuffled(self.path).tolist()),
            "prompts": _digest(rows),
            "model": writer.loaded.fingerprint,
            "weights_digest": writer.loaded.weights_digest,
            "config_hash": writer.loaded.config_hash,
            "dtype": writer.loaded.dtype,
            "behaviours": writer.behaviours and _digest(writer.behaviours.describe()),
            "judge": judge and [judge.url, judge.model],
        }


DECISIVE = (
    "where", "samples", "max_new_tokens", "temperature", "top_p", "rerank_prompts", "seed",
)  # fmt: skip
"""Settings that decide what is in a condition's rows. The others choose conditions, or batches, on
which a completion does not depend."""


class _Run:
    """Takes directions through their conditions, skipping what an earlier run has finished."""

    def __init__(
        self, writer: ConditionWriter, journal: Journal, config: SteerConfig, progress: Progress
    ) -> None:
        self.writer, self.journal, self.config = writer, journal, config
        self.progress = progress

    def main(self, vector: SteeringVector, controls: Mapping[str, SteeringVector]) -> Rows:
        """Return the rows of the probe's direction and of the controls at every strength."""
        config, directions = self.config, {PROBE: vector, **controls}
        todo = conditions(config.mode, config.grid(), list(controls))
        n = len(self.writer.prompts)
        return self._all(todo, directions, n, config.samples, "steering")

    def rerank(self, vector: SteeringVector, coeff: float) -> Rows:
        """Return the rows of every layer's own direction at plus and minus one strength."""
        directions = {f"{LAYER}{n:02d}": vector.only([n]) for n in vector.layers}
        n = min(self.config.rerank_prompts, len(self.writer.prompts))
        return self._all(rerank_conditions(vector.layers, coeff), directions, n, 1, "reranking")

    def _all(
        self,
        todo: Sequence[Condition],
        directions: dict[str, SteeringVector],
        n_prompts: int,
        samples: int,
        what: str,
    ) -> Rows:
        each = n_prompts * samples
        completed: Rows = {}
        for i, condition in enumerate(todo):
            rows = self.journal.read(condition)
            if rows is not None and self.writer.fill_gaps(rows):
                self.journal.write(condition, rows)
            if rows is None:
                rows = self.writer.write(
                    condition,
                    directions.get(condition.direction),
                    self.config.sampling(samples),
                    n_prompts=n_prompts,
                    progress=lambda done, i=i: self.progress(  # type: ignore[misc]
                        what, i * each + done, len(todo) * each
                    ),
                )
                self.journal.write(condition, rows)
                # As it was written, so that a resumed sweep gives the same to the last digit.
                rows = self.journal.read(condition) or []
            completed[condition] = rows
            self.progress(what, (i + 1) * each, len(todo) * each)
        return completed


def _digest(value: Any) -> str:  # noqa: ANN401 - a JSON value
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
