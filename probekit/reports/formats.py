"""How numbers, intervals and lists are written: filters of the templates and labels of figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from probekit.results.intervals import Interval

MINUS, NBSP, DASH = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}", "\N{EN DASH}"
EVEN = 4
"""More steps than these at one distance are not named one by one."""


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Return a number with a real minus sign; a dash where there is none; no decimals from 100 on."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return f"{MINUS if value < 0 else ''}∞"
    digits = 0 if abs(value) >= 100 else digits
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''},.{digits}f}".replace("-", MINUS)


def compact(value: float | None) -> str:
    """Return a number of any size in three figures, two below 1: `14.2`, `0.024`, `3.2e-5`."""
    if value is None or not math.isfinite(value):
        return number(value)
    mantissa, power, exponent = f"{value:.{2 if abs(value) < 1 else 3}g}".partition("e")
    return mantissa.replace("-", MINUS) + (f"e{int(exponent)}" if power else "")


def signed(value: float) -> str:
    """Return a number with its sign and the figures it was given with: `+0.4`, `−0.25`, `0`."""
    return f"{value:{'+' if value else ''}g}".replace("-", MINUS)


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share in per cent, without an interval."""
    return spanned(Interval(math.nan if share is None else share), "share", digits=digits)


def digits_for(*values: float) -> int:
    """Return how many decimals give about three figures of the largest number, at most three."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    return min(3, max(0, 2 - math.floor(math.log10(max(sizes))))) if sizes else 2


def spanned(
    value: Interval | Mapping[str, float | None] | None, unit: str = "", *,
    digits: int | None = None, sign: bool = False,
) -> str:  # fmt: skip
    """Return `0.91 [0.86, 0.95]` as plain text; the value alone without an interval, else a dash.

    The unit `share` is written in per cent, a change of it (`sign`: a plus too) in points. By default
    `digits` are those that give three figures, none for shares.
    """
    value, after = Interval.from_json(value), ""
    if unit == "share":
        value = Interval(*(100 * end for end in value))
        after, digits = " points" if sign else f"{NBSP}%", digits or 0
    digits = digits_for(*value) if digits is None else digits
    if not value.known:
        return DASH
    text = number(value.value, digits, sign=sign) + after
    if not value.has_interval:
        return text
    low, high = (number(end, digits, sign=sign) for end in (value.low, value.high))
    return f"{text} [{low}, {high}]"


def interval(
    value: Interval | Mapping[str, float | None] | None, unit: str = "", *,
    digits: int | None = None, sign: bool = False,
) -> Markup:  # fmt: skip
    """Return `spanned` for a page: the interval set smaller, a change that leaves 0 in bold."""
    value = Interval.from_json(value)
    if not value.known:
        return Markup('<span class="none">–</span>')
    text, bracket, ends = spanned(value, unit, digits=digits, sign=sign).partition(" [")
    html = escape(text)
    if bracket:
        html = Markup('{} <span class="interval">[{}</span>').format(text, ends)
    return Markup("<b>{}</b>").format(html) if sign and value.side() else html


def listed(items: Sequence[str]) -> str:
    """Return `a, b and c`."""
    items = list(items)
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def spans(steps: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last of every stretch of consecutive steps."""
    found: list[tuple[int, int]] = []
    for step in sorted(set(steps)):
        if found and found[-1][1] == step - 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found


def ranges(steps: Sequence[int]) -> str:
    """Return steps as `3, 7–9`, and many at one distance as `5, 9, …, 237`."""
    distinct = sorted(set(steps))
    distances = {after - before for before, after in pairwise(distinct)}
    if len(distinct) > EVEN and len(distances) == 1 and distances != {1}:
        return f"{distinct[0]}, {distinct[1]}, …, {distinct[-1]}"
    return ", ".join(DASH.join(map(str, dict.fromkeys(span))) for span in spans(steps))


def shorten(text: str, limit: int = 40) -> str:
    """Return text on one line and cut to `limit` characters with an ellipsis."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def plot_text(text: str, limit: int = 40) -> str:
    """Return text shortened and escaped: plotly reads `<b>` and `&lt;` in its labels."""
    return shorten(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def sentence(text: str) -> str:
    """Return the text with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def count(value: float) -> str:
    """Return a count with thousands set apart."""
    return f"{int(value):,}"


def duration(seconds: float | None) -> str:
    """Return seconds as `45 s`, as minutes from 100 on."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    return f"{number(seconds, 0)} s" if seconds < 100 else f"{number(seconds / 60, 0)} min"


def plain(value: object) -> str:
    """Return a setting's value: `yes`, `no`, `none`, `a, b`, or as it is."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "none"
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def p_value(p: float | None) -> str:
    """Return `p = 0.032`; nothing where there is none."""
    if p is None or math.isnan(p):
        return ""
    return f"p{NBSP}={NBSP}{p:.{3 if p < 0.1 else 2}f}"


FILTERS = {
    function.__name__: function
    for function in (
        number, interval, spanned, listed, ranges, shorten, plot_text, sentence, count, p_value,
        compact, percent, duration, signed, plain,
    )
}  # fmt: skip
