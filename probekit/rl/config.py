"""The settings of a run: what is aimed at, how it is learnt, and how it is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from probekit.errors import ModelError, ProbekitError
from probekit.models.sampling_config import MOST, DrawConfig, SamplingConfig
from probekit.settings import Listed, Rule, Texts, setting

_steps = partial(setting, group="Steps")
_sampling = partial(setting, group="Sampling")
_reward = partial(setting, group="Reward")
_refits = partial(setting, group="Refits of the head")
_guides = partial(setting, group="Guides")
_loss = partial(setting, group="Advantage and loss")
_optimiser = partial(setting, group="Optimiser")
_weights = partial(setting, group="Trained weights")
_evaluation = partial(setting, group="Evaluation")
_run = partial(setting, group="Run")


def _each_is_a_reward(rewards: tuple[str, ...]) -> tuple[str, ...]:
    from probekit.rl.extra import ExtraReward  # loads numpy, which help has no use for

    for spec in rewards:
        ExtraReward.check(spec)
    return rewards


@dataclass(frozen=True)
class RLConfig(DrawConfig):
    """Settings of a run.

    Examples
    --------
    >>> from probekit.rl import RLConfig
    >>> config = RLConfig(steps=10, prompts=4, group=8, target="max", kl_coeff=0.05)
    >>> config.prompts * config.group, [config.rate(step) for step in (0, 4)]
    (32, [0.2, 1.0])
    """

    error: ClassVar[type[ProbekitError]] = ModelError
    steps: int = _steps(40, "Steps", ge=1, common=True)
    """Number of training steps; each one writes completions and learns from them."""
    prompts: int = _steps(8, "Prompts a step", ge=1, common=True, option="--prompts-per-step")
    """Number of different prompts in a step."""
    group: int = _steps(8, "Completions a prompt", ge=2, common=True)
    """Completions of each prompt in a step, compared with each other (G)."""
    balance: str | None = _steps(None, "Balanced by", common=True)
    """Tag whose values are drawn equally often, or in shares as in TAG=VALUE:3,VALUE:1."""
    max_new_tokens: int = _sampling(40, "New tokens at most", ge=1, le=MOST, common=True)
    """Longest completion in tokens."""
    target: Literal["max", "clip", "gaussian", "kde", "chosen"] = _reward(
        "chosen", "Target", common=True
    )
    """What the reward aims at: the raw score (max), the score up to a bound (clip), a density of the
    chosen scores (gaussian, kde), or their distribution by quantile transport (chosen)."""
    target_tag: str | None = _reward(None, "Target for each", common=True)
    """Tag whose values each have their own chosen scores to aim at."""
    clip_margin: float = _reward(0.0, "Clip margin")
    """With target clip the score counts up to the mean of the chosen scores plus this many of their
    standard deviations."""
    ensemble_penalty: float = _reward(0.0, "Ensemble penalty", ge=0)
    """Weight lambda of the disagreement between several heads: mean - lambda * standard deviation."""
    ood_penalty: float = _reward(0.0, "Out-of-distribution penalty", ge=0)
    """Penalty in the reward for each unit by which a completion is further from the first head's rows
    than 95 % of those held back."""
    rewards: Annotated[Texts, Rule(after=_each_is_a_reward)] = _reward(
        (), "Further rewards", common=True, option="--reward", repeat=True
    )
    """Further reward as NAME=WEIGHT, where NAME is length, repetition, pattern:REGEX or
    module:function; may be repeated."""
    refit_every: int = _refits(0, "Refit every", ge=0, common=True)
    """Steps between refits of the heads on the policy's recent completions; 0 keeps the heads fixed."""
    refit_keep: int = _refits(640, "Completions kept for refits", ge=1)
    """Most recent completions that a refit uses."""
    refit_rate: float = _refits(1.0, "Refit rate", gt=0, le=1)
    """Share of the refitted head in the next one; below 1 the heads change slowly."""
    guides: int = _guides(0, "Guides a group")
    """Completions of each group that come from the head's own pairs, as many chosen as rejected."""
    guide_steps: int = _guides(20, "Steps with guides", ge=1)
    """Number of first steps whose groups hold guides."""
    estimator: Literal["grpo", "dr-grpo", "rloo"] | None = _loss(None, "Advantage", common=True)
    """How rewards of a group become advantages: grpo, dr-grpo or rloo. Without it,
    dr-grpo for targets that can be met (chosen, gaussian, kde), where learning then rests, else grpo."""
    credit: Literal["whole", "to-go"] = _loss("whole", "Credit")
    """Which tokens get the advantage: all of the completion (whole), or less for later tokens where a
    head reads a mean over tokens (to-go)."""
    epochs: int = _loss(1, "Passes over a step", ge=1)
    """Passes over the completions of a step; more than one needs the clip."""
    clip: float | None = _loss(0.2, "Clip", gt=0)
    """Clip of PPO's probability ratio; `--set clip=none` leaves plain REINFORCE."""
    kl_coeff: float = _loss(0.02, "KL weight", ge=0, common=True)
    """Weight of the divergence from the frozen model (KL)."""
    kl_in: Literal["loss", "reward"] = _loss("loss", "KL in")
    """Where the divergence is charged: in the loss for each token (k3), or in the reward for a whole
    completion."""
    entropy_bonus: float = _loss(0.0, "Entropy bonus", ge=0)
    """Weight of the entropy in the loss, which keeps completions varied."""
    entropy_target: float = _loss(0.0, "Share of the starting entropy to hold", ge=0)
    """Share of the first steps' entropy that the entropy bonus is moved to hold, up to tenfold; 0
    leaves the bonus fixed."""
    learning_rate: float = _optimiser(2e-4, "Learning rate", gt=0, common=True)
    """Highest learning rate of AdamW."""
    warmup: int = _optimiser(5, "Warm-up steps", ge=0)
    """Steps over which the learning rate rises from 0."""
    decay: Literal["constant", "linear", "cosine"] = _optimiser("constant", "Decay of the rate")
    """Learning rate after the warm-up: it stays (constant), or falls to 0 at the last step (linear,
    cosine)."""
    max_norm: float = _optimiser(1.0, "Gradient norm at most", gt=0)
    """Gradients are scaled down to this norm."""
    full_weights: bool = _weights(default=False, title="All weights trained")
    """Train all weights and no adapter; the frozen reference then takes as much memory again."""
    rank: int = _weights(16, "LoRA rank", ge=1)
    """Rank of the LoRA adapter."""
    alpha: int = _weights(32, "LoRA alpha", ge=1)
    """Scale of the LoRA adapter, alpha; its update is multiplied by alpha / rank."""
    lora_targets: Listed = _weights("all-linear", "LoRA layers")
    """Layers that get a LoRA adapter: all-linear, or module names with commas."""
    batch_tokens: int = _run(4096, "Padded tokens a forward pass", ge=1)
    """Padded tokens of a forward pass and of a part of a step's gradient, which bounds the memory."""
    eval_every: int = _evaluation(10, "Evaluated every", ge=1, common=True)
    """Steps between evaluations on the held-out prompts."""
    eval_prompts: int = _evaluation(64, "Prompts of an evaluation", ge=1, common=True)
    """Held-out prompts that are evaluated, equally many of every value of the balanced tag."""
    eval_samples: int = _evaluation(2, "Completions of an evaluated prompt", ge=1)
    """Completions of each held-out prompt at an evaluation."""
    best_of: int = _evaluation(16, "Samples for best-of-n", ge=0, le=1024)
    """Completions of each held-out prompt by the model before training, from which the best of every n up to
    this is picked by the score, beside training; 0 or 1 leaves them out."""
    placebo_heads: int = _evaluation(6, "Placebo heads", ge=0, le=6)
    """Heads of unrelated contrasts (cooking or astronomy) that are read at evaluations: a score that moves
    no further than they do has not moved for a reason of its own."""
    smallest_effect: float = _evaluation(0.15, "Smallest effect", gt=0, le=1)
    """Smallest change of the wanted behaviour's rate that counts, a share: 0.15 is 15 points. *Score only*
    is said where a gain of that size is excluded."""
    seed: int = _run(0, "Seed", ge=0, le=1 << 62, common=True)
    """Seed of prompts, sampling, adapter and intervals."""
    engine: Literal["embedded", "trl"] = _run("embedded", "Engine", common=True)
    """Who writes and learns: the embedded loop, or TRL's GRPOTrainer (trl)."""

    def __post_init__(self) -> None:
        """Check values that have to go together too."""
        super().__post_init__()
        if self.guides not in range(0, max(1, self.group - 1), 2):
            raise ModelError(
                f"guides: got {self.guides}, expected 0 or an even number, as many of each side, that leaves "
                f"two completions of a group of {self.group} to the policy."
            )
        if self.credit != "whole" and (self.rewards or self.kl_in == "reward"):
            raise ModelError(
                f"credit: got {self.credit!r}, which is for what heads read; further rewards or a divergence "
                "in the reward are of whole completions. Use --credit whole, or only the heads."
            )
        if self.entropy_target and not self.entropy_bonus:
            raise ModelError(
                f"entropy_target: got {self.entropy_target}, which needs an entropy bonus to move. Pass "
                "--entropy-bonus, for example 0.01."
            )
        if self.epochs > 1 and self.clip is None:
            raise ModelError(
                f"epochs: got {self.epochs}, and more than one needs a clip. Pass --clip, or --epochs 1."
            )
        embedded_only = {
            "guides": self.guides,
            "credit": self.credit != "whole",
            "entropy_target": self.entropy_target,
        }
        for key, used in embedded_only.items():
            if used and self.engine != "embedded":
                raise ModelError(
                    f"{key}: got {getattr(self, key)!r}, which engine {self.engine!r} cannot do. Use the "
                    "embedded one."
                )

    @property
    def advantage(self) -> str:
        """The estimator: the one that was asked for, else the one that fits the target."""
        return self.estimator or ("grpo" if self.target in ("max", "clip") else "dr-grpo")

    @property
    def needs_rows(self) -> bool:
        """Whether the rows that the heads were fitted on are needed."""
        return bool(self.refit_every or self.guides or self.ood_penalty)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 0-based, as a share of the highest one."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = 1.0 - (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.decay == "linear":
            return left
        return 0.5 - 0.5 * math.cos(math.pi * left) if self.decay == "cosine" else 1.0

    def sampling(self) -> SamplingConfig:
        """Return how a step's completions are drawn."""
        return SamplingConfig.of(self, self.group)
