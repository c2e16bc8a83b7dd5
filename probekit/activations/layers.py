"""Read a choice of layers: `all`, single layers and slices, resolved against a model once."""

from __future__ import annotations

import re

from probekit.errors import ModelError

EXPECTED = "all, or layers and slices such as 0,4,-1 or 8:24:2"


def parse_layers(text: str, n_layers: int) -> list[int]:
    """Return the sorted 0-based layers that `text` names.

    Parameters
    ----------
    text
        `all`, or a comma-separated list of layers and Python slices; negatives count from the end.
    n_layers
        Blocks of the model.

    Raises
    ------
    ModelError
        When a layer does not exist, or nothing is named.
    """
    layers: set[int] = set()
    for part in (piece.strip() for piece in text.split(",")):
        if part == "all":
            layers.update(range(n_layers))
        elif re.fullmatch(r"-?[0-9]{1,9}", part):
            layers.add(_one(int(part), n_layers))
        elif re.fullmatch(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(:[1-9][0-9]{0,8})?", part):
            start, stop, step = ([int(x) if x else None for x in part.split(":")] + [None])[:3]
            for bound in (start, stop):
                if bound is not None and not -n_layers <= bound <= n_layers:
                    raise _missing(bound, n_layers)
            layers.update(range(n_layers)[start:stop:step])
        else:
            raise ModelError(f"layers {text!r}: {part!r} is not a layer. Expected {EXPECTED}.")
    if not layers:
        raise ModelError(f"layers {text!r}: names no layer. Expected {EXPECTED}.")
    return sorted(layers)


def _one(layer: int, n_layers: int) -> int:
    if not -n_layers <= layer < n_layers:
        raise _missing(layer, n_layers)
    return layer % n_layers


def _missing(layer: int, n_layers: int) -> ModelError:
    return ModelError(
        f"layer {layer}: the model has {n_layers} layers. Expected 0 to {n_layers - 1}, or "
        "negative ones counted from the end."
    )
