"""The title of an axis that shows a metric."""

from __future__ import annotations

from probekit.reports.words import metric_name, upper_first


def axis_title(metric: str) -> str:
    """Return a metric's axis title with its unit."""
    units = {"mae": "rating units", "margin": "score units", "chosen": "score units",
             "rejected": "score units", "log_loss": "nats"}  # fmt: skip
    name = upper_first(metric_name(metric))
    if metric in ("accuracy", "balanced_accuracy", "pair_accuracy"):
        return f"{name} (fraction right)"
    return f"{name} ({units[metric]})" if metric in units else name
