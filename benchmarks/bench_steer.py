"""What steering costs while a model writes, in one run: python benchmarks/bench_steer.py [--prompts FILE].

Every method writes to the same prompts in turn, for several rounds; the figure is new tokens a second
(prompts not counted), and the ratios are taken round by round.

    plain      the sampler, unsteered
    one        add at one layer, the middle one; coefficient 0: the same tokens at all the cost
    all        add at every layer, coefficient 0
    ablate     project out at every layer; it writes other tokens, which may end sooner
    generate   Hugging Face generate on the same prompts, unsteered, drawn with multinomial
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time

import numpy as np
import torch

from probekit.data.prompts import open_prompts
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, sample
from probekit.steering import SteeringVector, residual_norms, steered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", default="demo:sentiment_prompts")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, dtype=options.dtype)
    rows = [render(p, loaded.tokenizer) for p in open_prompts(options.prompts, limit=options.n)]
    config = SamplingConfig(max_new_tokens=options.new_tokens, samples=options.samples)
    depth = loaded.model.config.get_text_config().num_hidden_layers
    vectors = directions(loaded, rows, range(depth))
    middle = vectors.only([depth // 2])

    def write(vector=None, coeff=0.0, mode="add"):
        block = steered(loaded, vector, coeff, mode=mode) if vector else contextlib.nullcontext()
        with block:
            return sum(len(c.ids) for c in sample(loaded, rows, config))

    methods = {
        "plain": write,
        "one": lambda: write(middle),
        "all": lambda: write(vectors),
        "ablate": lambda: write(vectors, mode="ablate"),
        "generate": lambda: generate(loaded, rows, config),
    }
    print(
        f"{len(rows)} prompts x {config.samples} samples x {config.max_new_tokens} tokens, "
        f"{loaded.dtype}, {options.threads} threads"
    )
    speeds = {name: [] for name in methods}
    write()
    write(vectors)  # warm up, uncounted
    for round_ in range(options.rounds):
        order = list(methods.items())
        for name, method in order if round_ % 2 == 0 else reversed(order):
            started = time.perf_counter()
            tokens = method()
            speeds[name].append(tokens / (time.perf_counter() - started))
    for name, found in speeds.items():
        ratios = [b / a for a, b in zip(speeds["plain"], found, strict=True)]
        print(
            f"{name:<9}{statistics.median(found):>8.0f} tokens/s   of plain "
            f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
        )


def directions(loaded, rows, layers):
    """Return random directions in residual norms."""
    rng = np.random.default_rng(0)
    width = loaded.model.config.get_text_config().hidden_size
    raw = SteeringVector({layer: rng.standard_normal(width) for layer in layers})
    return raw.in_norms(residual_norms(loaded, rows, list(layers)))


@torch.inference_mode()
def generate(loaded, rows, config):
    """Return how many tokens Hugging Face generate wrote, up to each row's end of turn."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row.ids) :] = torch.from_numpy(row.ids.astype(np.int64))
        mask[i, width - len(row.ids) :] = 1
    ids, mask = (t.repeat_interleave(config.samples, 0).to(loaded.device) for t in (ids, mask))
    stop = loaded.tokenizer.eos_token_id
    out = loaded.model.generate(
        ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        max_new_tokens=config.max_new_tokens, pad_token_id=stop,
    )[:, width:]  # fmt: skip
    ended = (out == stop).int()
    return int(((ended.cumsum(1) - ended) == 0).sum())


if __name__ == "__main__":
    main()
