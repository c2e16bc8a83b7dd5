"""Layers ranked by what steering at them does, beside how well their probes predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from probekit.probes.probe import Probe
from probekit.results.intervals import Array, Resampler
from probekit.results.steer import LAYER, Condition
from probekit.steering.config import SteerConfig
from probekit.steering.dose import Doses, Statistic


def rerank_coeff(config: SteerConfig, usable: Sequence[float]) -> float:
    """Return the strength of the re-ranking: as asked, or half of what is usable.

    Half of the smaller side, of those that the grid has, because other layers may be more fragile
    than the probe's own. Half the smallest strength of the grid where none was usable; 0.1 for
    modes other than add, whose coefficients are no strengths to add.
    """
    if config.rerank_coeff is not None:
        return config.rerank_coeff
    if config.mode != "add":
        return 0.1
    grid = config.grid()
    sides = [-min(usable, default=0.0)] if grid[0] < 0 else []
    sides += [max(usable, default=0.0)] if grid[-1] > 0 else []
    return max(min(sides), min(abs(c) for c in grid if c)) / 2


def rerank_conditions(layers: Sequence[int], coeff: float) -> list[Condition]:
    """Return both signs of the strength at every layer."""
    return [
        Condition(f"{LAYER}{layer:02d}", "add", sign * coeff)
        for layer in layers
        for sign in (1, -1)
    ]


def rank_layers(
    rows: Mapping[Condition, Sequence[Mapping[str, Any]]],
    probes: Sequence[Probe],
    score: Statistic,
    kl: Statistic,
    *,
    primary: str,
    steered: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Return every layer's predictive metric, causal effect, damage and their ratio, ranked.

    The effect of a layer is half the difference of the chosen probe's clean score between the two
    strengths, its damage the mean KL to the unsteered model in nats per token, and the ratio the
    effect over the root of the damage. The yardstick is the same for all layers; only the place
    of the intervention changes. Layers whose ratio's interval holds 0 come after all others: a
    ratio of noise to almost no damage can be large.

    Parameters
    ----------
    rows
        Rows of `rerank_conditions`.
    probes
        The sweep's probes, one for each layer.
    score, kl
        Effect and damage.
    primary
        Name of the predictive metric.
    steered
        Layers that the main sweep steered.
    seed
        Seed of the bootstrap over prompts.
    """
    doses = Doses(rows, seed=seed)
    ranked: list[dict[str, Any]] = []
    drawn = []
    for plus, minus in zip(doses.conditions[::2], doses.conditions[1::2], strict=True):
        layer = int(plus.direction.removeprefix(LAYER))
        effect, damage, ratio, draws = doses.ratio(score, kl, plus, minus)
        metric = next(p.metrics for p in probes if p.layer == layer).get(primary)
        drawn.append(draws)
        ranked.append(
            {
                "layer": layer,
                "metric": metric,
                "effect": effect.to_json(),
                "damage": damage.to_json(),
                "ratio": ratio.to_json(),
                "steered": layer in steered,
            }
        )
    for row in ranked:
        row["established"] = bool(row["ratio"]["low"] > 0 or row["ratio"]["high"] < 0)
    order = sorted(ranked, key=lambda r: (not r["established"], -_comparable(r["ratio"]["value"])))
    for rank, row in enumerate(order, 1):
        row["rank"] = rank
    coeff = doses.conditions[0].coeff
    return {
        "coeff": coeff,
        "metric": primary,
        "measure": score.name,
        "n_prompts": len({row["prompt_id"] for row in rows[doses.conditions[0]]}),
        "rows": ranked,
        "spearman": _spearman(ranked, np.stack(drawn, axis=1), doses.resampler),
        "kept": _crossfit(rows, score, kl, seed),
    }


def _crossfit(
    rows: Mapping[Condition, Sequence[Mapping[str, Any]]],
    score: Statistic,
    kl: Statistic,
    seed: int,
) -> dict[str, Any] | None:
    """Return the effect for its damage of the best layer, read on prompts that did not choose it.

    Prompts are divided in two halves at random. The layer is chosen on each half and read on the
    other; the mean of both, which the best of many layers does not flatter. None below 4 prompts.
    """
    names = sorted({row["prompt_id"] for row in next(iter(rows.values()))})
    if len(names) < 4:
        return None
    luck = np.random.default_rng(seed).permutation(len(names))
    layers, values, drawn = [], [], []
    halves = [
        Doses(
            {c: [row for row in part if row["prompt_id"] in half] for c, part in rows.items()},
            seed=seed + k,
        )
        for k, half in enumerate({names[i] for i in luck[k::2]} for k in (0, 1))
    ]
    for choosing, reading in (halves, halves[::-1]):
        pairs = list(zip(choosing.conditions[::2], choosing.conditions[1::2], strict=True))
        worth = [_comparable(choosing.ratio(score, kl, *pair)[2].value) for pair in pairs]
        best = pairs[int(np.argmax(worth))]
        layers.append(int(best[0].direction.removeprefix(LAYER)))
        _, _, ratio, draws = reading.ratio(score, kl, *best)
        values.append(ratio.value)
        drawn.append(draws)
    honest = halves[0].resampler.around(float(np.mean(values)), np.mean(drawn, axis=0))
    return {"layers": layers, "ratio": honest.to_json()}


def _spearman(
    rows: Sequence[Mapping[str, Any]], drawn: Array, resampler: Resampler
) -> dict[str, float] | None:
    """Return the rank correlation of metric and ratio over layers, with its interval."""
    if len(rows) < 3 or any(row["metric"] is None for row in rows):
        return None
    metric = rankdata([row["metric"]["value"] for row in rows])
    ratio = np.array([row["ratio"]["value"] for row in rows])
    if np.ptp(metric) == 0 or not np.isfinite(ratio).all():
        return None
    every = np.vstack([ratio, drawn])
    ranks = rankdata(every, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    metric = metric - metric.mean()
    with np.errstate(invalid="ignore"):
        values = ranks @ metric / np.sqrt((ranks**2).sum(axis=1) * (metric @ metric))
    values[~np.isfinite(every).all(axis=1)] = np.nan
    return resampler.around(float(values[0]), values[1:]).to_json()


def _comparable(value: float) -> float:
    return value if np.isfinite(value) else -np.inf
