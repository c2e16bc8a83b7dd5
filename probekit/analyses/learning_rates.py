"""A logarithmic grid of learning rates from a few words."""

from __future__ import annotations

import math

from probekit.errors import ProbeError

EXPECTED = "LOW:HIGH or LOW:HIGH:PER_DECADE such as 1e-6:1e-1:3, or a list such as 1e-4,1e-3,1e-2"
PER_DECADE, MOST = 3, 61


def parse_learning_rates(text: str) -> list[float]:
    """Return the ascending learning rates that `text` names, both ends of a range included.

    A range has `PER_DECADE` rates a decade unless it says how many.

    Raises
    ------
    ProbeError
        When the text is malformed, or names fewer than 3 or more than 61 rates.
    """
    try:
        found = _range(text) if ":" in text else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ProbeError(f"learning rates {text!r}: {error}. Expected {EXPECTED}.") from error
    found = sorted(set(found))
    if not all(0 < rate < math.inf for rate in found):
        raise ProbeError(
            f"learning rates {text!r}: {found[0]:g} to {found[-1]:g} is not all positive and "
            f"finite. Expected {EXPECTED}."
        )
    if not 3 <= len(found) <= MOST:
        raise ProbeError(
            f"learning rates {text!r}: names {len(found)}. Expected 3 to {MOST}, {EXPECTED}."
        )
    return found


def _range(text: str) -> list[float]:
    parts = [float(part) for part in text.split(":")]
    if len(parts) not in (2, 3):
        raise ValueError(f"{len(parts)} numbers with colons")
    low, high = parts[:2]
    per_decade = parts[2] if len(parts) == 3 else PER_DECADE
    if not (0 < low < high < math.inf and 0 < per_decade < math.inf):
        raise ValueError("the low end must be positive and below the high one")
    steps = round(math.log10(high / low) * per_decade)
    if steps >= MOST:
        raise ValueError(f"names {steps + 1} rates, more than {MOST}")
    if steps < 1:
        raise ValueError("names one rate")
    # Rounded, so that a grid through 1e-3 has 0.001 and not a neighbour of it.
    return [float(f"{low * (high / low) ** (i / steps):.12g}") for i in range(steps + 1)]
