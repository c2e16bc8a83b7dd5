"""The finding in words, computed from the figures: nothing here is assumed to have come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Findings = dict[str, dict[str, Any]]
TITLES = {"adamw": "AdamW", "sgd": "SGD"}
STEP, START, NEITHER = "step", "step and start", "neither"


def explained_by(found: dict[str, Any], measure: str = "choose_loss") -> str | None:
    """Return what moves the window of `direct` away from the projection's, by the numbers.

    Returns
    -------
    str or None
        `step`: every end that is known lies where the step factor predicts, within one step of the
        grid. `step and start`: those of `small-start`, which differs from the projection in nothing
        but the step, do, and those of `direct` do not. `neither`: not those either. None when no
        end can be compared.
    """
    shifts = found["measures"][measure]["shifts"]
    hits = {}
    for name in ("direct", "small-start"):
        known = [shifts[name][end] for end in ("low", "high") if shifts[name][end] is not None]
        if not known:
            return None
        hits[name] = all(
            abs(shift - found["predicted_shift"]) <= found["grid_decades"] for shift in known
        )
    if hits["direct"]:
        return STEP
    return START if hits["small-start"] else NEITHER


def conclude(
    findings: Findings,
    geometry: dict[str, dict[str, float]],
    mechanism: dict[str, dict[str, float]],
    exact: Sequence[dict[str, Any]],
    *,
    steps: int,
    d: int,
) -> dict[str, Any]:
    """Return `headline`, the finding under the first optimiser, and `points`, one a figure.

    Parameters
    ----------
    findings
        Of each optimiser.
    geometry, mechanism, exact
        As in `HeadDynamics`.
    steps
        Training steps of every run.
    d
        d_model.
    """
    points = []
    for name, found in findings.items():
        points += [*_equivalence(name, found), *_windows(name, found), *_best(name, found)]
    points += [*_start(findings, mechanism), *_span(findings, geometry, d)]
    points += [*_conditioning(findings, geometry), *_exact(exact)]
    first = next(iter(findings))
    return {"headline": _headline(first, findings[first], steps), "points": points}


def reproduced(found: dict[str, Any]) -> bool:
    """Return whether the prediction follows the projection wherever training is not chaotic."""
    window = found["measures"]["choose_loss"]["windows"]["projection"]
    edge = found["equivalence"]["agree_up_to"]
    return edge is not None and (window is None or edge >= window["high"] * 0.999)


def _headline(optimizer: str, found: dict[str, Any], steps: int) -> str:
    title, windows = TITLES[optimizer], found["measures"]["choose_loss"]["windows"]
    factor = _n(found["step_factor"])
    if not reproduced(found):
        return (
            f"Under {title} a direct vector with the predicted step does not reproduce the "
            "projection, so the step size is not shown to be what separates them."
        )
    direct, projection = windows["direct"], windows["projection"]
    if direct is None and projection is None:
        cause = (
            "on standardised features a direct vector does, so it is the scale of the features"
            if windows["standardised"] is not None
            else "nor does a direct vector on standardised features"
        )
        return (
            f"Under {title} neither the direct vector nor the projection trains within {steps} steps "
            f"at any learning rate of the grid; {cause}."
        )
    if direct is None or projection is None:
        one, other = (
            ("projection", "direct vector") if direct is None else ("direct vector", "projection")
        )
        small = windows["small-start"] is not None
        cause = (
            "From the projection's start the direct vector trains too, so it is the start."
            if small and direct is None
            else "The step size and the grid of learning rates decide, for a direct vector with the "
            "projection's step follows it exactly."
        )
        return f"Under {title} only the {one} trains on this grid, the {other} does not. {cause}"
    same = f"under {title} the projection is a direct vector at {factor} times the learning rate"
    cause_of = explained_by(found)
    if cause_of == STEP:
        return f"The gap is the step size, not the function class: {same}."
    if cause_of == START:
        return (
            f"The gap is the step size and the start, not the function class: {same}, "
            "begun from a smaller start."
        )
    if cause_of is None:
        return (
            f"Not the function class: {same}; the windows of learning rates run off the grid, so how "
            "much of the gap that is can not be said. Widen --learning-rates."
        )
    return (
        f"Not the function class ({same}), but the windows of learning rates do not lie where step "
        "size and start put them."
    )


def _equivalence(optimizer: str, found: dict[str, Any]) -> Iterator[str]:
    gap = found["equivalence"]
    title, share = TITLES[optimizer], 100 * gap["within_1_percent"]
    words = (
        f"{title}: a direct vector started at 0.01 1'W with {_n(found['step_factor'])} times the learning "
        f"rate stays within 1 % of the projection's loss at every step in {share:.0f} % of the runs"
    )
    if gap["agree_up_to"] is None:
        yield f"{words}, and already parts from it at the lowest learning rate."
        return
    yield (
        f"{words}, and in all of them up to a learning rate of {_n(gap['agree_up_to'])} (largest "
        f"difference {_n(gap['worst_there'])})"
        + (
            ". Beyond it paths part that are equal in exact arithmetic: rounding grows from step to step."
            if share < 100
            else "."
        )
    )


def _windows(optimizer: str, found: dict[str, Any]) -> Iterator[str]:
    measure = found["measures"]["choose_loss"]
    title, target = TITLES[optimizer], f"a held-out loss of {measure['target']:.3f}"
    parts = [
        f"the {label} {_window(measure['windows'][name])}"
        for name, label in (("projection", "projection"), ("direct", "direct vector"))
    ]
    yield f"{title}: every seed reaches {target} for {' and '.join(parts)}." + _shifts(
        found, measure
    )
    apart = found["contrast"]
    yield (
        f"{title}: at one and the same learning rate the two differ most at {_n(apart['learning_rate'])}: "
        f"held-out accuracy {_percent(apart['projection'])} for the projection and "
        f"{_percent(apart['direct'])} for the direct vector, {_percent(apart['small-start'])} for that from "
        "the projection's start."
    )


def _shifts(found: dict[str, Any], measure: dict[str, Any]) -> str:
    words = []
    for name, label in (
        ("direct", "the direct window"),
        ("small-start", "that from the projection's start"),
    ):
        ends = measure["shifts"][name]
        known = [
            f"{_signed(ends[end])} ({end} end)" for end in ("low", "high") if ends[end] is not None
        ]
        if known:
            words.append(f"{label} by {' and '.join(known)}")
    if not words:
        return ""
    predicted = _signed(found["predicted_shift"])
    return (
        f" Decades above the projection's window: {'; '.join(words)}. The step factor predicts "
        f"{predicted}."
    )


def _best(optimizer: str, found: dict[str, Any]) -> Iterator[str]:
    rows = found["parametrisations"]
    parts = [
        f"{name} {rows[name]['choose_loss']['value']:.3f} and "
        f"{_percent(rows[name]['choose_accuracy']['value'])} "
        f"(learning rate {_n(rows[name]['learning_rate'])})"
        for name in ("projection", "direct", "standardised")
    ]
    yield (
        f"{TITLES[optimizer]}: held-out loss and accuracy at each one's best learning rate: "
        f"{', '.join(parts)}."
    )


def _start(findings: Findings, mechanism: dict[str, dict[str, float]]) -> Iterator[str]:
    direct, projection = mechanism["direct"], mechanism["projection"]
    words = (
        f"A coordinate starts at {_n(direct['start_scale'])} for the direct vector and "
        f"{_n(projection['start_scale'])} for the projection (standard deviations): margins of "
        f"{_n(direct['margin'])} and {_n(projection['margin'])} on these pairs, and a first loss of "
        f"{direct['loss']:.3f} and {projection['loss']:.3f} where a head that says nothing has 0.693."
    )
    for name, found in findings.items():
        rows = found["parametrisations"]
        before, after = (rows[key]["choose_loss"] for key in ("direct", "small-start"))
        overlap = before["low"] <= after["high"] and after["low"] <= before["high"]
        words += (
            f" From the projection's start the direct vector's best held-out loss under {TITLES[name]} is "
            f"{after['value']:.3f}, from its own {before['value']:.3f}"
            f"{' (the ranges over seeds overlap)' if overlap else ''}."
        )
    yield words


def _span(findings: Findings, geometry: dict[str, dict[str, float]], d: int) -> Iterator[str]:
    rank = round(geometry["raw"]["rank"])
    if rank < d and "sgd" in findings:
        yield (
            f"The fit pairs span {rank} of {d} dimensions. Gradients lie in that span, so plain SGD never "
            f"changes the part of a start outside it, {100 * (1 - rank / d):.0f} % of its expected variance: "
            "noise on every held-out pair, and more of it the larger the start."
        )


def _conditioning(findings: Findings, geometry: dict[str, dict[str, float]]) -> Iterator[str]:
    raw, scaled = geometry["raw"], geometry["standardised"]
    words = (
        f"Conditioning: {100 * raw['top_direction']:.0f} % of the raw variance lies in one direction "
        f"({100 * scaled['top_direction']:.0f} % standardised), the largest eigenvalue is "
        f"{_n(raw['condition_90'])} times the one at which 90 % of the variance is reached "
        f"({_n(scaled['condition_90'])}), and the largest coordinate is {_n(raw['coordinate_spread'])} times "
        "the median one (1)."
    )
    for name, found in findings.items():
        windows = found["measures"]["choose_loss"]["windows"]
        own, other = windows["direct"], windows["standardised"]
        if own is None and other is not None:
            words += (
                f" Under {TITLES[name]} the direct vector has, from its own start, a window on "
                f"standardised features only ({other['decades']:.2f} decades)."
            )
        if own is None or other is None or _open(own) or _open(other):
            continue
        change = other["decades"] - own["decades"]
        verdict = (
            "does not change"
            if abs(change) <= found["grid_decades"]
            else ("widens" if change > 0 else "narrows")
        )
        words += (
            f" Under {TITLES[name]} standardising {verdict} the window ({own['decades']:.2f} to "
            f"{other['decades']:.2f} decades)."
        )
    yield words


def _exact(exact: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = {row["name"]: row for row in exact}
    if own := rows.get("own l2"):
        yield (
            f"The exact solution at the head's own l2 ({_n(own['l2'])}) has a loss of {own['fit_loss']:.3f}, "
            f"held out {own['choose_loss']:.3f} and {_percent(own['choose_accuracy'])}."
        )
    if any(row["separates"] for row in exact):
        yield (
            "The fit pairs are linearly separable, so the infimum of the loss without a penalty is 0 and "
            "a lower training loss is no better head: only the held-out loss tells learning rates apart."
        )


def _window(window: dict[str, Any] | None) -> str:
    if window is None:
        return "at no learning rate of the grid"
    low = f"{'below ' if window['open_low'] else ''}{_n(window['low'])}"
    high = f"{'beyond ' if window['open_high'] else ''}{_n(window['high'])}"
    return f"from {low} to {high} ({window['decades']:.2f} decades)"


def _open(window: dict[str, Any]) -> bool:
    return bool(window["open_low"] or window["open_high"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _n(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
