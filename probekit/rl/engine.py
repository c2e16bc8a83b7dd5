"""What a run's loop asks of an engine, write and learn, and the embedded engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from probekit.rl.config import RLConfig
from probekit.rl.learner import Learner, StepStats
from probekit.rl.rollout import Rollout, Writer


class Lesson(NamedTuple):
    """A step's completions with what the loop makes of them; n = P G completions."""

    rollout: Rollout
    reward: NDArray[np.float64]
    """After the target, further rewards included, shape (n,)."""
    advantage: NDArray[np.float64]
    """Reward compared within its group, shape (n,)."""
    reference: list[NDArray[np.float32]] | None
    """The frozen model's log-probabilities of the new tokens of each completion; None where no divergence
    is measured, or the engine works them out itself."""


class Engine(Protocol):
    """Two calls, in turn, for every step. The loop does everything else, the same for every engine."""

    needs_reference: bool
    """Whether `Lesson.reference` is read."""

    def write(self, number: int, index: Sequence[int]) -> Rollout:
        """Return completions of a step's prompts, G of each in prompt-major order.

        Parameters
        ----------
        number
            The step, 0-based; steps follow one another without gaps.
        index
            Places of the step's P prompts among those of the run.
        """
        ...

    def learn(self, number: int, lesson: Lesson) -> StepStats:
        """Change the policy by what `write` returned last, and return what happened."""
        ...

    def close(self) -> None:
        """Let go of what the steps held; a later `write` begins anew."""
        ...


class EmbeddedEngine:
    """The engine of our own: `Writer` decodes, `Learner` takes the gradient.

    Parameters
    ----------
    writer
        Writes completions of the prompts to train on.
    learner
        Learns, with the same policy.
    config
        Settings of the run.
    """

    def __init__(self, writer: Writer, learner: Learner, config: RLConfig) -> None:
        self.writer, self.learner, self.config = writer, learner, config
        self.needs_reference = config.kl_coeff > 0

    def write(self, number: int, index: Sequence[int]) -> Rollout:
        """Return completions drawn with a random stream of the step's own: see `Engine`."""
        seed = self.config.seed + 1 + number
        return self.writer.write(index, self.config.sampling(), seed=seed)

    def learn(self, number: int, lesson: Lesson) -> StepStats:
        """Take one step of the optimiser in each pass: see `Engine`."""
        return self.learner.step(number, lesson.rollout, lesson.advantage, lesson.reference)

    def close(self) -> None:
        """Do nothing: nothing is held between steps."""
