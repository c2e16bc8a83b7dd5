"""Artefacts in, tidy rows and findings out: why a head came out as it did."""

from probekit.analyses.head_dynamics import DynamicsConfig, HeadDynamics, head_dynamics
from probekit.analyses.learning_rates import parse_learning_rates
from probekit.analyses.pairs import Pairs

__all__ = ["DynamicsConfig", "HeadDynamics", "Pairs", "head_dynamics", "parse_learning_rates"]
