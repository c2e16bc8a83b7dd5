"""The settings of a steering sweep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from probekit.errors import ProbekitError, SteeringError
from probekit.models.sampling_config import MOST, DrawConfig, SamplingConfig
from probekit.settings import Listed, Rule, joined, setting

_steering = partial(setting, group="Steering")
_sampling = partial(setting, group="Sampling")
_controls = partial(setting, group="Controls and damage")
_rerank = partial(setting, group="Layer ranking")
_run = partial(setting, group="Run")


def _name_strengths(coeffs: str) -> str:
    from probekit.steering.grid import parse_coeffs  # loads numpy, which help has no use for

    parse_coeffs(coeffs)
    return coeffs


def _is_where_a_model_writes(where: str) -> str:
    from probekit.steering.where import EXPECTED, Where

    if Where.parse(where).from_the_end:
        raise SteeringError(
            f"where: got {where!r}, which is not known while the model still writes. Expected "
            f"{EXPECTED}."
        )
    return where


@dataclass(frozen=True)
class SteerConfig(DrawConfig):
    """Settings of a sweep. Strengths are in mean residual norms of the steered layer.

    Examples
    --------
    >>> from probekit.steering import SteerConfig
    >>> config = SteerConfig(coeffs="-0.2:0.2:0.1", mode="add", samples=4)
    >>> config.coeffs, config.random_controls
    ('-0.2:0.2:0.1', 9)
    """

    error: ClassVar[type[ProbekitError]] = SteeringError
    coeffs: Annotated[str, Rule(joined, _name_strengths)] = _steering(
        "-0.3:0.3:0.1", "Strengths", common=True, option="--coeff"
    )
    """Strengths as LOW:HIGH:STEP, both ends taken, or a list with commas, in mean residual norms of the
    layer; 0 is always among them, and ablate has none."""
    mode: Literal["add", "ablate", "clamp"] = _steering("add", "Mode", common=True)
    """What is done to the residual stream: add the direction, project it out (ablate), or set the
    component along it (clamp)."""
    where: Annotated[str, Rule(after=_is_where_a_model_writes)] = _steering(
        "both", "Steered tokens", common=True
    )
    """Tokens to steer: both, prompt, generated, prompt_end, first:K or token:I."""
    layers: Listed | None = _steering(None, "Steered layers", common=True)
    """Layers to steer, such as 12 or 8:20:4, each along its own probe's direction; without it the
    probe's layer is steered."""
    samples: int = _sampling(2, "Completions a prompt", ge=1, le=MOST, common=True)
    """Completions of each prompt at each strength."""
    max_new_tokens: int = _sampling(32, "New tokens at most", ge=1, le=MOST, common=True)
    """Longest completion in tokens."""
    random_controls: int = _controls(9, "Random directions", ge=0, le=999, common=True)
    """Random directions of the same norm, taken through the same strengths as controls."""
    shuffled_controls: int = _controls(5, "Directions of shuffled labels", ge=0, le=19, common=True)
    """Directions of probes fitted to shuffled labels, controls that point where the data spreads."""
    placebo_controls: int = _controls(6, "Placebo directions", ge=0, le=6, common=True)
    """Directions of probes of unrelated contrasts (cooking or astronomy), as accurate as the probe."""
    damage_bound: float = _controls(1.5, "Damage bound", gt=1)
    """A strength is usable while perplexity is at most this many times the unsteered, and distinct
    bigrams are not fewer by this factor."""
    rerank: bool = _rerank(default=False, title="Layers ranked", common=True)
    """Steer at every layer of the fit too, and rank the layers by effect for their damage."""
    rerank_coeff: float | None = _rerank(None, "Strength of the layer ranking", gt=0)
    """Strength at which layers are ranked; without it half of the usable range's smaller side."""
    rerank_prompts: int = _rerank(16, "Prompts of the layer ranking", ge=1)
    """Prompts on which layers are ranked, with one completion for each strength."""
    seed: int = _run(0, "Seed", ge=0, le=1 << 62, common=True)
    """Seed of sampling, random directions and intervals."""
    batch_tokens: int = _run(4096, "Padded tokens a forward pass", ge=1)
    """Padded tokens of a forward pass, which bounds the memory."""

    def grid(self) -> list[float]:
        """Return the coefficients, ascending, with 0; only 0 for ablate."""
        from probekit.steering.grid import parse_coeffs

        return [0.0] if self.mode == "ablate" else parse_coeffs(self.coeffs)

    def sampling(self, samples: int | None = None) -> SamplingConfig:
        """Return how completions are drawn."""
        return SamplingConfig.of(self, self.samples if samples is None else samples)
