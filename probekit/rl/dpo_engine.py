"""TRL's DPOTrainer on token ids of probekit's own, with a policy's adapter and optimiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from probekit.digests import check_directory, files_of, write_digests
from probekit.errors import ModelError, OutputError
from probekit.models.grouped_attention import grouped_attention
from probekit.rl.dpo_config import DPOConfig
from probekit.rl.dpo_rows import Pair
from probekit.rl.learner import adamw
from probekit.rl.policy import AGAIN, Policy
from probekit.rl.trl_guard import forward_kept, quiet, random_states

NAMES = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
}
"""TRL's name of a measure to ours."""
Log = Callable[[Mapping[str, Any]], None]


def learn(
    policy: Policy, pairs: Sequence[Pair], config: DPOConfig, folder: Path, log: Log
) -> list[dict[str, Any]]:
    """Train a policy's adapter on pairs, from the last checkpoint in `folder` on; return the history.

    The reference is the adapter switched off. TRL's trainer owns the loop, its checkpoints and the order of
    the pairs; global random states are put back. A row of the history is a step: TRL's measures of its pairs.

    Parameters
    ----------
    policy
        The adapter that learns.
    pairs
        To train on.
    config
        Settings.
    folder
        Where checkpoints are written and looked for.
    log
        Receives every row of the history.

    Raises
    ------
    ModelError
        When loss or gradient are not finite.
    """
    loaded = policy.loaded
    with (
        random_states(loaded.device), forward_kept(loaded.model), grouped_attention(loaded), quiet()
    ):  # fmt: skip
        trainer = _trainer(policy, pairs, config, folder, log)
        last = last_checkpoint(folder)
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        finally:
            loaded.model.eval()
        return [row for row in map(_row, trainer.state.log_history) if "loss" in row]


def trl_settings(config: DPOConfig, device: torch.device) -> dict[str, Any]:
    """Return the arguments of TRL's DPOConfig for a run's settings."""
    return {
        "max_steps": -1 if config.steps is None else config.steps,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.part,
        "gradient_accumulation_steps": config.batch // config.part,
        "loss_type": [config.loss],
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
        "learning_rate": config.learning_rate,
        "max_grad_norm": config.max_norm,
        "seed": config.seed,
        "max_length": None,  # rows are cut already
        "disable_dropout": True,
        "gradient_checkpointing": False,
        "bf16": False,  # the forward pass is in the model's own dtype
        "use_cpu": device.type == "cpu",
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,  # the last whole one stays while the next is written
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was finished, checked; None where there is none."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "digests.json").is_file()]
    if not found:
        return None
    last = max(found, key=lambda path: int(path.name.rpartition("-")[2]))
    check_directory(last, OutputError, AGAIN)
    return last


def _trainer(
    policy: Policy, pairs: Sequence[Pair], config: DPOConfig, folder: Path, log: Log
) -> Any:  # noqa: ANN401 - a DPOTrainer
    import datasets
    from transformers import PrinterCallback
    from trl import DPOConfig as Arguments
    from trl import DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        """DPOTrainer that takes token ids as they are, and keeps adapters as everything else does."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
            return (
                dataset  # a template that TRL applied might print another header, or other tokens
            )

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
            policy.save(Path(output_dir or folder))  # in float32, which the optimiser goes on from

        def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:  # noqa: ANN401
            policy.load(Path(checkpoint))

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ANN401
            # With transformers' own the first step would learn nothing, and a run of one step neither.
            self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: config.rate(step, num_training_steps)
            )
            return self.lr_scheduler

        def create_model_card(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
            """Write none: the adapter's own record says more."""

    trainer = Trainer(
        model=policy.peft,
        args=Arguments(output_dir=str(folder), **trl_settings(config, policy.loaded.device)),
        train_dataset=datasets.Dataset.from_list([pair.to_trl() for pair in pairs]),
        # The trainer may give it a padding token and a padding side.
        processing_class=copy.deepcopy(policy.loaded.tokenizer),
        callbacks=[_watcher(log)],
        optimizers=(adamw(policy, config.learning_rate), None),
    )
    if "ref" in policy.peft.peft_config:
        # A copy of the fresh adapter: with it gone the reference is the adapter switched off.
        policy.peft.delete_adapter("ref")
    trainer.remove_callback(PrinterCallback)
    return trainer


def _watcher(log: Log) -> Any:  # noqa: ANN401 - a transformers callback
    """Return a callback that hands on what is logged, and seals every checkpoint once it is whole."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401
            row = _row({"step": state.global_step, **given["logs"]})
            if "loss" not in row:  # the summary at the end
                return
            if not all(math.isfinite(row[name]) for name in ("loss", "grad_norm")):
                raise ModelError(
                    f"step {row['step']}: loss or gradient are not finite. The last checkpoint is kept; use "
                    "a smaller --learning-rate, or --dtype float32."
                )
            log({**row, "n_steps": state.max_steps})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_digests(checkpoint, files_of(checkpoint))

    return Watcher()


def _row(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what TRL logged of a step under our names."""
    row = {ours: float(logs[theirs]) for theirs, ours in NAMES.items() if theirs in logs}
    return {"step": int(logs["step"]), "epoch": float(logs.get("epoch", math.nan)), **row}
