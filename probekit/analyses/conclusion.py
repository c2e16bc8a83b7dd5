"""What the analysis concludes, as keys and numbers; the words for them are the report template's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Findings = dict[str, Any]  # see windows.optimizer_findings


def conclude(
    findings: Mapping[str, Findings],
    geometry: dict[str, dict[str, float]],
    exact: Sequence[dict[str, Any]],
    *,
    d: int,
) -> dict[str, Any]:
    """Return the conclusion; `geometry` and `exact` as in `HeadDynamics`, `d` is d_model.

    Returns
    -------
    dict
        `optimizer`: the first one, for a headline. `by_optimizer`: `finding`, `standardising`, and
        whether the best losses from both starts overlap over seeds (`starts_overlap`).
        `outside_span`: share of a start's variance that plain SGD never changes. `separable`:
        whether a hyperplane separates the fit pairs.
    """
    rank = round(geometry["raw"]["rank"])
    return {
        "optimizer": next(iter(findings)),
        "by_optimizer": {
            name: {
                "finding": finding(optimiser_findings),
                "standardising": standardising(optimiser_findings),
                "starts_overlap": _overlap(optimiser_findings),
            }
            for name, optimiser_findings in findings.items()
        },
        "outside_span": 1 - rank / d if rank < d and "sgd" in findings else None,
        "separable": any(row["separates"] for row in exact),
    }


def finding(findings: Findings) -> str:
    """Return the key of what separates the direct vector from the projection, on the choose split."""
    windows = findings["measures"]["choose_loss"]["windows"]
    direct, projection = windows["direct"], windows["projection"]
    edge = findings["equivalence"]["agree_up_to"]
    # Where training is not chaotic, the rescaled vector has to follow the projection.
    if edge is None or (projection is not None and edge < projection["high"] * 0.999):
        return "not reproduced"
    if direct is None and projection is None:
        return "nothing trains" if windows["standardised"] is None else "scale of the features"
    if direct is None:
        return "only the projection trains" if windows["small-start"] is None else "start"
    return "only the direct vector trains" if projection is None else explained_by(findings)


def explained_by(findings: Findings) -> str:
    """Return what moves the direct vector's window of learning rates away from the projection's.

    `step`: every end lies where the step factor predicts, within one step of the grid. `step and
    start`: every end of `small-start` does, which differs from the projection in the step alone.
    `neither`: not those either. `off the grid`: no end can be compared.
    """
    shifts, hits = findings["measures"]["choose_loss"]["shifts"], {}
    for name in ("direct", "small-start"):
        gaps = [
            end - findings["predicted_shift"] for end in shifts[name].values() if end is not None
        ]
        if not gaps:
            return "off the grid"
        hits[name] = max(map(abs, gaps)) <= findings["grid_decades"]
    return "step" if hits["direct"] else "step and start" if hits["small-start"] else "neither"


def standardising(findings: Findings) -> str | None:
    """Return how standardised features change the direct vector's window; None: not comparable."""
    windows = findings["measures"]["choose_loss"]["windows"]
    own, other = windows["direct"], windows["standardised"]
    if own is None or other is None:
        return None if other is None else "opens"
    if any(window[end] for window in (own, other) for end in ("open_low", "open_high")):
        return None
    change = other["decades"] - own["decades"]
    same = abs(change) <= findings["grid_decades"]
    return "same" if same else "widens" if change > 0 else "narrows"


def _overlap(findings: Findings) -> bool:
    first, second = (
        findings["parametrisations"][n]["choose_loss"] for n in ("direct", "small-start")
    )
    return bool(first["low"] <= second["high"] and second["low"] <= first["high"])
