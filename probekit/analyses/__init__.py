"""Artefacts in, tidy rows and findings out: why a head came out as it did."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.analyses.config import DynamicsConfig, parse_learning_rates
    from probekit.analyses.dynamics import HeadDynamics, Pairs, head_dynamics
else:
    __getattr__ = lazy(
        __name__,
        config="DynamicsConfig parse_learning_rates",
        dynamics="HeadDynamics Pairs head_dynamics",
    )

__all__ = ["DynamicsConfig", "HeadDynamics", "Pairs", "head_dynamics", "parse_learning_rates"]
