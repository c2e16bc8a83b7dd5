"""The loop, top to bottom: write, read with the frozen model, reward, advantage, learn.

Dimensions here and in the other modules of rl: P prompts of a step, G completions of each (a group),
n = P G completions, T new tokens of a completion, D = d_model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.behaviours import Behaviours, Wanted
from probekit.data.rows import Example
from probekit.errors import BehaviourError, ModelError
from probekit.models.load import LoadedModel
from probekit.probes.probe import Probe
from probekit.results.goodhart import Goodhart, goodhart
from probekit.results.rl_files import BEST_OF, DOCUMENT, EVALUATIONS, SAMPLES, STEPS
from probekit.rl.advantage import flat_groups
from probekit.rl.alarms import Start, evaluation_alarms, step_alarms
from probekit.rl.checkpoint import Checkpoint, Interrupts, Logs
from probekit.rl.config import RLConfig
from probekit.rl.engine import EmbeddedEngine, Engine, Lesson
from probekit.rl.evaluation import Evaluator, Readings, placebo_heads
from probekit.rl.extra import ExtraReward, Written
from probekit.rl.frozen import Frozen, FrozenReader
from probekit.rl.guides import make_guides, mixed_advantages
from probekit.rl.head_data import HeadData
from probekit.rl.learner import Learner
from probekit.rl.policy import make_policy
from probekit.rl.prompts import Balance, PromptSampler, drawn
from probekit.rl.refit import make_refitter
from probekit.rl.reward import Ensemble, Rewards, rewards
from probekit.rl.rollout import Rollout, Writer
from probekit.rl.target import Target, distance_to_chosen, good_scores
from probekit.rl.trl_engine import TRLEngine, check_trl

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
    wanted
        The behaviour that is hoped for.
    data, allow_code
        What every head was fitted on, for refits, the disjoint head and the distance, may be empty;
        whether functions that `config.rewards` names are imported.

    Examples
    --------
    >>> from pathlib import Path
    >>> from probekit.data.prompts import open_prompts
    >>> from probekit.models.load import load_model
    >>> from probekit.probes import Probe
    >>> from probekit.rl import RLConfig, Trainer
    >>> config = RLConfig(steps=1, prompts=1, group=2, max_new_tokens=3, eval_prompts=1, rank=2)
    >>> loaded, prompts = load_model("smollm2-135m"), open_prompts("demo:sentiment_prompts", limit=3)
    >>> trainer = Trainer(loaded, [Probe.load("sweep")], prompts[:2], prompts[2:], config, Path())
    >>> row = trainer.step(0)
    >>> row["step"], row["n_tokens"] <= 3
    (1, True)
    """

    loaded: LoadedModel
    heads: Sequence[Probe]
    prompts: Sequence[Example]
    held_out: Sequence[Example]
    config: RLConfig
    folder: Path
    independent: Sequence[Probe] = ()
    behaviours: Behaviours | None = None
    wanted: Wanted | None = None
    data: Sequence[HeadData] = ()
    allow_code: bool = False

    def __post_init__(self) -> None:
        self._done, self._whole = 0, True
        self._start: Start | None = None
        self.logs = Logs(self.folder)
        config = self.config
        if config.engine == "trl":
            check_trl(config)
        balance = Balance.parse(config.balance)
        self.tag = config.target_tag or (balance.tag if balance else "")
        self.sampler = PromptSampler(
            self.prompts, config.prompts, balance=config.balance, seed=config.seed
        )
        self.extra = [ExtraReward.parse(r, allow_code=self.allow_code) for r in config.rewards]
        self.refitter = make_refitter(config, self.data, n_heads=len(self.heads), tag=self.tag)
        self.placebos = placebo_heads(self.heads[0], self.loaded, config)
        self.policy = make_policy(self.loaded, config)
        self.learner = Learner(self.policy, config, [h.position for h in self.heads])
        self.engine = self._engine()
        self.guides = make_guides(config, self.data, self.prompts, self.loaded)
        self.reader = self._reader(self.heads)
        self._aim(self.heads)
        if config.target_tag:
            self.target.check([prompt.tags.get(config.target_tag, "") for prompt in self.prompts])
        self.evaluator = self._evaluator()

    def run(self, *, resume: bool = False, log: Log = lambda row: None) -> None:
        """Train from the last checkpoint, or from the start, to the last step.

        An interrupt (Ctrl-C) saves the last whole step first.

        Raises
        ------
        ModelError
            When a reward is not finite (the last checkpoint is kept), or nothing can be learnt.
        OutputError
            When the disk is full; the last whole checkpoint is kept.
        """
        checkpoint = Checkpoint(self.folder)
        first = checkpoint.load(self.policy, self.learner, self.refitter) if resume else 0
        self._done = first
        if first and self.refitter is not None:
            self._use(self.refitter.heads)
        try:
            # The evaluation of the checkpoint itself may be what was interrupted.
            if self._due(first) and self.logs.last_evaluation() < first:
                self._evaluate(first, checkpoint, log)
            if first == 0 and self.config.best_of > 1:
                rows = self._sampled(self.config.best_of)[0]
                BEST_OF.write(self.folder, [{"step": 0, **row} for row in rows])
            self._steps(first, checkpoint, log)
        except (KeyboardInterrupt, SystemExit):
            # In the middle of a step of learning the weights are between two states.
            if self._whole and self._done > first:
                checkpoint.save(self.policy, self.learner, self._done, self.refitter)
            raise

    def _steps(self, first: int, checkpoint: Checkpoint, log: Log) -> None:
        with (
            Interrupts(lambda: log({"note": "interrupted: saving after this step"})) as interrupts,
            contextlib.closing(self.engine),
        ):
            for number in range(first, self.config.steps):
                row = self.step(number)
                self.logs.append(STEPS, [row])
                self._done, self._whole = number + 1, True
                log(row)
                interrupts.check()
                if self._due(self._done):
                    self._evaluate(self._done, checkpoint, log)
                    checkpoint.save(self.policy, self.learner, self._done, self.refitter)
                    interrupts.check()

    def _due(self, step: int) -> bool:
        return step % self.config.eval_every == 0 or step == self.config.steps

    def step(self, number: int) -> dict[str, Any]:
        """Take one step (0-based), with any engine, and return its row of metrics.jsonl."""
        config, started = self.config, time.perf_counter()
        refit = self._refit(number)
        index = self.sampler.step(number)
        rollout = self.engine.write(number, index)
        if self.guides is not None:
            rollout = self.guides.join(rollout, index, number)
        wrote = time.perf_counter()
        with self.policy.reference():
            frozen = self.reader.read(
                rollout.rows, rollout.n_new, logprobs=self.engine.needs_reference
            )
        prompts = [self.prompts[index[int(p)]] for p in rollout.prompt]
        reward = self._reward(rollout, frozen, prompts)
        self._check(reward.total, rollout.texts, number)
        groups = torch.from_numpy(reward.total).reshape(len(index), config.group)  # (P, G)
        on_policy = rollout.on_policy
        mask = on_policy.reshape(groups.shape)  # (P, G)
        advantage = mixed_advantages(groups, mask, config.advantage).reshape(-1).numpy()  # (n,)
        read = time.perf_counter()
        self._whole = False
        lesson = Lesson(rollout, reward.total, advantage, frozen.logprobs)
        stats = self.engine.learn(number, lesson)
        scores = reward.score[np.isfinite(reward.score) & on_policy]
        row = {
            "step": number + 1,
            "score": float(scores.mean()),
            "score_sd": float(scores.std()),
            "distance_to_chosen": self._distance(
                np.where(on_policy, reward.score, np.nan), prompts
            ),
            "reward": float(reward.total[on_policy].mean()),
            "flat_groups": flat_groups(groups, mask),
            **stats._asdict(),
            "n_tokens": rollout.n_on_policy / int(on_policy.sum()),
            "finished": float(rollout.finished[on_policy].mean()),
            **self._observe(rollout, frozen, prompts),
            **({"refit": refit} if refit else {}),
            "seconds": time.perf_counter() - started,
            "seconds_writing": wrote - started,
            "seconds_reading": read - wrote,
        }
        row["alarms"] = step_alarms(
            row,
            start=self._first(row),
            finished=rollout.finished[on_policy],
            scores=scores,
            chosen=self.chosen,
        )
        return row

    def _reward(self, rollout: Rollout, frozen: Frozen, prompts: Sequence[Example]) -> Rewards:
        config = self.config
        ids = [
            row.ids[row.new : row.new + n].tolist()
            for row, n in zip(rollout.rows, rollout.n_new, strict=True)
        ]
        written = Written(prompts, rollout.texts, ids)
        extra = [(item.weight, item(written)) for item in self.extra]
        if config.kl_in == "reward" and frozen.logprobs is not None:
            gaps = [
                float((drawn_logprobs - reference).sum())
                for drawn_logprobs, reference in zip(rollout.logprobs, frozen.logprobs, strict=True)
            ]
            extra.append((-config.kl_coeff, np.array(gaps) * rollout.on_policy))
        if config.ood_penalty:
            far = self.data[0].excess(frozen.acts[self.data[0].head.cell])
            extra.append((-config.ood_penalty, far))
        values = [prompt.tags.get(config.target_tag or "", "") for prompt in prompts]
        n = len(self.heads)
        return rewards(frozen.scores[:, :n], self.ensemble, self.target, values, extra=extra)

    def _distance(self, scores: NDArray[np.float64], prompts: Sequence[Example]) -> float | None:
        tag = self.config.target_tag
        values = [prompt.tags.get(tag or "", "") for prompt in prompts]
        return distance_to_chosen(scores, self.ensemble.distributions, tag=tag, values=values)

    def _observe(
        self, rollout: Rollout, frozen: Frozen, prompts: Sequence[Example]
    ) -> dict[str, float]:
        """Return what nothing is learnt from: the first heads' score, the wanted behaviour.

        Keeps the outputs for the next refit as well.
        """
        measures: dict[str, float] = {}
        wanted: list[bool | None] = [None] * len(prompts)
        written = [int(i) for i in np.flatnonzero(rollout.on_policy)]
        if self.behaviours is not None and self.wanted is not None:
            for i, prompt in enumerate(prompts):
                question = prompt.prompt[-1].content if prompt.prompt else ""
                category = self.behaviours.classify(question, rollout.texts[i])
                wanted[i] = self.wanted.holds(category, prompt.tags)
            if judged := [good for i in written if (good := wanted[i]) is not None]:
                measures["wanted"] = float(np.mean(judged))
        if self.refitter is not None:
            first = self.evaluator.first.score(frozen.scores[:, len(self.heads) :])
            measures["score_first"] = float(np.nanmean(first[written]))
            self.refitter.add(
                {cell: acts[written] for cell, acts in frozen.acts.items()},
                [prompts[i].group for i in written],
                [prompts[i].tags.get(self.tag, "") for i in written],
                [wanted[i] for i in written],
            )
        return measures

    def _refit(self, number: int) -> dict[str, Any] | None:
        every = self.config.refit_every
        if self.refitter is None or number == 0 or number % every:
            return None
        self._whole = False
        refit = self.refitter.refit(number)
        if refit:
            self._use(self.refitter.heads)
        return refit

    def _use(self, heads: Sequence[Probe]) -> None:
        """Go on with other heads of the same cells."""
        self._aim(heads)
        self.reader.replace(heads)
        self.evaluator.refitted(heads, self.ensemble)

    def _aim(self, heads: Sequence[Probe]) -> None:
        config = self.config
        self.ensemble = Ensemble(heads, config.ensemble_penalty)
        self.target = Target(
            config.target,
            self.ensemble.distributions,
            tag=config.target_tag,
            margin=config.clip_margin,
        )
        self.chosen = good_scores(self.ensemble.distributions.get("all", {}))

    def _engine(self) -> Engine:
        if self.config.engine == "trl":
            return TRLEngine(self.policy, self.learner, self.prompts, self.sampler, self.folder)
        return EmbeddedEngine(Writer(self.policy, self.prompts), self.learner, self.config)

    def _reader(self, heads: Sequence[Probe], readings: Readings | None = None) -> FrozenReader:
        first = list(self.heads) if self.refitter is not None and readings is None else []
        return FrozenReader(
            self.loaded,
            readings.all if readings else [*heads, *first],
            batch_tokens=self.config.batch_tokens,
            temperature=self.config.temperature,
            keep=[head.cell for head in heads] if self.data else (),
        )

    def _evaluator(self) -> Evaluator:
        config = self.config
        readings = Readings(
            list(self.heads),
            list(self.heads) if self.refitter is not None else [],
            list(self.independent),
            [item.with_distributions(item.disjoint()) for item in self.data],
            self.placebos,
        )
        held_out = drawn(
            self.held_out, config.eval_prompts, seed=config.seed, balance=config.balance
        )
        named = [self.wanted.holds("", prompt.tags) for prompt in held_out] if self.wanted else [0]
        if all(value is None for value in named):
            raise BehaviourError(
                f"behaviour {str(self.wanted)!r}: is wanted of none of the {len(held_out)} held-out "
                "prompts. Check the tag and its values."
            )
        return Evaluator(
            Writer(self.policy, held_out),
            held_out,
            self._reader(self.heads, readings),
            readings=readings,
            ensemble=self.ensemble,
            behaviours=self.behaviours,
            wanted=self.wanted,
            distance=self.data[0].distance if self.data else None,
            standardised=self.data[0].standardised if self.data else None,
            target_tag=config.target_tag,
        )

    def _first(self, row: dict[str, Any]) -> Start:
        """Return the run's first step, from the log where the run was resumed."""
        if self._start is None:
            row = self.logs.first_step() or row
            self._start = Start(row["entropy"], row["n_tokens"])
        return self._start

    def _check(self, reward: NDArray[np.float64], texts: list[str], number: int) -> None:
        bad = np.flatnonzero(~np.isfinite(reward))
        if bad.size:
            raise ModelError(
                f"step {number + 1}: the reward of completion {bad[0]} is {reward[bad[0]]} "
                f"({texts[bad[0]][:80]!r}). The last checkpoint is kept; look at the reward function."
            )

    def _evaluate(self, step: int, checkpoint: Checkpoint, log: Log) -> None:
        rows, frozen = self._sampled(self.config.eval_samples)
        metrics = self.evaluator.measure(rows, frozen)
        row = {"step": step, "evaluation": metrics, "alarms": evaluation_alarms(metrics["all"])}
        # In this order: an evaluation that is written has its samples.
        self.logs.append(SAMPLES, [{"step": step, **sample} for sample in rows])
        if self.goodhart().sweet_spot == step:
            checkpoint.save_best(self.policy, step)
        self.logs.append(EVALUATIONS, [row])
        log(row)

    def _sampled(self, samples: int) -> tuple[list[dict[str, Any]], Frozen]:
        """Return completions of every held-out prompt, with what was read of them."""
        config = dataclasses.replace(self.config.sampling(), samples=samples)
        return self.evaluator.samples(config, seed=self.config.seed)

    def goodhart(self) -> Goodhart:
        """Return the curve of the run so far and what it says."""
        heads = [f"{head.kind}/{head.cell}" for head in self.heads]
        rows = SAMPLES.read(self.folder, DOCUMENT.again)
        return goodhart(
            rows,
            optimised=heads,
            behaviour=str(self.wanted) if self.wanted else None,
            smallest_effect=self.config.smallest_effect,
        )
