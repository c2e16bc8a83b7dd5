"""probekit: is a direction in the residual stream real, causal, and safe to optimise?"""

__version__ = "0.1.0"
