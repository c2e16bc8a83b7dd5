"""The settings of training on preferences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from probekit.errors import ModelError, ProbekitError
from probekit.settings import Settings, setting

_steps = partial(setting, group="Steps")
_loss = partial(setting, group="Loss")
_optimiser = partial(setting, group="Optimiser")
_weights = partial(setting, group="Trained weights")
_rows = partial(setting, group="Rows")

BATCHWISE = ("aot", "aot_unpaired")
"""Losses that sort the pairs of a step, so that a step is one forward pass."""
SMOOTHED = ("exo_pair", "robust")
"""Losses that have a label smoothing."""


@dataclass(frozen=True)
class DPOConfig(Settings):
    """Settings of direct preference optimisation.

    Examples
    --------
    >>> from probekit.rl import DPOConfig
    >>> DPOConfig(batch=8, at_once=3).part
    2
    """

    error: ClassVar[type[ProbekitError]] = ModelError
    epochs: float = _steps(1.0, "Epochs", gt=0, le=1000, common=True)
    """Passes over the training pairs."""
    steps: int | None = _steps(None, "Steps", ge=1, common=True)
    """Training steps, in place of the number that --epochs makes."""
    batch: int = _steps(8, "Pairs a step", ge=1, common=True)
    """Pairs in a step."""
    at_once: int = _steps(2, "Pairs in one forward pass", ge=1)
    """Pairs in one forward pass at most, which bounds the memory; a step's gradient is of all its pairs."""
    save_every: int = _steps(20, "Steps between checkpoints", ge=1)
    """Steps between two checkpoints, from the last of which --resume goes on."""
    loss: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
        "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ] = _loss("sigmoid", "Loss", common=True)  # fmt: skip
    """Loss, by TRL's name (loss_type): sigmoid is plain DPO (2305.18290)."""
    beta: float = _loss(0.1, "Beta", gt=0, le=1000, common=True)
    """How strongly the model is held to where it began; a reward is beta times the log-ratio."""
    label_smoothing: float = _loss(0.0, "Label smoothing", ge=0, lt=0.5)
    """Share of labels taken to be wrong, of the losses robust and exo_pair (which needs some, as 0.001)."""
    learning_rate: float = _optimiser(5e-5, "Learning rate", gt=0, le=1, common=True)
    """Learning rate of AdamW at its highest; it rises over --warmup and falls to 0 in a line."""
    warmup: float = _optimiser(0.1, "Warm-up", ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    max_norm: float = _optimiser(1.0, "Gradient norm at most", gt=0)
    """Norm that a step's gradient is cut to."""
    rank: int = _weights(16, "LoRA rank", ge=1, le=1 << 12, common=True)
    """Rank of the LoRA matrices (2106.09685)."""
    alpha: int = _weights(32, "LoRA alpha", ge=1)
    """Their output is scaled by alpha / rank."""
    lora_targets: str = _weights("all-linear", "LoRA targets")
    """Layers with an adapter: all-linear, or names with commas."""
    max_tokens: int = _rows(512, "Tokens of a row at most", ge=2, le=1 << 20, common=True)
    """Longest prompt and completion in tokens; a completion's end beyond it is cut off."""
    held_out: float = _rows(0.25, "Share held out", gt=0, lt=1, common=True)
    """Share of the pairs' groups that are held out, to measure on before and after training."""
    seed: int = _rows(0, "Seed", ge=0, le=1 << 31, common=True)
    """Seed of the split, the adapter's first weights and the order of the pairs."""

    def __post_init__(self) -> None:
        """Refuse a smoothing that the loss does not have, or lacks."""
        super().__post_init__()
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ModelError(
                f"label_smoothing: {self.loss} has none. Leave it out, or use --loss "
                f"{' or '.join(SMOOTHED)}."
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ModelError(
                "label_smoothing: got 0, and exo_pair needs some. Expected more than 0, such as 0.001."
            )

    @property
    def part(self) -> int:
        """Pairs in a forward pass: as many as may be, and the same in each pass of a step."""
        if self.loss in BATCHWISE:
            return self.batch
        return max(n for n in range(1, self.at_once + 1) if self.batch % n == 0)

    def rate(self, step: int, n_steps: int) -> float:
        """Return the factor of the learning rate at a step, from 0; the first step learns too."""
        rising = math.ceil(self.warmup * n_steps)
        if step < rising:
            return (step + 1) / rising
        return max(0.0, 1 - (step - rising) / max(1, n_steps - rising))
