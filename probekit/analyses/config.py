"""The settings of the comparison of parametrisations, and the grammar of its learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from probekit.errors import ProbeError, ProbekitError
from probekit.settings import Rule, Settings, setting, split

_training = partial(setting, group="Training")
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
        rates = _range(text) if ":" in text else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ProbeError(f"learning rates {text!r}: {error}. Expected {EXPECTED}.") from error
    rates = sorted(set(rates))
    if not all(0 < rate < math.inf for rate in rates):
        raise ProbeError(
            f"learning rates {text!r}: {rates[0]:g} to {rates[-1]:g} is not all positive and "
            f"finite. Expected {EXPECTED}."
        )
    if not 3 <= len(rates) <= MOST:
        raise ProbeError(
            f"learning rates {text!r}: names {len(rates)}. Expected 3 to {MOST}, {EXPECTED}."
        )
    return rates


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


def _rates(value: object) -> object:
    return parse_learning_rates(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class DynamicsConfig(Settings):
    """Settings of the analysis."""

    error: ClassVar[type[ProbekitError]] = ProbeError
    learning_rates: Annotated[Sequence[float], Rule(before=_rates)] = _training(
        "1e-6:1", "Learning rates", common=True, min_length=1
    )
    """Learning rates as LOW:HIGH or LOW:HIGH:PER_DECADE, or a list with commas."""
    optimizers: Annotated[tuple[Literal["adamw", "sgd"], ...], Rule(before=split, strict=False)] = (
        _training(("adamw", "sgd"), "Optimisers", common=True, min_length=1)
    )
    """Optimisers to train with: adamw, sgd, or both with a comma."""
    steps: int = _training(300, "Steps", ge=1, common=True)
    """Number of training steps of each run."""
    batch_pairs: int = _training(64, "Pairs of a minibatch", ge=1, common=True)
    """Pairs in a minibatch."""
    n_seeds: int = _training(3, "Starts", ge=3, common=True, option="--seeds")
    """Number of starts, each with its own order of minibatches; three at least show reliability."""
    seed: int = _training(0, "Seed", ge=0, common=True)
    """Seed of the first start and its minibatches."""
    max_pairs: int = _training(20_000, "Pairs at most", ge=1)
    """Pairs of a split that are used at most, which bounds memory and time."""
    dtype: Literal["float32", "float64"] = _training("float32", "Type of the numbers")
    """Type of the numbers that the heads are trained in."""
