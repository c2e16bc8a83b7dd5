"""probekit: is a direction in the residual stream real, causal, and safe to optimise?"""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.results.runs import open_run
else:
    __getattr__ = lazy(__name__, **{"results.runs": "open_run"})

__version__ = "0.1.0"
__all__ = ["open_run"]
