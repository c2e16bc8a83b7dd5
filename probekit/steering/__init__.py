"""Steer a model along a direction, and measure what that does beside what chance would."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.steering.config import SteerConfig
    from probekit.steering.intervention import Steering, steered
    from probekit.steering.reading import residual_norms
    from probekit.steering.sweep import SteerResult, steer_sweep
    from probekit.steering.vector import SteeringVector
else:
    __getattr__ = lazy(
        __name__,
        config="SteerConfig",
        intervention="Steering steered",
        reading="residual_norms",
        sweep="SteerResult steer_sweep",
        vector="SteeringVector",
    )

__all__ = [
    "SteerConfig",
    "SteerResult",
    "Steering",
    "SteeringVector",
    "residual_norms",
    "steer_sweep",
    "steered",
]
