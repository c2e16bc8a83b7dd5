"""The direction of a probe, and those that it has to beat: random, shuffled labels, placebos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from probekit.activations.layers import parse_layers
from probekit.activations.table import Cell
from probekit.errors import SteeringError
from probekit.models.load import LoadedModel
from probekit.probes.placebo import placebos
from probekit.probes.probe import Probe
from probekit.results.steer import PLACEBO, SHUFFLED
from probekit.steering.config import SteerConfig
from probekit.steering.grid import random_names
from probekit.steering.vector import SteeringVector


class Control(NamedTuple):
    """A direction that should do nothing in particular, of norm 1 at every layer."""

    direction: str
    """Its name in a `Condition`."""
    vector: SteeringVector
    what: str
    """What it is, in words."""
    held_out: float | None = None
    """Primary measure of a placebo's head on its own held-out rows, at the first layer."""

    def describe(self, unit: SteeringVector) -> dict[str, Any]:
        """Return the JSON form; `cosine` is that with the steered direction."""
        cosine = round(self.vector.cosine(unit), 4)
        return {
            "direction": self.direction,
            "what": self.what,
            "cosine": cosine,
            "held_out": self.held_out,
        }


def probe_directions(
    probes: Sequence[Probe], chosen: Probe, layers: str | None, n_layers: int
) -> SteeringVector:
    """Return the unit directions of the steered layers' probes."""
    wanted = [chosen.layer] if layers is None else parse_layers(layers, n_layers)
    by_layer = {probe.layer: probe for probe in probes}
    for layer in wanted:
        if layer not in by_layer:
            raise SteeringError(
                f"layer {layer}: the fit has no {chosen.kind} probe there at {chosen.position}. "
                f"It has layers {', '.join(map(str, by_layer))}; fit more, or leave it out."
            )
    return SteeringVector.from_probes([by_layer[layer] for layer in wanted])


def control_directions(
    unit: SteeringVector, probe: Probe, fit: str | Path, loaded: LoadedModel, config: SteerConfig
) -> list[Control]:
    """Return the control directions of a sweep: random, on shuffled labels, on unrelated contrasts.

    Directions on shuffled labels are those that `probekit fit` keeps of the chosen cell, so there are
    none where other layers or another site are steered. Placebos are fitted here, see `placebos`.

    Parameters
    ----------
    unit
        The steered direction, of norm 1 at every layer.
    probe
        The chosen probe.
    fit
        Its directory.
    loaded
        The model.
    config
        How many of each.
    """
    found = [
        Control(name, unit.random_like(np.random.default_rng([config.seed, i])), "random direction")
        for i, name in enumerate(random_names(config.random_controls))
    ]
    if (unit.site, unit.layers) == (probe.site, [probe.layer]) and config.shuffled_controls:
        known = [coef for coef in Probe.load_shuffled(fit) if np.linalg.norm(coef) > 0]
        for i, coef in enumerate(known[: config.shuffled_controls]):
            vector = dataclasses.replace(unit, vectors={probe.layer: coef}).unit()
            found.append(
                Control(f"{SHUFFLED}{i + 1:02d}", vector, f"{probe.kind} probe of shuffled labels")
            )
    if config.placebo_controls:
        like = dataclasses.replace(probe, cell=Cell(unit.site, unit.layers[0], probe.position))
        fits = placebos(
            like,
            loaded,
            unit.layers,
            most=config.placebo_controls,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
        )
        for name, probes, held_out, _ in fits:
            slug = name.lower().replace("/", "-").replace(" ", "-")
            vector = SteeringVector.from_probes(probes)
            found.append(Control(f"{PLACEBO}{slug}", vector, name, held_out[0]))
    return found
