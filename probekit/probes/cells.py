"""Which cells of a store a fit reads."""

from __future__ import annotations

from typing import Any

from probekit.activations.layers import parse_layers
from probekit.activations.positions import parse_positions
from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.probes.config import SweepConfig


def wanted_cells(source: Any, config: SweepConfig) -> list[Cell]:  # noqa: ANN401 - an ActivationSource
    """Return the cells of one row an example that a fit asks for.

    Raises
    ------
    ProbeError
        When the store does not hold one, or none is left.
    """
    in_store = source.cells()
    sites = _named(config.sites, "sites") or sorted(
        {cell.site for cell in in_store if cell.site != "resid_pre"}
        or {cell.site for cell in in_store}
    )
    layers = set(parse_layers(config.layers, source.n_layers))
    positions = {cell.position for cell in in_store}
    wanted = (
        [rule.name for rule in parse_positions(config.positions)]
        if config.positions
        else sorted(positions)
    )
    if source.examples.kind == "pair" and "prompt_end" in wanted:
        # Before the answer both sides read the same: a head there would be fitted to rounding.
        wanted.remove("prompt_end")
        if config.positions or not wanted:
            raise ProbeError(
                "position prompt_end: stands before the answer, where both sides of a pair are the same. "
                "Cache a position in the answer: last, turn_end or mean."
            )
    for name, asked, stored in (
        ("position", wanted, positions),
        ("site", sites, {cell.site for cell in in_store}),
        (
            "layer",
            sorted(layers) if config.layers != "all" else [],
            {cell.layer for cell in in_store if cell.site in sites},
        ),
    ):
        if missing := [item for item in asked if item not in stored]:
            held_words = ", ".join(
                map(str, sorted(stored, key=lambda item: (str(type(item)), item)))
            )
            raise ProbeError(
                f"{name} {missing[0]}: is not in the store. It holds {held_words}. Cache it first."
            )
    cells = [
        cell
        for cell in in_store
        if cell.site in sites and cell.layer in layers and cell.position in wanted
    ]
    if not cells:
        raise ProbeError(
            "store: holds no cell to fit. Cache a position with one row an example, such as mean."
        )
    return cells


def _named(text: str | None, what: str) -> list[str]:
    if text is None:
        return []
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ProbeError(f"{what} {text!r}: names none.")
    return names
