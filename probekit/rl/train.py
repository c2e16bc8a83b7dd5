"""The loop, top to bottom: write, read with the frozen model, reward, advantage, learn."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.behaviours import Behaviours
from probekit.container import jsonable
from probekit.data.rows import Example
from probekit.errors import ModelError
from probekit.models.load import LoadedModel
from probekit.probes.probe import Probe
from probekit.rl.advantage import advantages, spread
from probekit.rl.checkpoint import Checkpoint
from probekit.rl.config import RLConfig
from probekit.rl.evaluation import Evaluator
from probekit.rl.frozen import FrozenReader
from probekit.rl.learner import Learner
from probekit.rl.policy import Policy
from probekit.rl.prompts import PromptSampler
from probekit.rl.reward import rewards
from probekit.rl.rollout import Writer
from probekit.rl.target import Target, wasserstein

Log = Callable[[dict[str, Any]], None]


@dataclass
class Trainer:
    """Everything a run needs; `run` goes through its steps.

    Parameters
    ----------
    loaded
        The model that the heads were fitted on; its layers get the adapter.
    heads
        Optimised together, as an ensemble when there are several.
    prompts
        To train on.
    held_out
        To evaluate on.
    config
        Settings.
    folder
        Where metrics, samples and checkpoints go.
    independent
        Heads that are read at evaluations and never optimised.
    behaviours
        Counted at evaluations.
    """

    loaded: LoadedModel
    heads: Sequence[Probe]
    prompts: Sequence[Example]
    held_out: Sequence[Example]
    config: RLConfig
    folder: Path
    independent: Sequence[Probe] = ()
    behaviours: Behaviours | None = None

    def __post_init__(self) -> None:
        self._done, self._whole = 0, True
        config = self.config
        tag = config.target_tag
        self.target = Target(config.target, self.heads[0].distributions, tag=tag)
        aim = Target("clip", self.heads[0].distributions) if self.heads[0].distributions else None
        self.chosen = aim.chosen.get("", np.empty(0)) if aim else np.empty(0)
        self.sampler = PromptSampler(
            self.prompts, config.prompts, balance=config.balance, seed=config.seed
        )
        self.values = [prompt.tags.get(tag or "", "") for prompt in self.prompts]
        self.policy = Policy(
            self.loaded, rank=config.rank, alpha=config.alpha, targets=config.lora_targets,
            seed=config.seed,
        )  # fmt: skip
        self.learner = Learner(self.policy, config)
        self.writer = Writer(self.policy, self.prompts)
        self.reader = FrozenReader(self.loaded, self.heads, batch_tokens=config.batch_tokens)
        everyone = FrozenReader(
            self.loaded, [*self.heads, *self.independent], batch_tokens=config.batch_tokens
        )
        held_out = list(self.held_out)[: config.eval_prompts]
        self.evaluator = Evaluator(
            Writer(self.policy, held_out), held_out, everyone, n_heads=len(self.heads),
            penalty=config.ensemble_penalty, chosen=self.chosen, behaviours=self.behaviours,
        )  # fmt: skip

    def run(self, *, resume: bool = False, log: Log = lambda row: None) -> None:
        """Train from the last checkpoint, or from the start, to the last step.

        An interrupt (Ctrl-C) saves the last whole step first.

        Raises
        ------
        ModelError
            When a reward is not finite (the last checkpoint is kept), or nothing can be learnt.
        """
        checkpoint = Checkpoint(self.folder)
        first = checkpoint.load(self.policy, self.learner) if resume else 0
        self._done = first
        if first == 0:
            self._evaluate(0, log)
        try:
            self._steps(first, checkpoint, log)
        except KeyboardInterrupt:
            # In the middle of a step of learning the weights are between two states.
            if self._whole and self._done > first:
                checkpoint.save(self.policy, self.learner, self._done)
            raise

    def _steps(self, first: int, checkpoint: Checkpoint, log: Log) -> None:
        for number in range(first, self.config.steps):
            row = self._step(number)
            self._write("metrics.jsonl", row)
            self._done, self._whole = number + 1, True
            log(row)
            if self._done % self.config.eval_every == 0 or self._done == self.config.steps:
                self._evaluate(self._done, log)
                checkpoint.save(self.policy, self.learner, self._done)

    def _step(self, number: int) -> dict[str, Any]:
        config, started = self.config, time.perf_counter()
        index = self.sampler.step(number)
        rollout = self.writer.write(index, config.sampling(), seed=config.seed + 1 + number)
        wrote = time.perf_counter()
        with self.policy.reference():
            frozen = self.reader.read(rollout.rows, rollout.n_new, logprobs=config.kl_coeff > 0)
        values = [self.values[index[int(p)]] for p in rollout.prompt]
        reward = rewards(frozen.scores, self.target, values, penalty=config.ensemble_penalty)
        self._check(reward.total, rollout.texts, number)
        groups = torch.from_numpy(reward.total).reshape(len(index), config.group)
        advantage = advantages(groups, config.estimator).reshape(-1).numpy()
        read = time.perf_counter()
        self._whole = False
        stats = self.learner.step(number, rollout, advantage, frozen.logprobs)
        known = reward.score[np.isfinite(reward.score)]
        return {
            "step": number + 1,
            "score": float(known.mean()),
            "score_sd": float(known.std()),
            "distance_to_chosen": wasserstein(known, self.chosen) if self.chosen.size else None,
            "reward": float(reward.total.mean()),
            "flat_groups": float(spread(groups)),
            **stats._asdict(),
            "n_tokens": rollout.n_tokens / len(rollout.rows),
            "finished": float(rollout.finished.mean()),
            "seconds": time.perf_counter() - started,
            "seconds_writing": wrote - started,
            "seconds_reading": read - wrote,
            "alarms": alarms(rollout.finished, groups, known, self.chosen, stats.entropy),
        }

    def _check(self, reward: Any, texts: list[str], number: int) -> None:  # noqa: ANN401
        bad = np.flatnonzero(~np.isfinite(reward))
        if bad.size:
            raise ModelError(
                f"step {number + 1}: the reward of completion {bad[0]} is {reward[bad[0]]} "
                f"({texts[bad[0]][:80]!r}). The last checkpoint is kept; look at the reward function."
            )

    def _evaluate(self, step: int, log: Log) -> None:
        config = dataclasses.replace(self.config.sampling(), samples=self.config.eval_samples)
        found, rows = self.evaluator.evaluate(config, seed=self.config.seed)
        row = {"step": step, "evaluation": found}
        self._write("evaluations.jsonl", row)
        for sample in rows:
            self._write("samples.jsonl", {"step": step, **sample})
        log(row)

    def _write(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(jsonable(row), ensure_ascii=False) + "\n")


def alarms(
    finished: Any,  # noqa: ANN401 - a boolean array
    groups: torch.Tensor,
    scores: Any,  # noqa: ANN401 - an array
    chosen: Any,  # noqa: ANN401 - an array
    entropy: float,
) -> list[str]:
    """Return what a careful reader of the log would want to be told."""
    found = []
    if float(spread(groups)) == 1.0:
        found.append("every group's rewards are equal: nothing is learnt from this step")
    if not finished.any():
        found.append("every completion was cut at the length limit")
    if chosen.size and scores.mean() > chosen.max():
        found.append("the mean score is past every chosen one")
    if entropy < 0.1:
        found.append("the entropy is below 0.1 nats a token")
    return found
