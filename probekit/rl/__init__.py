"""Training: a policy-gradient loop whose reward is a head on a frozen model, and TRL on preferences."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.rl.config import RLConfig as RLConfig
    from probekit.rl.dpo import train_dpo as train_dpo
    from probekit.rl.dpo_config import DPOConfig as DPOConfig
    from probekit.rl.embedded import train_policy as train_policy
    from probekit.rl.policy import Policy as Policy
    from probekit.rl.target import Target as Target
    from probekit.rl.train import Trainer as Trainer
    from probekit.rl.trl import trl_reward as trl_reward
else:
    __getattr__, __all__ = lazy(
        __name__,
        config="RLConfig",
        dpo="train_dpo",
        dpo_config="DPOConfig",
        embedded="train_policy",
        policy="Policy",
        target="Target",
        train="Trainer",
        trl="trl_reward",
    )
