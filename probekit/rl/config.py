"""How a run is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from probekit.errors import ModelError
from probekit.models.sampling import SamplingConfig
from probekit.rl.advantage import ESTIMATORS
from probekit.rl.credit import CREDITS
from probekit.rl.extra import ExtraReward
from probekit.rl.target import TARGETS

ENGINES = ("embedded", "trl")
DECAYS = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class RLConfig:
    """Settings of a run."""

    steps: int = 40
    prompts: int = 8
    """Prompts of a step."""
    group: int = 8
    """Completions of each prompt (G)."""
    balance: str | None = None
    """Tag whose values are drawn equally often, or TAG=VALUE:SHARE,VALUE:SHARE."""
    max_new_tokens: int = 40
    temperature: float = 1.0
    top_p: float = 1.0
    target: str = "chosen"
    """`max`, `clip`, `gaussian`, `kde` or `chosen` (quantile transport)."""
    target_tag: str | None = None
    """Match the chosen scores of each value of this tag separately."""
    clip_margin: float = 0.0
    """`clip` bounds the score at the chosen mean plus this many of their standard deviations."""
    ensemble_penalty: float = 0.0
    """lambda of mean - lambda * std over several heads."""
    ood_penalty: float = 0.0
    """Taken from the reward for each unit of `HeadData.excess`: how much further a completion is from the
    first head's rows than 95 % of those held back."""
    rewards: tuple[str, ...] = ()
    """Further rewards, `NAME=WEIGHT` each: see `rl.extra`."""
    refit_every: int = 0
    """Steps between refits of the heads on the policy's own outputs; 0 keeps them fixed."""
    refit_keep: int = 640
    """Most recent outputs that a refit uses."""
    refit_rate: float = 1.0
    """Share of the refitted head in the next one; below 1 heads change slowly."""
    guides: int = 0
    """Completions of each group that are the head's own pairs', in the first `guide_steps` steps."""
    guide_steps: int = 20
    estimator: str = "grpo"
    """`grpo`, `dr-grpo` or `rloo`."""
    credit: str = "whole"
    """`whole`: a completion's advantage is for all of its tokens; `to-go`: less for later ones of what a
    head reads as a mean (`credit.shares`)."""
    epochs: int = 1
    """Passes over a step's completions; more than one needs the clip."""
    clip: float | None = 0.2
    """PPO's clip of the ratio; None is plain REINFORCE."""
    kl_coeff: float = 0.02
    """Weight of the divergence to the frozen model."""
    kl_in: str = "loss"
    """`loss` (k3, a token at a time) or `reward` (summed over the completion)."""
    entropy_bonus: float = 0.0
    """Weight of the entropy in the loss."""
    entropy_target: float = 0.0
    """Share of the first steps' entropy that the weight is moved to hold: see `rl.entropy`."""
    learning_rate: float = 2e-4
    warmup: int = 5
    """Steps over which the learning rate rises from 0."""
    decay: str = "constant"
    """After the warm-up the rate stays (`constant`), or falls to 0 at the last step (`linear`,
    `cosine`)."""
    max_norm: float = 1.0
    """Gradients are clipped to this norm."""
    full_weights: bool = False
    """Train all weights in place of an adapter; the reference then takes as much memory again."""
    rank: int = 16
    alpha: int = 32
    lora_targets: str = "all-linear"
    batch: int = 64
    """Sequences decoded together."""
    batch_tokens: int = 4096
    """Padded tokens of a forward pass, and of a part of a step's gradient."""
    eval_every: int = 10
    eval_prompts: int = 32
    eval_samples: int = 1
    seed: int = 0
    engine: str = "embedded"
    """`embedded`, or `trl` (TRL's GRPOTrainer writes and learns)."""

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ModelError(f"group {self.group}: expected 2 completions a prompt or more.")
        if self.engine not in ENGINES:
            raise ModelError(f"engine {self.engine!r}: unknown. Expected {', '.join(ENGINES)}.")
        if self.target not in TARGETS:
            raise ModelError(f"target {self.target!r}: unknown. Expected {', '.join(TARGETS)}.")
        if self.estimator not in ESTIMATORS:
            raise ModelError(
                f"estimator {self.estimator!r}: unknown. Expected {', '.join(ESTIMATORS)}."
            )
        for name in (
            "steps",
            "prompts",
            "epochs",
            "rank",
            "eval_every",
            "eval_prompts",
            "eval_samples",
            "refit_keep",
            "guide_steps",
            "batch_tokens",
        ):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} {getattr(self, name)}: expected 1 or more.")
        if self.credit not in CREDITS:
            raise ModelError(f"credit {self.credit!r}: unknown. Expected {', '.join(CREDITS)}.")
        if self.credit != "whole" and (self.rewards or self.kl_in == "reward"):
            raise ModelError(
                f"credit {self.credit!r}: is for what heads read, and further rewards or a divergence in the "
                "reward are of whole completions. Use --credit whole, or only the heads."
            )
        if self.kl_in not in ("loss", "reward"):
            raise ModelError(f"kl_in {self.kl_in!r}: unknown. Expected loss or reward.")
        if self.decay not in DECAYS:
            raise ModelError(f"decay {self.decay!r}: unknown. Expected {', '.join(DECAYS)}.")
        if not 0 < self.refit_rate <= 1:
            raise ModelError(f"refit_rate {self.refit_rate}: expected more than 0, up to 1.")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ModelError(f"{name} {value}: expected a number.")
        if self.guides not in range(0, max(1, self.group - 1), 2):
            raise ModelError(
                f"guides {self.guides}: expected 0 or an even number, as many of each side, that leaves two "
                f"completions of a group of {self.group} to the policy."
            )
        if self.entropy_target and not self.entropy_bonus:
            raise ModelError(
                f"entropy_target {self.entropy_target}: needs an entropy bonus to move. Pass "
                "--entropy-bonus, for example 0.01."
            )
        if self.clip is not None and not self.clip > 0:
            raise ModelError(f"clip {self.clip}: expected more than 0.")
        for name in ("max_norm", "alpha"):
            if not getattr(self, name) > 0:
                raise ModelError(f"{name} {getattr(self, name)}: expected more than 0.")
        for name in (
            "refit_every",
            "kl_coeff",
            "entropy_bonus",
            "entropy_target",
            "ensemble_penalty",
            "ood_penalty",
            "warmup",
        ):
            if not getattr(self, name) >= 0:
                raise ModelError(f"{name} {getattr(self, name)}: expected 0 or more.")
        if not self.learning_rate > 0:
            raise ModelError(f"learning_rate {self.learning_rate}: expected more than 0.")
        for spec in self.rewards:
            ExtraReward.parse(spec)
        if self.epochs > 1 and self.clip is None:
            raise ModelError("epochs: more than one needs a clip. Pass --clip, or --epochs 1.")
        self._check_engine()
        self.sampling()

    def _check_engine(self) -> None:
        """Refuse what only the embedded engine has."""
        used = {
            "guides": self.guides,
            "credit": self.credit != "whole",
            "entropy_target": self.entropy_target,
        }
        for name, on in used.items():
            if on and self.engine != "embedded":
                raise ModelError(f"{name}: engine {self.engine!r} has none. Use the embedded one.")

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
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            samples=self.group,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            batch=self.batch,
        )
