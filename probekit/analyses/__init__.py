"""Artefacts in, tidy rows and findings out: why a head came out as it did."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.analyses.config import DynamicsConfig, parse_learning_rates
    from probekit.analyses.dynamics import HeadDynamics, head_dynamics
    from probekit.analyses.pairs import Pairs
else:
    __getattr__ = lazy(
        __name__,
        config="DynamicsConfig parse_learning_rates",
        dynamics="HeadDynamics head_dynamics",
        pairs="Pairs",
    )

__all__ = ["DynamicsConfig", "HeadDynamics", "Pairs", "head_dynamics", "parse_learning_rates"]
