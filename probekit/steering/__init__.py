"""Steer a model along a direction, and measure what that does beside what chance would."""

from probekit.steering.config import SteerConfig
from probekit.steering.intervention import Steering, steered
from probekit.steering.norms import residual_norms
from probekit.steering.sweep import SteerResult, steer_sweep
from probekit.steering.vector import SteeringVector

__all__ = [
    "SteerConfig",
    "SteerResult",
    "Steering",
    "SteeringVector",
    "residual_norms",
    "steer_sweep",
    "steered",
]
