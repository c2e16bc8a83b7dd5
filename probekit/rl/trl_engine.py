"""`--engine trl`: the same run with TRL's GRPOTrainer for writing and learning."""

from __future__ import annotations

import contextlib
import copy
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from probekit.errors import ModelError
from probekit.models.chat import render
from probekit.rl.advantage import flat_groups
from probekit.rl.alarms import step_alarms
from probekit.rl.checkpoint import Checkpoint
from probekit.rl.config import RLConfig
from probekit.rl.learner import StepStats
from probekit.rl.policy import Policy
from probekit.rl.rollout import Rollout
from probekit.rl.target import wasserstein
from probekit.rl.train import Log, Trainer
from probekit.rl.trl import Rows

INSTALL = "pip install 'probekit[trl]' (in a checkout: pip install -e '.[trl]')"
INDEX = "probekit_index"
"""Dataset column with the prompt's place among those of the run."""


def trainer_class(engine: str) -> type[Trainer]:
    """Return the trainer of an engine, `embedded` or `trl`.

    Raises
    ------
    ModelError
        When TRL is not installed, or is another version than the engine knows.
    """
    if engine == "embedded":
        return Trainer
    try:
        found = version("trl")
    except PackageNotFoundError as error:
        raise ModelError(
            f"engine trl: needs the TRL library. Install probekit with the extra trl: {INSTALL}."
        ) from error
    if not (1, 16) <= tuple(int(part) for part in found.split(".")[:2]) < (2, 0):
        raise ModelError(
            f"engine trl: found TRL {found}, expected 1.16 or newer, below 2: {INSTALL}."
        )
    return TRLTrainer


class TRLTrainer(Trainer):
    """A run whose completions are written and learnt from by TRL's GRPOTrainer.

    Everything else is the embedded loop's: the adapter and its first weights, the optimiser with
    its warm-up, each step's prompts, the reward (read with the adapter off), evaluations, files.
    The loss is the same function of a step's completions (see `grpo_settings`); their luck is
    torch's, reseeded every step, so that a resumed run goes the way the whole one went.
    """

    def __post_init__(self) -> None:
        """Prepare the run as the embedded loop does."""
        _check_settings(self.config)
        super().__post_init__()
        self._rows = Rows(self.loaded)
        self._prompt_rows = [render(prompt, self.loaded.tokenizer) for prompt in self.prompts]
        self._row: dict[str, Any] = {}

    def _steps(self, first: int, checkpoint: Checkpoint, log: Log) -> None:
        if first >= self.config.steps:
            return
        with _global_luck(self.loaded.device), _forward_kept(self.loaded.model), _quiet():
            engine = _grpo_trainer(self, first)
            engine.add_callback(_watcher(self, first, checkpoint, log))
            try:
                engine.train()
            finally:
                self.loaded.model.eval()

    def _begin(self, number: int) -> None:
        """Refit where it is due, and reseed."""
        refit = self._refit(number)
        self._row, self._whole = {"refit": refit} if refit else {}, False
        torch.manual_seed(self.config.seed + 1 + number)

    def probe_reward(
        self,
        completion_ids: Sequence[Sequence[int]],
        completions: Sequence[Any],
        **columns: Any,  # noqa: ANN401 - TRL passes every dataset column
    ) -> list[float]:
        """Return the rewards of a step's completions: TRL's reward function.

        Parameters
        ----------
        completion_ids
            Token ids of each.
        completions
            Their texts, as messages or plain.
        columns
            Of the training data, `INDEX` among them.
        """
        started, index = time.perf_counter(), columns[INDEX]
        made = [
            self._rows.row(self._prompt_rows[i], ids)
            for i, ids in zip(index, completion_ids, strict=True)
        ]
        rollout = Rollout(
            prompt=np.arange(len(made)),
            rows=[row for row, _ in made],
            n_new=[len(ids) for ids in completion_ids],
            logprobs=[],
            texts=[_text(completion) for completion in completions],
            finished=np.array([ended for _, ended in made]),
        )
        with self.policy.reference():
            frozen = self.reader.read(rollout.rows, rollout.n_new)
        prompts = [self.prompts[i] for i in index]
        reward = self._reward(rollout, frozen, prompts)
        self._check(reward.total, rollout.texts, self._done)
        known = reward.score[np.isfinite(reward.score)]
        groups = torch.from_numpy(reward.total).reshape(-1, self.config.group)
        empty = StepStats(*[float("nan")] * len(StepStats._fields))
        row = {
            "step": self._done + 1,
            "score": float(known.mean()),
            "score_sd": float(known.std()),
            "distance_to_chosen": wasserstein(known, self.chosen) if self.chosen.size else None,
            "reward": float(reward.total.mean()),
            "flat_groups": flat_groups(groups, np.ones(groups.shape, dtype=bool)),
            **empty._asdict(),
            "n_tokens": rollout.n_tokens / len(rollout.rows),
            "finished": float(rollout.finished.mean()),
            **self._observe(rollout, frozen, prompts),
            **self._row,
            "seconds": None,
            "seconds_writing": None,
            "seconds_reading": time.perf_counter() - started,
        }
        self._row, self._judged = row, (rollout.finished, known)
        return [float(value) for value in reward.total]

    def _learnt(self, logs: dict[str, float], seconds: float) -> dict[str, Any]:
        """Return the step's row with what TRL says of learning, under the embedded loop's names."""
        finished, known = self._judged
        row = self._row | {
            "loss": logs["loss"],
            "kl": logs.get("kl", 0.0),
            "entropy": logs["entropy"],
            "clipped": logs["clip_ratio/region_mean"],
            "grad_norm": logs["grad_norm"],
            "seconds": seconds,
        }
        row["alarms"] = step_alarms(
            row, start=self._first(row), finished=finished, scores=known, chosen=self.chosen,
        )  # fmt: skip
        return row

    def _finish(self, row: dict[str, Any], checkpoint: Checkpoint, log: Log) -> None:
        """Log a whole step, evaluate and save where it is due."""
        self._write("metrics.jsonl", [row])
        self._done, self._whole = row["step"], True
        log(row)
        if self._done % self.config.eval_every == 0 or self._done == self.config.steps:
            self.loaded.model.eval()
            self._evaluate(self._done, checkpoint, log)
            checkpoint.save(self.policy, self.learner, self._done, self.refitter)
            self.loaded.model.train()


def _check_settings(config: RLConfig) -> None:
    """Refuse what GRPOTrainer has no equal of."""
    for name, refused, why in (
        ("temperature", config.temperature == 0, "TRL can not draw without chance"),
        ("kl_in", config.kl_in == "reward", "TRL's GRPOTrainer has the divergence in the loss"),
        ("full_weights", config.full_weights, "the reference is the adapter switched off"),
    ):
        if refused:
            raise ModelError(
                f"{name} {getattr(config, name)}: does not go with --engine trl, because {why}. "
                "Leave it out, or use --engine embedded."
            )


def grpo_settings(config: RLConfig, *, steps: int) -> dict[str, Any]:
    """Return the arguments of TRL's GRPOConfig that make its loss the embedded loop's.

    ::

        embedded                             TRL
        sum over tokens / tokens of the step loss_type "dapo"
        grpo, dr-grpo                        scale_rewards "group", "none"
        rloo = G / (G - 1) dr-grpo           "none" with a reward weight of G / (G - 1)
        k3, not corrected for the ratio      use_bias_correction_kl False
        passes over a step                   num_iterations
        no dropout, forward in the model's dtype   disable_dropout, bf16 False

    Parameters
    ----------
    config
        Of the run.
    steps
        That are left to take.
    """
    total = config.prompts * config.group
    part = max(n for n in range(1, total + 1) if total % n == 0 and n <= max(config.batch, 1))
    weight = config.group / (config.group - 1) if config.estimator == "rloo" else 1.0
    return {
        "max_steps": steps * config.epochs,
        "num_iterations": config.epochs,
        "per_device_train_batch_size": part,
        "gradient_accumulation_steps": total // part,
        "num_generations": config.group,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "loss_type": "dapo",
        "scale_rewards": "group" if config.estimator == "grpo" else "none",
        "reward_weights": [weight],
        "beta": config.kl_coeff,
        "use_bias_correction_kl": False,
        "epsilon": 0.2 if config.clip is None else config.clip,  # without effect on policy
        "entropy_coef": config.entropy_bonus,
        "max_grad_norm": config.max_norm,
        "seed": config.seed,
        "disable_dropout": True,
        "gradient_checkpointing": False,
        "bf16": False,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _grpo_trainer(run: TRLTrainer, first: int) -> Any:  # noqa: ANN401 - a GRPOTrainer
    """Return a GRPOTrainer for the steps from `first` on, of the run's own policy and optimiser."""
    import datasets
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    config, device = run.config, run.loaded.device
    index = [i for number in range(first, config.steps) for i in run.sampler.step(number)]
    rows = [{"prompt": _prompt(run, i), INDEX: i} for i in index]
    args = GRPOConfig(
        output_dir=str(run.folder),
        use_cpu=device.type == "cpu",
        **grpo_settings(config, steps=config.steps - first),
    )

    def rate(update: int) -> float:
        return config.rate(first + update // config.epochs)

    assert isinstance(run.policy, Policy)
    adapted, optimizer = run.policy.peft, run.learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate
        group.pop("initial_lr", None)
    trainer = GRPOTrainer(
        model=adapted,
        reward_funcs=[run.probe_reward],
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        # The trainer may give it a padding token and a padding side.
        processing_class=copy.deepcopy(run.loaded.tokenizer),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)),
    )
    if "ref" in adapted.peft_config:
        # A copy of the fresh adapter: with it gone the reference is the adapter switched off, which
        # is the frozen model itself.
        adapted.delete_adapter("ref")
    trainer.remove_callback(PrinterCallback)
    return trainer


def _prompt(run: TRLTrainer, index: int) -> Any:  # noqa: ANN401 - messages or text
    turns = run.prompts[index].prompt or ()
    if not run.loaded.tokenizer.chat_template:
        return "\n\n".join(turn.content for turn in turns) + "\n\n"  # as `render` joins them
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _watcher(run: TRLTrainer, first: int, checkpoint: Checkpoint, log: Log) -> Any:  # noqa: ANN401
    """Return a callback that reseeds every step, and hands its metrics to the run."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.started, self.logs = 0.0, dict[str, float]()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            number, pass_ = divmod(state.global_step, run.config.epochs)
            if pass_ == 0:
                self.started = time.perf_counter()
                run._begin(first + number)

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401
            logs = given["logs"]
            if "loss" not in logs:  # the summary at the end
                return
            pass_ = (state.global_step - 1) % run.config.epochs
            if pass_ == 0:
                self.logs = logs
            if pass_ == run.config.epochs - 1:
                seconds = time.perf_counter() - self.started
                run._finish(run._learnt(self.logs, seconds), checkpoint, log)

    return Watcher()


def _text(completion: Any) -> str:  # noqa: ANN401 - text or messages
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


@contextlib.contextmanager
def _global_luck(device: torch.device) -> Iterator[None]:
    """Put the global random states back that TRL seeds."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what transformers says of argument names that TRL chose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* will be removed in v6", FutureWarning)
        yield


@contextlib.contextmanager
def _forward_kept(model: Any) -> Iterator[None]:  # noqa: ANN401 - a transformers model
    """Take TRL's own forward function off the model again."""
    before = vars(model).get("forward")
    try:
        yield
    finally:
        vars(model).pop("forward", None)
        if before is not None:
            model.forward = before
