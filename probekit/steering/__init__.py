"""Steer a model along a direction, and measure what that does beside what chance would."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.steering.config import SteerConfig as SteerConfig
    from probekit.steering.intervention import Steering as Steering
    from probekit.steering.intervention import steered as steered
    from probekit.steering.reading import residual_norms as residual_norms
    from probekit.steering.sweep import SteerResult as SteerResult
    from probekit.steering.sweep import steer_sweep as steer_sweep
    from probekit.steering.vector import SteeringVector as SteeringVector
else:
    __getattr__, __all__ = lazy(
        __name__,
        config="SteerConfig",
        intervention="Steering steered",
        reading="residual_norms",
        sweep="SteerResult steer_sweep",
        vector="SteeringVector",
    )
