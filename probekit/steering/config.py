"""How a steering sweep is run."""

from __future__ import annotations

from dataclasses import dataclass

from probekit.errors import SteeringError
from probekit.models.sampling import SamplingConfig
from probekit.steering.grid import parse_coeffs
from probekit.steering.operators import MODES
from probekit.steering.where import EXPECTED, Where

COEFFS = "-0.3:0.3:0.1"


@dataclass(frozen=True)
class SteerConfig:
    """Settings of a sweep. Strengths are in mean residual norms of the steered layer."""

    coeffs: str = COEFFS
    """`LOW:HIGH:STEP` or a list; 0 is always among them."""
    mode: str = "add"
    """`add`, `clamp` or `ablate` (which takes no coefficients)."""
    where: str = "both"
    """`both`, `prompt`, `generated`, or a position rule known while generating."""
    layers: str | None = None
    """Layers to steer, each along its own probe's direction; the probe's own by default."""
    samples: int = 2
    """Completions of each prompt."""
    max_new_tokens: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    random_controls: int = 9
    """Random directions of the same norm, taken through the same strengths."""
    damage_bound: float = 1.5
    """A strength is usable while perplexity is at most this many times the unsteered."""
    rerank: bool = False
    """Also steer at every layer of the sweep, and rank layers by effect per damage."""
    rerank_coeff: float | None = None
    """Strength of the re-ranking; half the usable range's smaller end by default."""
    rerank_prompts: int = 16
    """Prompts of the re-ranking, one completion each a strength."""
    seed: int = 0
    batch: int = 64
    """Sequences decoded together."""
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SteeringError(f"mode {self.mode!r}: unknown. Expected {', '.join(MODES)}.")
        parse_coeffs(self.coeffs)
        if Where.parse(self.where).from_the_end:
            raise SteeringError(
                f"where {self.where!r}: is not known while the model still writes. Expected "
                f"{EXPECTED}."
            )
        if self.random_controls < 0 or self.random_controls > 999:
            raise SteeringError(f"random controls {self.random_controls}: expected 0 to 999.")
        if not self.damage_bound > 1:
            raise SteeringError(f"damage bound {self.damage_bound}: expected a factor above 1.")
        if self.rerank_coeff is not None and not 0 < self.rerank_coeff < float("inf"):
            raise SteeringError(f"rerank coeff {self.rerank_coeff}: expected a number above 0.")
        if self.rerank_prompts < 1:
            raise SteeringError(f"rerank prompts {self.rerank_prompts}: expected 1 or more.")
        self.sampling()

    def grid(self) -> list[float]:
        """Return the coefficients, ascending, with 0; only 0 for ablate."""
        return [0.0] if self.mode == "ablate" else parse_coeffs(self.coeffs)

    def sampling(self, samples: int | None = None) -> SamplingConfig:
        """Return how completions are drawn."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            samples=self.samples if samples is None else samples,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            batch=self.batch,
        )
