"""The strengths of a sweep, and the conditions under which the model writes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from probekit.errors import SteeringError
from probekit.results.steer import BASELINE, PROBE, RANDOM, Condition

EXPECTED = "LOW:HIGH:STEP such as -8:8:2, or a list such as -0.4,0,0.4"
MOST = 201
NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"


def parse_coeffs(text: str) -> list[float]:
    """Return the ascending coefficients that `text` names, both ends of a range included, with 0.

    0 is always among them: it is the unsteered model that every effect is measured from.

    Raises
    ------
    SteeringError
        When the text is malformed, names nothing, or more than 201 coefficients.
    """
    coeffs: set[float] = set()
    for part in (piece.strip() for piece in text.split(",") if piece.strip()):
        if re.fullmatch(NUMBER, part):
            coeffs.add(float(part))
        elif re.fullmatch(rf"{NUMBER}:{NUMBER}:{NUMBER}", part):
            coeffs.update(_range(text, *map(float, part.split(":"))))
        else:
            what = "has no step" if part.count(":") == 1 else "is not a finite number"
            raise SteeringError(f"coeff {text!r}: {part!r} {what}. Expected {EXPECTED}.")
    if not coeffs - {0.0}:
        raise SteeringError(
            f"coeff {text!r}: names no strength but 0. Expected {EXPECTED}."
            if coeffs
            else f"coeff {text!r}: is empty. Expected {EXPECTED}."
        )
    if len(coeffs) > MOST or not all(math.isfinite(c) for c in coeffs):
        raise SteeringError(
            f"coeff {text!r}: names {len(coeffs)} coefficients. Expected at most {MOST}, all finite."
        )
    return sorted(coeffs | {0.0})


def _range(text: str, low: float, high: float, step: float) -> list[float]:
    if not step > 0 or low > high:
        raise SteeringError(
            f"coeff {text!r}: goes from {low:g} to {high:g} by {step:g}. Expected {EXPECTED}, low "
            "first and the step above 0."
        )
    n = (high - low) / step
    if not n < MOST:
        raise SteeringError(f"coeff {text!r}: names over {MOST} coefficients. Take a larger step.")
    # Whole steps from the low end, rounded so that 0 and 0.3 are exactly that.
    return [round(low + i * step, 10) + 0.0 for i in range(math.floor(n + 1e-9) + 1)]


def random_names(n: int) -> list[str]:
    """Return the names of n random directions."""
    return [f"{RANDOM}{i + 1:02d}" for i in range(n)]


def conditions(mode: str, coeffs: Sequence[float], controls: Sequence[str]) -> list[Condition]:
    """Return the conditions of a sweep, the ones that matter most first.

    Every direction is taken through every coefficient but 0, where adding changes nothing, and is
    ablated once. In mode clamp 0 is a strength like any other.
    """
    grid = [BASELINE]
    strengths = [c for c in coeffs if c != 0 or mode == "clamp"] if mode != "ablate" else []
    for direction in [PROBE, *controls]:
        # Outward from 0: an interrupted sweep has the weak strengths of the probe first.
        grid += [Condition(direction, mode, c) for c in sorted(strengths, key=abs)]
        grid.append(Condition(direction, "ablate", None))
    return grid
