"""An embedded policy-gradient loop whose reward is a head on a frozen model."""

from probekit.rl.config import RLConfig
from probekit.rl.policy import Policy
from probekit.rl.target import Target
from probekit.rl.train import Trainer
from probekit.rl.trl import trl_reward

__all__ = ["Policy", "RLConfig", "Target", "Trainer", "trl_reward"]
