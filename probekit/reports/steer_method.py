"""How a steering run was done and what it can not tell, in words."""

from __future__ import annotations

from html import escape

from probekit.reports.steer_rows import Steer
from probekit.reports.steer_words import (
    INTERVAL,
    coeff_text,
    directions,
    listed,
    smallest_p,
    where_text,
)
from probekit.reports.words import count, number


def method_html(steer: Steer) -> str:
    """Return the method as a list of terms with what each means here."""
    items = [
        ("Dose" if not steer.ablate_only else "Ablation", _dose(steer)),
        ("Where", _where(steer)),
        ("Score", _score(steer)),
        ("Damage", _damage(steer)),
        ("Controls", _controls(steer)),
        ("Intervals", _intervals(steer)),
        ("Not tested", _limits(steer)),
    ]
    rows = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in items)
    return f'<dl class="method">{rows}</dl>'


def _dose(steer: Steer) -> str:
    ablated = (
        "The ablated model has the component along the direction taken out, whatever its size; "
        "it has no dose."
    )
    if steer.ablate_only:
        return ablated
    norms = listed([f"{number(norm, 1)} at layer {at}" for at, norm in sorted(steer.norms.items())])
    unit = f" (mean norm of the residual stream on the prompts: {norms})" if norms else ""
    what, zero = {
        "add": (
            "adds coeff times that norm along the unit direction",
            "Coeff 0 is the unsteered model, run once and shared by every curve.",
        ),
        "clamp": (
            "sets the component along the unit direction to coeff times that norm",
            "Coeff 0 takes the component out, so it is not the unsteered model; the dotted lines "
            "are.",
        ),
    }[steer.mode]
    tail = f" {ablated}" if steer.ablation else ""
    return f"coeff is in mean residual norms: it {what}{unit}. {zero}{tail}"


def _where(steer: Steer) -> str:
    layers = listed([str(layer) for layer in steer.layers])
    source = (
        "The direction is the probe's own."
        if steer.own_direction
        else f"The direction was read from <code>{escape(steer.source)}</code>."
    )
    plural = "s" if len(steer.layers) != 1 else ""
    return f"Layer{plural} {layers}, {escape(where_text(steer.where))}. {source}"


def _score(steer: Steer) -> str:
    return (
        "Every completion is read again by the unsteered model (a clean pass) and scored by the "
        "probe there. So the score is of what was written, not of the vector that was added, and "
        "probes of layers below the steered one can change too. Each layer's probe has its own "
        "score units."
    )


def _damage(steer: Steer) -> str:
    bound = (
        ""
        if steer.ablate_only
        else f" A dose is usable while perplexity is at most {number(steer.usable.bound, 1)} times the "
        "unsteered and the text does not repeat itself as much more (share of distinct bigrams); "
        f"slopes are fitted on {_fitted(steer)}."
    )
    reasons = "; ".join(
        f"{coeff_text(float(coeff))}, {escape(reason)}"
        for coeff, reason in sorted(steer.usable.reasons.items(), key=lambda item: float(item[0]))
    )
    left_out = f" Left out: {reasons}." if reasons else ""
    return (
        "Perplexity is that of the completion under the unsteered model; divergence is the "
        "mean KL of the steered from the unsteered model over the completion's tokens, in nats per "
        "token. Repetition shows in the share of distinct n-grams and in completions "
        f"that do not end.{bound}{left_out}"
    )


def _fitted(steer: Steer) -> str:
    if steer.slopes_on_all:
        return "the three doses nearest to 0 here, as fewer are usable"
    return "the unbroken run of usable doses around 0"


def _controls(steer: Steer) -> str:
    total = len(steer.controls)
    if not total:
        return "None were run, so there is no p: any direction might have done the same."
    return (
        f"{directions(total)} of the same length, drawn with seed "
        f"{escape(str(steer.seed if steer.seed is not None else '–'))}, steered at the same doses. "
        f"p = (1 + those that change a measure at least as much) / (1 + {total}), whatever the "
        f"sign; it can not be below {number(smallest_p(total), 3)}."
    )


def _intervals(steer: Steer) -> str:
    samples = steer.n["samples"]
    each = f", each with {count(samples)} samples that stay together" if samples > 1 else ""
    return (
        f"{INTERVAL} (n = {count(steer.n['prompts'])}{each}). They say how "
        "much other prompts would change the result; not what another probe, another direction or "
        "another seed of sampling would. They are not corrected for the number of measures."
    )


def _limits(steer: Steer) -> str:
    sampling = steer.sampling
    tokens, heat = sampling.get("max_new_tokens"), sampling.get("temperature")
    top = sampling.get("top_p")
    how = [f"completions of at most {tokens} tokens"] if tokens else []
    how += [f"temperature {heat:g}"] if isinstance(heat, (int, float)) else []
    how += [f"top-p {top:g}"] if isinstance(top, (int, float)) else []
    other = f"Only {', '.join(how)} were tried. " if how else ""
    rules = (
        "Behaviours are found by rules on the words, which miss and mistake some; "
        if steer.grouped("behaviour")
        else "No behaviour was counted, so nothing here says what the texts are like beyond the "
        "score; "
    )
    return (
        f"{other}{rules}no person read the completions. Other prompts, other models, other layers "
        "and longer dialogues were not tested. The score is the probe's own: where it can be "
        "fooled by style, steering may change the style alone."
    )
