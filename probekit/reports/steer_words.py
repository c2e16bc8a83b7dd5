"""How coefficients, measures, slopes and p-values of a steering run are written."""

from __future__ import annotations

import math
import textwrap
from html import escape

from probekit.reports.rows import Metric
from probekit.reports.steer_rows import BASELINE, PROBE, Change, Measure, Steer
from probekit.reports.words import count, number, shorten, with_interval

COEFF = "coeff (mean residual norms)"
"""Title of every axis of doses."""
INTERVAL = "95\N{NO-BREAK SPACE}% bootstrap interval over prompts"
_NARROW = "\N{NO-BREAK SPACE}"
SIGNIFICANT = 0.05
"""Below this p a random control is not likely to have done the same."""


def coeff_text(coeff: float) -> str:
    """Return `+0.4`, `−0.4`, `0`, or `ablated` where there is no coefficient."""
    if math.isnan(coeff):
        return "ablated"
    return "0" if coeff == 0 else f"{coeff:+g}".replace("-", "\N{MINUS SIGN}")


def direction_name(direction: str) -> str:
    """Return the direction as it reads in a sentence."""
    if direction == BASELINE:
        return "unsteered"
    if direction == PROBE:
        return "probe direction"
    return direction.replace("random-", "random direction ").replace(" 0", " ")


def directions(total: int) -> str:
    """Return `5 random directions`, in the singular for one."""
    return f"{count(total)} random direction{'' if total == 1 else 's'}"


def is_share(measure: Measure) -> bool:
    """Return whether a measure is a share between 0 and 1, written in per cent."""
    return measure.unit.startswith("share") or measure.name.startswith("rate:")


def digits_for(*metrics: Metric) -> int:
    """Return how many decimals give about three figures of the largest number, at most three."""
    sizes = [abs(end) for metric in metrics for end in metric if math.isfinite(end) and end]
    return min(3, max(0, 2 - math.floor(math.log10(max(sizes))))) if sizes else 2


def value_text(measure: Measure, metric: Metric) -> str:
    """Return what a measure is: shares in per cent, all else to about three figures."""
    if not metric.known or not is_share(measure):
        return with_interval(metric, digits_for(metric))
    value = f"{100 * metric.value:.0f}\N{NO-BREAK SPACE}%"
    if not metric.has_interval:
        return value
    return f"{value} [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"


def point_text(measure: Measure, metric: Metric) -> str:
    """Return what a measure is, without its interval."""
    return value_text(measure, Metric(metric.value))


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, also where it is positive."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and any(figure in text for figure in "123456789") else text


def change_text(metric: Metric) -> str:
    """Return a slope or a difference with its sign and its interval."""
    digits = digits_for(metric)
    if not metric.has_interval:
        return signed(metric.value, digits)
    low, high = signed(metric.low, digits), signed(metric.high, digits)
    return f"{signed(metric.value, digits)} [{low}, {high}]"


def p_text(p: float) -> str:
    """Return `p = 0.032`; nothing where there is none."""
    return "" if math.isnan(p) else f"p{_NARROW}={_NARROW}{p:.{3 if p < 0.1 else 2}f}"


def in_brackets(p: float) -> str:
    """Return ` (p = 0.032)` for a sentence's end; nothing where there is none."""
    return f" ({p_text(p)})" if p_text(p) else ""


def unit_title(measure: Measure) -> str:
    """Return the title of a measure's axis, which its panel's title has named already."""
    if measure.group in ("effect", "layers"):
        return f"Score ({measure.unit})" if "score" not in measure.unit else measure.unit
    if measure.name == "perplexity":
        return f"Perplexity under the {measure.unit}" if " " in measure.unit else "Perplexity"
    if measure.unit == "share":
        parts = "n-grams" if measure.name.startswith("distinct") else "completions"
        return f"Share of {parts}"
    return measure.unit or measure.label


def smallest_p(controls: int) -> float:
    """Return the smallest p that a rank among so many random directions can give."""
    return 1 / (controls + 1)


def against_controls(change: Change) -> str:
    """Return how a change stands among those along random directions, for a sentence's end."""
    total = len(change.controls)
    if not total:
        return "no random direction to compare with"
    p = in_brackets(change.p)
    if change.as_large == 0:
        which = "the one random direction" if total == 1 else f"any of {directions(total)}"
        return f"more than {which}{p}"
    verb = "changes" if change.as_large == 1 else "change"
    return f"{change.as_large} of {directions(total)} {verb} it at least as much{p}"


def report_n(steer: Steer) -> str:
    """Return how many prompts, samples and controls there are, as a subtitle."""
    prompts, samples = steer.n["prompts"], steer.n["samples"]
    each = f" × {count(samples)} samples" if samples > 1 else ""
    controls = directions(len(steer.controls)) if steer.controls else "no random directions"
    return f"n = {count(prompts)} prompts{each} at every point; {controls}"


def where_text(where: str) -> str:
    """Return at which tokens the model is steered, for a sentence."""
    places = {
        "both": "at every token of prompt and completion",
        "prompt": "at the tokens of the prompt only",
        "generated": "at the generated tokens only",
    }
    return places.get(where, f"at the tokens of the rule {where}")


def wrapped(text: str, width: int, *, lines: int = 2) -> str:
    """Return plain text for a figure, broken between words and cut after `lines` lines."""
    rows = textwrap.wrap(" ".join(text.split()), width) or [""]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], shorten(" ".join(rows[lines - 1 :]), width)]
    return "<br>".join(escape(shorten(row, width + 2), quote=False) for row in rows)


def listed(items: list[str]) -> str:
    """Return `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
