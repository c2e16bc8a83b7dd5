"""Artefacts in, tidy rows and findings out: why a head came out as it did."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.analyses.config import DynamicsConfig as DynamicsConfig
    from probekit.analyses.config import parse_learning_rates as parse_learning_rates
    from probekit.analyses.dynamics import HeadDynamics as HeadDynamics
    from probekit.analyses.dynamics import Pairs as Pairs
    from probekit.analyses.dynamics import head_dynamics as head_dynamics
else:
    __getattr__, __all__ = lazy(
        __name__,
        config="DynamicsConfig parse_learning_rates",
        dynamics="HeadDynamics Pairs head_dynamics",
    )
