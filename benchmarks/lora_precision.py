"""What ways to compute an adapter keep of it, and cost: python benchmarks/lora_precision.py [--rounds N].

    low-rank   `Policy`: [x, s x A^T] [W, B]^T, rounded once, for writing, reading and learning
    peft       peft's own forward of the same adapter
    rounded    W + s B A rounded into the model's dtype; gradients through the rounded weights
    float32    W + s B A in float32, as `Policy.merged` holds it

The policy takes real steps of GRPO from one text measure. After some of them the log-probabilities of
the same completions are compared with those of the model and adapter in float32: `kept` is the slope of a
way's change (adapter on minus off) against the float32 change, `rms` the error of the change a token,
nats. Then every way writes, reads and learns in turn for several rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import time

import numpy as np
import torch
from torch.nn.functional import linear

from probekit.activations.gather import pad
from probekit.data.prompts import open_prompts
from probekit.models.grouped_attention import grouped_attention
from probekit.models.load import load_model
from probekit.models.new_tokens import NewTokens
from probekit.models.prefix import SharedPrefix, plan_shared
from probekit.rl import Policy, RLConfig
from probekit.rl.learner import Learner
from probekit.rl.rollout import Writer

STEPS = (1, 5, 20)


class Rounded(torch.autograd.Function):
    """A layer with a merged weight, whose gradients go to the adapter."""

    @staticmethod
    def forward(ctx, x, weight, a, b, scale):
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return linear(x, weight)

    @staticmethod
    def backward(ctx, g):
        x, weight, a, b = ctx.saved_tensors
        flat, rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        down, up = (rows @ b).mul_(ctx.scale), (flat @ a.T).mul_(ctx.scale)
        return g @ weight, None, down.T @ flat, rows.T @ up, None


@contextlib.contextmanager
def rounded(policy):
    """Merge the adapter into the model's own dtype while the block lasts (layers without a bias)."""

    def forward(layer):
        weight = layer.get_base_layer().weight + layer.get_delta_weight("default")
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        scale = layer.scaling["default"]

        def run(x):
            if layer.disable_adapters:
                return layer.get_base_layer()(x)
            return (
                Rounded.apply(x, weight, a, b, scale)
                if torch.is_grad_enabled()
                else linear(x, weight)
            )

        return run

    with torch.no_grad(), swapped(policy, forward), torch.enable_grad():
        yield


@contextlib.contextmanager
def swapped(policy, make):
    """Give every adapted layer another forward while the block lasts."""
    kept = [layer.forward for layer in policy._layers]
    made = [make(layer) for layer in policy._layers]
    try:
        for layer, forward in zip(policy._layers, made, strict=True):
            layer.forward = forward
        yield
    finally:
        for layer, forward in zip(policy._layers, kept, strict=True):
            layer.forward = forward


def ways(policy):
    def own(layer):
        return type(layer).forward.__get__(layer)

    return {
        "low-rank": contextlib.nullcontext,
        "peft": lambda: swapped(policy, own),
        "rounded": lambda: rounded(policy),
        "float32": policy.merged,
    }


@torch.no_grad()
def logprobs(policy, rollout):
    model, found = policy.loaded.model, []
    for batch in plan_shared(rollout.rows, 512, model):
        shared = SharedPrefix([rollout.rows[i] for i in batch], model)
        ids, mask = pad(shared.rows, policy.loaded.device)
        tokens = NewTokens(shared.rows, [rollout.n_new[i] for i in batch], ids)
        found.append(tokens.logprobs(model, model, ids, mask, **shared.inputs(mask)))
    return torch.cat(found).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8, help="to compare and to time")
    parser.add_argument("--group", type=int, default=4, help="samples to learn from")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = RLConfig(
        steps=max(STEPS), prompts=options.prompts, group=options.group, kl_coeff=0.0,
        max_new_tokens=options.new_tokens, learning_rate=options.learning_rate,
    )  # fmt: skip
    policy = Policy(load_model(options.model, dtype=options.dtype))
    exact = Policy(load_model(options.model, dtype="float32"))
    prompts = open_prompts("demo:sentiment_prompts", limit=options.prompts)
    writer, learner = Writer(policy, prompts), Learner(policy, config)
    index = list(range(len(prompts)))
    many = dataclasses.replace(config.sampling(), samples=options.samples)
    rows = writer.write(index, many, seed=0)
    with policy.reference(), exact.reference():
        off, exact_off = logprobs(policy, rows), logprobs(exact, rows)
    noise = float((off - exact_off).pow(2).mean().sqrt())
    print(f"{rows.n_tokens} tokens; rms of {options.dtype} without an adapter {noise:.4f}")
    for number in range(max(STEPS)):
        rollout = writer.write(index, config.sampling(), seed=1 + number)
        learner.step(number, rollout, advantages(rollout, options.group), None)
        if number + 1 in STEPS:
            exact.masters.set(policy.masters.all)
            true = logprobs(exact, rows) - exact_off
            for name, way in ways(policy).items():
                with way():
                    change = logprobs(policy, rows) - off
                size = float(true.pow(2).mean().sqrt())
                kept = float((change * true).sum() / (true * true).sum())
                rms = float((change - true).pow(2).mean().sqrt())
                print(
                    f"step {number + 1:2d} {name:9s} kept {kept:.3f}  mean error "
                    f"{float((change - true).mean()):+.5f}  rms {rms:.4f} of {size:.4f}",
                    flush=True,
                )
    times(policy, writer, learner, many, options)


def advantages(rollout, samples):
    """Return those of the share of vowels, within the completions of a prompt."""
    share = np.array([sum(c in "aeiou" for c in text) / (1 + len(text)) for text in rollout.texts])
    group = share.reshape(-1, samples)
    return ((group - group.mean(1, keepdims=True)) / (group.std(1, keepdims=True) + 1e-4)).ravel()


def times(policy, writer, learner, many, options) -> None:
    index = list(range(options.prompts))
    rollout = writer.write(index, many, seed=0)
    advantage = advantages(rollout, options.samples)
    work = {
        "write": lambda: writer.write(index, many, seed=0),
        "read": lambda: logprobs(policy, rollout),
        "learn": lambda: gradient(policy, learner, rollout, advantage),
    }
    found = {name: {task: [] for task in work} for name in ways(policy)}
    for _ in range(options.rounds):
        for name, way in ways(policy).items():
            for task, run in work.items():
                if (name, task) == ("float32", "learn"):
                    continue  # its forward has no gradient of the adapter
                with way():
                    started = time.process_time()
                    run()
                    found[name][task].append(time.process_time() - started)
    for name, tasks in found.items():
        cells = [
            f"{task} {statistics.median(seen):.2f} s ({min(seen):.2f}-{max(seen):.2f})"
            for task, seen in tasks.items()
            if seen
        ]
        print(f"{name:9s} " + "  ".join(cells))


def gradient(policy, learner, rollout, advantage) -> None:
    with grouped_attention(policy.loaded):
        for batch in plan_shared(rollout.rows, learner._budget, policy.loaded.model):
            learner._part([int(i) for i in batch], rollout, advantage, None, {})
    for master in policy.masters.all:
        master.grad = None


if __name__ == "__main__":
    main()
