"""Names, number formats and the plain-words meaning of metrics and controls."""

from __future__ import annotations

import math
from html import escape

from probekit.reports.rows import Chosen, Metric, Series, SweepRow

MINUS = "\N{MINUS SIGN}"

METRICS = {
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "r2": "R²",
    "mae": "mean absolute error",
    "pair_accuracy": "pair accuracy",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "ece": "expected calibration error",
    "chosen": "mean score, chosen",
    "rejected": "mean score, rejected",
    "margin": "mean margin",
}
LOWER_IS_BETTER = {"mae", "log_loss", "ece"}
CHANCE = {"auroc": 0.5, "pair_accuracy": 0.5, "balanced_accuracy": 0.5, "pearson": 0.0,
          "spearman": 0.0, "r2": 0.0}  # fmt: skip
"""What a probe that knows nothing scores; metrics not named here have no fixed chance level."""

CONTROLS = {
    "length": "length alone",
    "tfidf": "TF-IDF",
    "layer_0": "layer-0 probe",
    "random_direction": "random direction",
    "shuffled_labels": "shuffled labels",
    "length_partialled": "length partialled out",
}
"""Controls in the order they are shown."""
CONTROL_MEANINGS = {
    "length": "a probe that sees only how many tokens the text has",
    "tfidf": "a linear probe on the words of the text (TF-IDF), no language model",
    "layer_0": "the same probe on the embedding (on the lowest layer where that is not stored)",
    "random_direction": "random directions in place of the fitted one (mean and the range that "
    "holds 95 % of them)",
    "shuffled_labels": "the same probe fitted on shuffled targets, what the fit can memorise (mean "
    "and range of the repeats)",
    "length_partialled": "the chosen probe itself, with what length explains taken out",
}
INTERVAL = "95\N{NO-BREAK SPACE}% bootstrap interval over groups"


def metric_name(metric: str) -> str:
    """Return the metric's name as it reads in a sentence."""
    return METRICS.get(metric, metric.replace("_", " "))


def control_name(control: str) -> str:
    """Return the control's name as it reads in a sentence."""
    return CONTROLS.get(control, control.replace("_", " "))


def upper_first(text: str) -> str:
    """Return `text` with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def ordered_controls(names: list[str]) -> list[str]:
    """Return control names in reading order, unknown ones last."""
    order = list(CONTROLS)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def number(value: float, digits: int = 2) -> str:
    """Return `value` with a real minus sign; a dash where there is none.

    Numbers of 100 and above lose their decimals.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return f"{MINUS if value < 0 else ''}∞"
    if abs(value) >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}f}"
    if text.lstrip("-").strip("0.") == "":
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def with_interval(metric: Metric, digits: int = 2) -> str:
    """Return `0.91 [0.86, 0.95]`, only the value where there is no interval."""
    if not metric.has_interval:
        return number(metric.value, digits)
    low, high = number(metric.low, digits), number(metric.high, digits)
    return f"{number(metric.value, digits)} [{low}, {high}]"


def penalty(l2: float) -> str:
    """Return an l2 weight; a dash for kinds that have none."""
    return number(l2) if math.isnan(l2) else f"{l2:.4g}"


def count(value: int) -> str:
    """Return a count with thousands set apart."""
    return f"{value:,}"


def kind_name(kind: str, head: str | None) -> str:
    """Return `bradley-terry linear`, or the kind alone where it has no head."""
    return f"{kind} {head}" if head else kind


def series_name(series: Series, *, all_series: list[Series]) -> str:
    """Return what tells a series from the others: its kind, its site, or both."""
    kinds = {(item.kind, item.head) for item in all_series}
    sites = {item.site for item in all_series}
    kind = kind_name(series.kind, series.head)
    if len(kinds) > 1 and len(sites) > 1:
        return f"{kind}, {series.site}"
    return series.site if len(sites) > 1 else kind


def cell_name(cell: Chosen | SweepRow) -> str:
    """Return `layer 20, position mean`, or the embedding by its name."""
    if cell.site == "resid_pre" and cell.layer == 0:
        return f"the embedding, position {cell.position}"
    return f"layer {cell.layer}, position {cell.position}"


def shorten(text: str, limit: int) -> str:
    """Return `text` on one line and cut to `limit` characters with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def plot_text(text: str, limit: int = 40) -> str:
    """Return `text` shortened and escaped: plotly reads `<b>` and `&lt;` in its labels."""
    return escape(shorten(text, limit), quote=False)
