"""Changes over a run, paired over held-out prompts, with their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from probekit.reports.rl_rows import ALL, Evaluation, RLRun
from probekit.reports.rows import NO_VALUE, Metric
from probekit.results.intervals import Array, Resampler


def change(run: RLRun, name: str, part: str = ALL, *, step: int | None = None) -> Metric:
    """Return mean(after - before) of a measure, from the first evaluation to the one at `step`.

    Parameters
    ----------
    run
        The run.
    name
        The measure.
    part
        Prompts it is taken over.
    step
        The last evaluation by default.

    Returns
    -------
    Metric
        With the 95 % percentile interval of the bootstrap over prompts. No interval where single
        completions were not measured, as for a distance between distributions.
    """
    found = _paired(run, name, part, step)
    if found is None:
        step = run.last.step if step is None else step
        now = next((item for item in run.evaluations if item.step == step), run.last)
        return Metric(now.value(name, part).value - run.first.value(name, part).value)
    prompts, before, after = found
    return _mean(prompts, after - before)


def scaled_change(run: RLRun, name: str, *, step: int) -> Metric:
    """Return the change of a measure in its own standard deviations over the first completions."""
    found = _paired(run, name, ALL, step)
    if found is None:
        return NO_VALUE
    prompts, before, after = found
    spread = float(np.nanstd(before))
    return _mean(prompts, (after - before) / spread) if spread > 0 else NO_VALUE


def ratio(run: RLRun, name: str, part: str = ALL, *, step: int) -> Metric:
    """Return mean(after) / mean(before) of a measure with its interval over prompts."""
    found = _paired(run, name, part, step)
    if found is None:
        return NO_VALUE
    prompts, before, after = found
    return _interval(prompts, np.stack([after, before], axis=1), lambda s: s[..., 0] / s[..., 1])


def level(run: RLRun, name: str, part: str = ALL, *, step: int) -> Metric:
    """Return the mean of a measure at an evaluation, also of one that the evaluation does not hold."""
    rows = [row for row in run.at_step.get(step, {}).values() if row.within(part)]
    values = np.array([row.value(name) for row in rows], dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return NO_VALUE
    return _mean(np.array([row.prompt_id for row in rows])[known], values[known])


def late_steps(run: RLRun) -> list[int]:
    """Return the evaluations in the last third of the training steps that were done."""
    return [item.step for item in run.evaluations if item.step and 3 * item.step >= 2 * run.done]


def late_level(run: RLRun, name: str, part: str = ALL) -> Metric:
    """Return the mean of a measure over the evaluations in the last third of training."""
    found = _late(run, name, part)
    return NO_VALUE if found is None else _mean(found[0], found[2])


def late_change(run: RLRun, name: str, part: str = ALL) -> Metric:
    """Return that mean minus the first evaluation, paired; one evaluation alone may be a lucky one."""
    found = _late(run, name, part)
    return NO_VALUE if found is None else _mean(found[0], found[2] - found[1])


def gap(run: RLRun, name: str, parts: tuple[str, str], *, step: int) -> Metric:
    """Return a measure in one part minus in another at an evaluation, with its interval over prompts."""
    return _gap(run, name, parts, {step: 1.0})


def gap_change(run: RLRun, name: str, parts: tuple[str, str], *, step: int) -> Metric:
    """Return how much that difference grew from the first evaluation to the one at `step`."""
    return _gap(run, name, parts, {step: 1.0, run.first.step: -1.0})


def late_gap(run: RLRun, name: str, parts: tuple[str, str]) -> Metric:
    """Return the mean of that difference over the last third of training."""
    steps = late_steps(run)
    return _gap(run, name, parts, {step: 1.0 / len(steps) for step in steps}) if steps else NO_VALUE


def late_gap_change(run: RLRun, name: str, parts: tuple[str, str]) -> Metric:
    """Return how much it grew to the mean over the last third of training."""
    steps = late_steps(run)
    signs = {step: 1.0 / len(steps) for step in steps}
    return _gap(run, name, parts, {**signs, run.first.step: -1.0}) if steps else NO_VALUE


def _gap(run: RLRun, name: str, parts: tuple[str, str], signs: dict[int, float]) -> Metric:
    """Return the difference between parts of a measure summed over evaluations with weights."""
    prompts, rows = [], []
    for key, row in run.at_step.get(run.first.step, {}).items():
        each = [run.at_step.get(step, {}).get(key) for step in signs]
        if None in each:
            continue
        pairs = zip(each, signs.values(), strict=True)
        value = sum(sign * item.value(name) for item, sign in pairs if item is not None)
        inside = [float(row.within(part)) for part in parts]
        if np.isfinite(value) and any(inside):
            prompts.append(key[0])
            rows.append([value * inside[0], inside[0], value * inside[1], inside[1]])
    found = np.array(rows, dtype=float).reshape(-1, 4)
    if not (found[:, 1].any() and found[:, 3].any()):
        return NO_VALUE
    return _interval(
        np.array(prompts), found, lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3]
    )


def curve(run: RLRun, of: Callable[[Evaluation], Metric]) -> list[Metric]:
    """Return a metric at every evaluation."""
    return [of(item) for item in run.evaluations]


def _paired(
    run: RLRun, name: str, part: str, step: int | None
) -> tuple[Array, Array, Array] | None:
    """Return prompts and values before and after of completions measured at both evaluations."""
    first = run.at_step.get(run.first.step, {})
    after = run.at_step.get(run.last.step if step is None else step, {})
    pairs = [
        (key[0], row.value(name), after[key].value(name))
        for key, row in first.items()
        if row.within(part) and key in after
    ]
    known = [item for item in pairs if np.isfinite(item[1]) and np.isfinite(item[2])]
    if not known:
        return None
    prompts, old, new = zip(*known, strict=True)
    return np.array(prompts), np.array(old, dtype=float), np.array(new, dtype=float)


def _late(run: RLRun, name: str, part: str) -> tuple[Array, Array, Array] | None:
    """Return prompts, first values, and means over the evaluations in the last third."""
    each = [_paired(run, name, part, step) for step in late_steps(run)]
    found = [item for item in each if item is not None]
    # Completions that one of the evaluations lacks can not be averaged over them.
    if not found or len({len(item[0]) for item in found}) > 1:
        return None
    return found[0][0], found[0][1], np.mean([item[2] for item in found], axis=0)


def _mean(prompts: Array, values: Array) -> Metric:
    both = np.stack([values, np.ones_like(values)], axis=1)
    return _interval(prompts, both, lambda s: s[..., 0] / s[..., 1])


def _interval(prompts: Array, rows: Array, formula: Callable[[Array], Array]) -> Metric:
    draws = Resampler(prompts)
    found = draws.interval(rows, formula)
    # One prompt drawn again and again says nothing about other prompts.
    return Metric(*found) if draws.code.max() > 0 else Metric(found.value)
