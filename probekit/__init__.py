"""probekit: is this direction in the residual stream real, is it causal, and what if we optimise it?"""

__version__ = "0.1.0"
