"""`--engine trl`: TRL's GRPOTrainer writes a run's completions and learns from them."""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.data.rows import Example
from probekit.errors import ModelError
from probekit.models.chat import render
from probekit.models.load import LoadedModel
from probekit.models.sampling import stop_ids
from probekit.rl.config import RLConfig
from probekit.rl.engine import Lesson
from probekit.rl.learner import Learner, StepStats
from probekit.rl.policy import AnyPolicy, Policy
from probekit.rl.prompts import PromptSampler
from probekit.rl.rollout import Rollout
from probekit.rl.trl import Rows
from probekit.rl.trl_guard import forward_kept, quiet, random_states, require_trl

INDEX = "probekit_index"
"""Dataset column with the prompt's place among those of the run."""


def check_trl(config: RLConfig) -> None:
    """Refuse what GRPOTrainer has no equal of, and a TRL that is absent or of another version.

    Raises
    ------
    ModelError
        With what to change.
    """
    require_trl("engine trl")
    for name, refused, why in (
        ("temperature", config.temperature == 0, "TRL cannot draw without chance"),
        ("kl_in", config.kl_in == "reward", "TRL's GRPOTrainer has the divergence in the loss"),
        ("full_weights", config.full_weights, "the reference is the adapter switched off"),
    ):
        if refused:
            raise ModelError(
                f"{name} {getattr(config, name)}: does not go with --engine trl, because {why}. "
                "Leave it out, or use --engine embedded."
            )


class TRLEngine:
    """GRPOTrainer as an engine: see `Engine`.

    GRPOTrainer owns its loop: it calls a reward function after writing and a callback after learning,
    and returns when all steps are done. So it runs in a thread of its own, and the two threads take
    turns: it works while the run's loop waits in `write` or `learn`, and waits in its reward function
    or its callback while the loop works. They never run at the same time.

    The loss is the embedded learner's function of a step's completions (see `grpo_settings`), on the
    run's own adapter and optimiser. Completions are drawn from torch's global random stream, which is
    seeded anew at every step, so that a resumed run goes the way the whole one went, and put back at
    the end.

    Parameters
    ----------
    policy
        The adapter that learns.
    learner
        Whose optimiser and settings are used.
    prompts
        To train on.
    sampler
        Which of them a step has: GRPOTrainer is given the prompts of all steps at once.
    folder
        The run's folder; GRPOTrainer asks for one and writes nothing there.
    """

    needs_reference = False  # it reads its own

    def __init__(
        self,
        policy: AnyPolicy,
        learner: Learner,
        prompts: Sequence[Example],
        sampler: PromptSampler,
        folder: Path,
    ) -> None:
        assert isinstance(policy, Policy)
        self.policy, self.optimizer, self.config = policy, learner.optimizer, learner.config
        self.prompts, self.sampler, self.folder = prompts, sampler, folder
        self.loaded = policy.loaded
        self._rows = Rows(self.loaded)
        self._prompt_rows = [render(prompt, self.loaded.tokenizer) for prompt in prompts]
        self._thread: threading.Thread | None = None

    def write(self, number: int, index: Sequence[int]) -> Rollout:
        """Let GRPOTrainer write a step's completions: see `Engine`."""
        if self._thread is None:
            self._to_trl: queue.Queue[Any] = queue.Queue()
            self._to_loop: queue.Queue[Any] = queue.Queue()
            self._thread = threading.Thread(None, self._work, "GRPOTrainer", (number,), daemon=True)
            self._thread.start()
        else:
            self._to_trl.put(None)
        written, rollout = self._answer()
        assert written == [i for i in index for _ in range(self.config.group)]
        return rollout  # type: ignore[no-any-return]

    def learn(self, number: int, lesson: Lesson) -> StepStats:
        """Let GRPOTrainer learn from the rewards; it works out advantages and reference itself."""
        self._to_trl.put([float(value) for value in lesson.reward])
        passes: list[dict[str, float]] = self._answer()
        first, nan = passes[0], float("nan")
        return StepStats(
            loss=first["loss"],
            kl=first.get("kl", nan),
            entropy=first["entropy"],
            clipped=float(np.mean([logs["clip_ratio/region_mean"] for logs in passes])),
            grad_norm=max(logs["grad_norm"] for logs in passes),
            sampler_gap=nan,
            entropy_bonus=self.config.entropy_bonus,
        )

    def close(self) -> None:
        """End GRPOTrainer's thread: at once when it waits, else after the half step that it is in."""
        if self._thread is not None:
            self._to_trl.put(_Stop())
            self._thread.join()
            self._thread = None

    def reward(
        self,
        completion_ids: Sequence[Sequence[int]],
        completions: Sequence[Any],
        **columns: Any,  # noqa: ANN401 - TRL passes every dataset column
    ) -> list[float]:
        """Hand what was written to the loop and return its rewards: TRL's reward function.

        Parameters
        ----------
        completion_ids
            Token ids of each of the n completions, with the end-of-turn token where there is one.
        completions
            Their texts, as messages or plain.
        columns
            The dataset's, `INDEX` among them.
        """
        index = list(columns[INDEX])
        made = [
            self._rows.row(self._prompt_rows[i], ids)
            for i, ids in zip(index, completion_ids, strict=True)
        ]
        rollout = Rollout(
            prompt=np.arange(len(made)) // self.config.group,
            rows=[row for row, _ in made],
            n_new=[len(ids) for ids in completion_ids],
            logprobs=[],
            texts=[_text(completion) for completion in completions],
            finished=np.array([ended for _, ended in made]),
        )
        rewards: list[float] = self._turn((index, rollout))
        return rewards

    def _work(self, first: int) -> None:
        """Train in the other thread, from step `first` to the last one or to `close`."""
        try:
            model, device = self.loaded.model, self.loaded.device
            with (
                random_states(device), forward_kept(model), _plain_generation(self.loaded), quiet()
            ):  # fmt: skip
                trainer = _grpo_trainer(self, first)
                trainer.add_callback(_watcher(self, first))
                trainer.train()
            error: BaseException = RuntimeError("GRPOTrainer has ended before the run's last step")
        except BaseException as raised:  # noqa: BLE001 - the loop's thread raises it
            error = raised
        self.loaded.model.eval()
        self._to_loop.put(error)

    def _turn(self, answer: Any) -> Any:  # noqa: ANN401 - what one of the calls returns, or waits for
        """Hand the loop its answer, and wait for its next call."""
        self.loaded.model.eval()
        self._to_loop.put(answer)
        asked = self._to_trl.get()
        self.loaded.model.train()
        if isinstance(asked, _Stop):
            raise asked
        return asked

    def _answer(self) -> Any:  # noqa: ANN401 - what `_turn` was given
        """Wait for the other thread; raise what ended it."""
        answer = self._to_loop.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer


class _Stop(BaseException):
    """Ends GRPOTrainer's thread."""


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
        Settings of the run.
    steps
        That are left to take.
    """
    total = config.prompts * config.group
    part = max(n for n in range(1, total + 1) if total % n == 0 and n <= max(config.batch, 1))
    weight = config.group / (config.group - 1) if config.advantage == "rloo" else 1.0
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
        "scale_rewards": "group" if config.advantage == "grpo" else "none",
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


def _grpo_trainer(engine: TRLEngine, first: int) -> Any:  # noqa: ANN401 - a GRPOTrainer
    """Return a GRPOTrainer for the steps from `first` on, with the run's own policy and optimiser."""
    import datasets
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    config, device = engine.config, engine.loaded.device
    index = [i for number in range(first, config.steps) for i in engine.sampler.step(number)]
    rows = [{"prompt": _prompt(engine, i), INDEX: i} for i in index]
    args = GRPOConfig(
        output_dir=str(engine.folder),
        use_cpu=device.type == "cpu",
        **grpo_settings(config, steps=config.steps - first),
    )

    def rate(update: int) -> float:
        return config.rate(first + update // config.epochs)

    adapted, optimizer = engine.policy.peft, engine.optimizer
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate
        group.pop("initial_lr", None)
    trainer = GRPOTrainer(
        model=adapted,
        reward_funcs=[engine.reward],
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        # The trainer may give it a padding token and a padding side.
        processing_class=copy.deepcopy(engine.loaded.tokenizer),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)),
    )
    if "ref" in adapted.peft_config:
        # A copy of the fresh adapter: with it gone the reference is the adapter switched off, which
        # is the frozen model itself.
        adapted.delete_adapter("ref")
    trainer.remove_callback(PrinterCallback)
    return trainer


def _prompt(engine: TRLEngine, index: int) -> Any:  # noqa: ANN401 - messages or text
    turns = engine.prompts[index].prompt or ()
    if not engine.loaded.tokenizer.chat_template:
        return "\n\n".join(turn.content for turn in turns) + "\n\n"  # as `render` joins them
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _watcher(engine: TRLEngine, first: int) -> Any:  # noqa: ANN401 - a transformers callback
    """Return a callback that seeds every step, and hands the loop what was logged of its passes."""
    from transformers import TrainerCallback

    epochs = engine.config.epochs

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.passes: list[dict[str, float]] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            if state.global_step % epochs == 0:
                number = first + state.global_step // epochs
                torch.manual_seed(engine.config.seed + 1 + number)
                self.passes = []

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401
            if "loss" not in given["logs"]:  # the summary at the end
                return
            self.passes.append(dict(given["logs"]))
            if len(self.passes) == epochs:
                try:
                    engine._turn(self.passes)
                except _Stop:
                    control.should_training_stop = True

    return Watcher()


def _text(completion: Any) -> str:  # noqa: ANN401 - text or messages
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


@contextlib.contextmanager
def _plain_generation(loaded: LoadedModel) -> Iterator[None]:
    """Let completions be drawn from the model's own distribution, and end where the embedded loop ends them.

    What a model's generation config brings along (a repetition penalty, suppressed tokens) would be
    filled in wherever TRL's own settings say nothing.
    """
    from transformers import GenerationConfig

    before = loaded.model.generation_config
    loaded.model.generation_config = GenerationConfig(
        bos_token_id=before.bos_token_id, eos_token_id=stop_ids(loaded), pad_token_id=before.pad_token_id
    )  # fmt: skip
    try:
        yield
    finally:
        loaded.model.generation_config = before
