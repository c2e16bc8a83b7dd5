"""The settings of sampling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from probekit.errors import ModelError, ProbekitError
from probekit.settings import Settings, setting

_sampling = partial(setting, group="Sampling")
MOST = 1 << 20


@dataclass(frozen=True)
class DrawConfig(Settings):
    """The settings of everything that draws completions."""

    error: ClassVar[type[ProbekitError]] = ModelError
    max_new_tokens: int = _sampling(48, "New tokens at most", ge=1, le=MOST, common=True)
    """Longest completion in tokens."""
    temperature: float = _sampling(1.0, "Temperature", ge=0, le=100, common=True)
    """Sampling temperature, which divides the logits; 0 takes the most probable token."""
    top_p: float = _sampling(1.0, "Top-p", gt=0, le=1)
    """Draw from the smallest set of tokens that holds this much probability (1904.09751)."""
    seed: int = _sampling(0, "Seed", ge=0, le=1 << 62, common=True)
    """Seed of the random numbers; the same seed gives the same completions."""
    batch: int = _sampling(64, "Sequences decoded together", ge=1, le=MOST)
    """Sequences that are decoded together, which bounds the memory of sampling."""


@dataclass(frozen=True)
class SamplingConfig(DrawConfig):
    """How completions are drawn."""

    samples: int = _sampling(1, "Completions a prompt", ge=1, le=MOST, common=True)
    """Completions drawn for each prompt."""

    @classmethod
    def of(cls, config: DrawConfig, samples: int) -> SamplingConfig:
        """Return so many samples of each prompt, drawn as a command's settings say."""
        return cls(samples=samples, **{key: getattr(config, key) for key in DrawConfig.keys()})
