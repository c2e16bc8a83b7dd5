"""probekit: is a direction in the residual stream real, causal, and safe to optimise?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probekit.results.runs import open_run

__version__ = "0.1.0"
__all__ = ["open_run"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Import a public name when it is first asked for: `import probekit` stays instant."""
    if name in __all__:
        from probekit.results import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'probekit' has no attribute {name!r}")
