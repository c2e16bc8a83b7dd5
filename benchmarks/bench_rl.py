"""A step of RL and its writing beside TRL and transformers: python benchmarks/bench_rl.py [--rounds N].

Every method works in turn on the same model, adapter and prompts, for several rounds; a ratio is of the
medians, its interval from resampling the rounds.

    step      the embedded loop: write, read (head and reference), reward, learn
    trl       TRL's GRPOTrainer with `trl_reward`: the same head on a frozen copy of the model, the same
              loss (`grpo_settings`), rank, prompts, samples, length, and divergence
    rollout   the sampler, one batch of all sequences
    generate  Hugging Face generate on the same prompts

A step is of `--prompts` x `--samples` completions of `--new-tokens` tokens; both libraries may end a turn
early, so the figure is samples a second. In the rollout no end of turn is drawn: both write exactly the same
number of tokens. `--profile` also prints where the embedded step's time goes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from probekit.activations.table import Cell
from probekit.data.prompts import open_prompts
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, sample, stop_ids
from probekit.probes import Probe
from probekit.rl import RLConfig, Trainer, trl_reward
from probekit.rl.trl_engine import grpo_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="demo:sentiment_prompts")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--sequences", type=int, default=128, help="of the rollout")
    parser.add_argument("--beta", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", choices=("step", "rollout"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = open_prompts(options.data, limit=max(options.prompts, 16))
    if options.only != "rollout":
        with tempfile.TemporaryDirectory() as folder:
            steps(options, rows, Path(folder))
    if options.only != "step":
        rollouts(options, rows)


def steps(options, rows, folder) -> None:
    """Compare whole steps of learning."""
    config = RLConfig(
        steps=1 + options.rounds, prompts=options.prompts, group=options.samples,
        max_new_tokens=options.new_tokens, kl_coeff=options.beta, rank=16, target="max",
        warmup=1, eval_every=10**6, eval_prompts=1,
    )  # fmt: skip
    probe = any_probe(load_model(options.model, dtype=options.dtype))
    ours = Trainer(
        load_model(options.model, dtype=options.dtype), [probe], rows, rows[:1], config, folder
    )
    theirs = grpo_trainer(options, config, rows, probe, folder)
    n = options.prompts * options.samples
    print(
        f"step: {options.prompts} prompts x {options.samples} samples x {options.new_tokens} tokens, "
        f"LoRA r=16 all-linear, beta {options.beta}, {options.dtype}, {options.threads} threads"
    )
    found, rows_of_steps = {"step": [], "trl": []}, []

    def embedded():
        rows_of_steps.append(ours.step(len(rows_of_steps)))

    between_steps(theirs, embedded, found)
    found = {name: [n / s for s in seconds[1:]] for name, seconds in found.items()}  # warm
    report(found, "step", "trl", "samples/s")
    print(f"seconds a step: embedded {n / med(found['step']):.1f}, TRL {n / med(found['trl']):.1f}")
    if options.profile:
        for row in rows_of_steps[1:]:
            writing, reading = row["seconds_writing"], row["seconds_reading"]
            print(
                f"  writing {writing:.1f} s, reading {reading:.1f} s, learning "
                f"{row['seconds'] - writing - reading:.1f} s, {row['n_tokens']:.1f} tokens"
            )


def grpo_trainer(options, config, rows, probe, folder):
    """Return TRL's GRPOTrainer for the same steps."""
    import datasets
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    warnings.filterwarnings("ignore", ".* will be removed in v6", FutureWarning)
    loaded = load_model(options.model, dtype=options.dtype)
    frozen = load_model(options.model, dtype=options.dtype)
    prompts = [
        {"prompt": [{"role": turn.role, "content": turn.content} for turn in row.prompt]}
        for row in rows
    ]
    settings = grpo_settings(config, steps=config.steps)
    trainer = GRPOTrainer(
        model=loaded.model,
        reward_funcs=[trl_reward(probe, frozen)],
        args=GRPOConfig(
            output_dir=str(folder / "trl"), use_cpu=frozen.device.type == "cpu",
            learning_rate=config.learning_rate, lr_scheduler_type="constant", **settings,
        ),
        train_dataset=datasets.Dataset.from_list(prompts),
        processing_class=loaded.tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    return trainer


def between_steps(trainer, other, found) -> None:
    """Run `trainer.train()`, and `other` after each of its steps; keep the seconds of both."""
    from transformers import PrinterCallback, TrainerCallback

    class Turns(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            ended = time.perf_counter()
            found["trl"].append(ended - self.started)
            other()
            found["step"].append(time.perf_counter() - ended)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Turns())
    trainer.train()


def rollouts(options, rows) -> None:
    """Compare writing alone."""
    loaded = load_model(options.model, dtype=options.dtype)
    bias = torch.zeros(loaded.model.get_output_embeddings().weight.shape[0], dtype=torch.float32)
    bias[stop_ids(loaded)] = -1e4
    # Neither may end a turn: the same cost in both, one addition to the logits.
    loaded.model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: output + bias.to(output.dtype)
    )
    rendered = [render(row, loaded.tokenizer) for row in rows[:16]]
    samples = max(1, options.sequences // len(rendered))
    config = SamplingConfig(
        max_new_tokens=options.new_tokens, samples=samples, batch=options.sequences
    )
    tokens = len(rendered) * samples * options.new_tokens
    print(f"rollout: {len(rendered) * samples} sequences x {options.new_tokens} tokens")

    def rollout():
        assert sum(len(c.ids) for c in sample(loaded, rendered, config)) == tokens

    methods = {"rollout": rollout, "generate": lambda: generate(loaded, rendered, config)}
    found = alternate(methods, options.rounds, lambda seconds: tokens / seconds)
    report(found, "rollout", "generate", "tokens/s")


@torch.inference_mode()
def generate(loaded, rows, config):
    """Write with Hugging Face generate, drawn from the whole distribution."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row.ids) :] = torch.from_numpy(row.ids.astype(np.int64))
        mask[i, width - len(row.ids) :] = 1
    ids, mask = (t.repeat_interleave(config.samples, 0).to(loaded.device) for t in (ids, mask))
    out = loaded.model.generate(
        ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        max_new_tokens=config.max_new_tokens, pad_token_id=loaded.tokenizer.eos_token_id,
    )  # fmt: skip
    assert out.shape[1] == width + config.max_new_tokens


def alternate(methods, rounds, figure):
    """Return a figure a round of every method, in turn and in both orders, after a warm-up."""
    found = {name: [] for name in methods}
    for method in methods.values():
        method()  # uncounted
    for round_ in range(rounds):
        order = list(methods.items())
        for name, method in order if round_ % 2 == 0 else reversed(order):
            started = time.perf_counter()
            method()
            found[name].append(figure(time.perf_counter() - started))
    return found


def report(found, ours, theirs, unit) -> None:
    """Print the medians and the ratio with its interval."""
    a, b = np.array(found[ours]), np.array(found[theirs])
    draw = np.random.default_rng(0).integers(0, len(a), size=(10_000, len(a)))
    low, high = np.quantile(np.median(a[draw], axis=1) / np.median(b[draw], axis=1), [0.025, 0.975])
    for name, values in found.items():
        print(
            f"{name:<9}{med(values):>9.2f} {unit}   rounds {min(values):.2f} to {max(values):.2f}"
        )
    print(f"{ours} / {theirs}: {med(a) / med(b):.2f} [{low:.2f}, {high:.2f}], {len(a)} rounds")


def med(values) -> float:
    return float(statistics.median(values))


def any_probe(loaded) -> Probe:
    """Return a probe of random weights at two thirds of the depth: its cost is any probe's."""
    text = loaded.model.config.get_text_config()
    rng = np.random.default_rng(0)
    return Probe(
        kind="logistic", head=None,
        cell=Cell("resid_post", 2 * text.num_hidden_layers // 3, "mean"),
        coef=rng.standard_normal(text.hidden_size) / 10, bias=0.0, l2=1.0, data_kind="label",
    )  # fmt: skip


if __name__ == "__main__":
    main()
