"""Changes over a run, paired over held-out prompts, with their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from probekit.probes.bootstrap import Array, Resampler
from probekit.reports.rl_rows import ALL, Evaluation, RLRun
from probekit.reports.rows import NO_VALUE, Metric


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


def ratio(run: RLRun, name: str, *, step: int) -> Metric:
    """Return mean(after) / mean(before) of a measure with its interval over prompts."""
    found = _paired(run, name, ALL, step)
    if found is None:
        return NO_VALUE
    prompts, before, after = found
    return _interval(prompts, np.stack([after, before], axis=1), lambda s: s[..., 0] / s[..., 1])


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


def _mean(prompts: Array, values: Array) -> Metric:
    both = np.stack([values, np.ones_like(values)], axis=1)
    return _interval(prompts, both, lambda s: s[..., 0] / s[..., 1])


def _interval(prompts: Array, rows: Array, formula: Callable[[Array], Array]) -> Metric:
    draws = Resampler(prompts)
    found = draws.interval(rows, formula)
    # One prompt drawn again and again says nothing about other prompts.
    return Metric(*found) if draws.code.max() > 0 else Metric(found.value)
