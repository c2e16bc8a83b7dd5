"""The figures of a sweep out of its completions: what steer.json says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from probekit.behaviours import Behaviours, Judge
from probekit.container import as_json
from probekit.probes.metrics import PRIMARY
from probekit.probes.probe import Probe
from probekit.results.intervals import Array, Interval
from probekit.results.measures import measure as named
from probekit.results.steer import BASELINE, CONTROLS, DOCUMENT, PROBE, Condition
from probekit.steering.config import SteerConfig
from probekit.steering.dose import (
    Doses,
    Statistic,
    Usable,
    minus_baseline,
    rank_p,
    slope_parts,
    statistics_of,
    usable_range,
)
from probekit.steering.rerank import rank_layers

UNITS = {
    "label": "log-odds",
    "rating": "ratings mapped to [-1, 1]",
    "pair": "log-odds of being preferred",
}
Rows = Mapping[Condition, Sequence[Mapping[str, Any]]]


class SteerSummary:
    """Everything that is computed from the completions.

    Parameters
    ----------
    rows
        Completions of every condition.
    chosen
        The probe whose score is `score`.
    probes
        The probes of all layers.
    config
        Settings of the sweep.
    behaviours
        Whose categories the rows carry.
    judged
        Whether a judge named them too.
    """

    def __init__(
        self,
        rows: Rows,
        chosen: Probe,
        probes: Sequence[Probe],
        config: SteerConfig,
        *,
        behaviours: Behaviours | None = None,
        judged: bool = False,
    ) -> None:
        self.rows, self.chosen, self.probes, self.config = rows, chosen, probes, config
        self.doses = Doses(rows, seed=config.seed)
        categories = behaviours.names if behaviours else []
        layers = [probe.layer for probe in probes]
        self.measures = statistics_of(layers, chosen.layer, categories, judged=judged)
        self.by_name = {measure.name: measure for measure in self.measures}
        names = list(dict.fromkeys(c.direction for c in rows if c.control))
        self.controls = {
            kind: [name for name in names if name.startswith(start)]
            for kind, start in CONTROLS.items()
        }

    @cached_property
    def usable(self) -> Usable:
        """The strengths whose damage stays within the bound."""
        curve = {c: self._at(PROBE, c) for c in self.config.grid()}
        return usable_range(self.doses, curve, self.by_name, self.config.damage_bound)

    def to_json(self, reranked: Rows, *, steered: Sequence[int]) -> dict[str, Any]:
        """Return steer.json without what only the run knows (paths, norms, provenance)."""
        config, first = self.config, self.rows[BASELINE]
        sweeps = config.mode != "ablate"
        return {
            **DOCUMENT.header,
            "probe": self._probe(),
            "settings": dataclasses.asdict(config),
            "labels": config.labels(),
            "mode": config.mode,
            "where": config.where,
            "coeffs": config.grid(),
            "n": {
                "prompts": len({row["prompt_id"] for row in first}),
                "samples": config.samples,
                **{f"{kind}_controls": len(names) for kind, names in self.controls.items()},
                "completions": sum(len(condition_rows) for condition_rows in self.rows.values()),
            },
            "seed": config.seed,
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "damage_bound": config.damage_bound,
            "measures": [self._describe(measure) for measure in self.measures],
            "conditions": [self._condition(condition) for condition in self.rows],
            "doses": {m.name: self._dose(m) for m in self.measures} if sweeps else None,
            "usable": self._usable() if sweeps else None,
            "ablation": {m.name: self._ablation(m) for m in self.measures},
            "rerank": self._rerank(reranked, steered) if reranked else None,
            "reference": self._reference(),
        }

    def _at(self, direction: str, coeff: float) -> Condition:
        return Condition.at(direction, self.config.mode, coeff)

    def _describe(self, measure: Statistic) -> dict[str, Any]:
        """Return what a reader of the numbers has to know; scores have the unit of the probe's data."""
        shown = named("steer", measure.name)
        label, unit = shown.label, shown.unit
        if measure.group in ("effect", "layers"):
            layer = self.chosen.layer if measure.layer is None else measure.layer
            label, unit = named("steer", f"score@{layer}").label, UNITS[self.chosen.data_kind]
        entry = {"name": measure.name, "label": label, "unit": unit, "group": measure.group}
        return entry if measure.layer is None else {**entry, "layer": measure.layer}

    def _probe(self) -> dict[str, Any]:
        probe, primary = self.chosen, PRIMARY[self.chosen.data_kind]
        metric = probe.metrics.get(primary)
        return {
            "kind": probe.kind,
            "head": probe.head,
            **probe.cell._asdict(),
            "data_kind": probe.data_kind,
            "classes": probe.classes,
            "positive_class": probe.positive_class,
            "score_range": probe.score_range,
            "metric": None if metric is None else {"name": primary, **metric},
        }

    def _condition(self, condition: Condition) -> dict[str, Any]:
        doses, measures = self.doses, self.measures
        return {
            **condition._asdict(),
            "n": len(self.rows[condition]),
            "n_scored": doses.n_known(self.by_name["score"], condition),
            "values": as_json({m.name: doses.value(m, condition) for m in measures}),
            "differences": as_json({m.name: doses.difference(m, condition) for m in measures}),
        }

    def _dose(self, measure: Statistic) -> dict[str, Any]:
        """Return the slope over the usable strengths and its place among the control directions.

        Fewer than three usable strengths make no slope; the three nearest to 0 are taken then,
        and `coeffs` says so.
        """
        coeffs = self.usable.coeffs
        if len(coeffs) < 3:
            coeffs = sorted(sorted(self.config.grid(), key=abs)[:3])

        def slope(direction: str) -> tuple[list[Condition], Array]:
            curve = [self._at(direction, coeff) for coeff in coeffs]
            return curve, slope_parts(curve)

        effect, against = self._against(measure, slope)
        return {"slope": effect.to_json(), **against, "coeffs": coeffs}

    def _ablation(self, measure: Statistic) -> dict[str, Any]:
        effect, against = self._against(
            measure, lambda name: minus_baseline(Condition(name, "ablate", None))
        )
        return {"difference": effect.to_json(), **against}

    def _against(
        self, measure: Statistic, of: Callable[[str], tuple[list[Condition], Array]]
    ) -> tuple[Interval, dict[str, Any]]:
        """Return an effect of the probe's direction, and how it stands among the controls.

        `over` is the size of the effect minus that of the strongest shuffled or placebo direction,
        paired over prompts. Taking the strongest of several is to the effect's disadvantage.
        """
        effect = self.doses.combine(measure, *of(PROBE))
        values = {
            kind: {name: self.doses.combine(measure, *of(name)).value for name in names}
            for kind, names in self.controls.items()
        }
        entry: dict[str, Any] = {kind: [*each.values()] for kind, each in values.items()}
        entry["p"] = rank_p(effect.value, entry["random"])
        entry["p_shuffled"] = rank_p(effect.value, entry["shuffled"])
        rivals = {n: v for n, v in {**values["shuffled"], **values["placebo"]}.items() if v == v}
        if rivals and effect.known:
            name = max(rivals, key=lambda rival: abs(rivals[rival]))
            parts = [
                (conditions, np.copysign(1.0, value) * factors)
                for (conditions, factors), value in (
                    (of(PROBE), effect.value),
                    (of(name), -rivals[name]),
                )
            ]
            both = [*parts[0][0], *parts[1][0]]
            margin = self.doses.combine(measure, both, np.concatenate([p[1] for p in parts]))
            entry["over"] = {"direction": name, **margin.to_json()}
        return effect, entry

    def _usable(self) -> dict[str, Any]:
        coeffs, reasons = self.usable
        return {
            "low": min(coeffs, default=None),
            "high": max(coeffs, default=None),
            "coeffs": coeffs,
            "bound": self.config.damage_bound,
            "reasons": {f"{coeff:.10g}": words for coeff, words in sorted(reasons.items())},
        }

    def _rerank(self, rows: Rows, steered: Sequence[int]) -> dict[str, Any]:
        return rank_layers(
            rows,
            self.probes,
            self.by_name["score"],
            self.by_name["kl"],
            primary=PRIMARY[self.chosen.data_kind],
            steered=steered,
            seed=self.config.seed,
        )

    def _reference(self) -> list[dict[str, Any]] | None:
        """Return mean and spread of the probe's scores on its own data, by side or class."""
        parts = self.chosen.distributions.get("all")
        if not parts:
            return None
        return [
            {"name": name, "mean": float(np.mean(scores)), "sd": float(np.std(scores))}
            for name, scores in parts.items()
            if len(scores)
        ]


def judged(
    rows: Mapping[Condition, list[dict[str, Any]]], judge: Judge | None
) -> dict[str, Any] | None:
    """Return how many completions a judge was shown, and how often it agreed with the patterns."""
    if judge is None:
        return None
    steered_rows = [
        r for c, condition_rows in rows.items() if not c.control for r in condition_rows
    ]
    answered = [row for row in steered_rows if row["judge"] is not None]
    same = [row["judge"] == row["category"] for row in answered if row["category"] is not None]
    return {
        "url": judge.url,
        "model": judge.model,
        "asked": len(steered_rows),
        "answered": len(answered),
        "failed": len(steered_rows) - len(answered),
        "problem": judge.problem,
        "agreement": float(np.mean(same)) if same else None,
    }
