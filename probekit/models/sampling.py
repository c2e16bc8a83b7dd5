"""A fast batched sampler: prefill a prompt once, share it among its samples, decode together.

Every completion draws from its own stream of uniform numbers, fixed by seed, prompt and sample. So
a completion does not depend on its batch, and two runs that differ in one thing (a steering
strength, an adapter) share their random numbers: their difference is not sampling noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import ModelError
from probekit.models.amplify import check_amplify, mixed, passes
from probekit.models.chat import Rendered, Turn
from probekit.models.kv_cache import (
    check_decoding,
    decode_inputs,
    new_cache,
    preallocate,
    select_rows,
)
from probekit.models.load import LoadedModel
from probekit.models.prefix import head_input, left_pad
from probekit.models.sampling_config import SamplingConfig

COMPACT_AT = 0.25
"""Share of finished rows of a batch at which they are taken out of it."""
NUCLEUS_GUESS = 1024
"""Most probable tokens that are sorted first: a nucleus is rarely larger."""


@dataclass(frozen=True)
class Completion:
    """The tokens that the model wrote after one prompt."""

    prompt: int
    """Index of the prompt."""
    sample: int
    ids: NDArray[np.int32]
    """New token ids, shape (n_new,), ending with the end-of-turn token when `finished`."""
    logprobs: NDArray[np.float32]
    """Log-probability of each token under softmax(logits / temperature), in nats, shape (n_new,). Where
    `top_p` cut the nucleus this is still the whole distribution's."""
    finished: bool
    """False when the length limit cut it."""

    def rendered(self, prompt: Rendered, turn: Turn | int | None) -> Rendered:
        """Return prompt and completion as one row to score, on these very token ids.

        Its spans are those of a data row with the same text: a header that the template prints
        before answers is none of the content, nor is what it prints before the end of the turn. A cut
        completion is closed as the chat template would close it; an empty one has no content token.

        Parameters
        ----------
        prompt
            The rendered prompt.
        turn
            `LoadedModel.turn`, or the id of a closing token alone.
        """
        turn = turn if isinstance(turn, Turn) else Turn.closed_by(turn)
        written, closing = self.ids, turn.closing
        if self.finished:
            gap = closing[:-1]
            n = len(gap) + 1 if len(gap) and _ends(written[:-1], gap) else 1
            written, closing = written[:-n], written[-n:]
        header = turn.header_of(written)
        start = len(prompt.ids) + header
        stop = len(prompt.ids) + len(written)
        ids = np.concatenate([prompt.ids, written, closing]).astype(np.int32)
        end = len(ids) - 1 if len(closing) else None
        return Rendered(ids, start, stop, end, prompt.has_prompt, header)


class Batches(Protocol):
    """The completions of batches that are done, by their number."""

    def read(self, number: int) -> list[Completion] | None:
        """Return those of a batch; None where it is still to be drawn."""

    def write(self, number: int, completions: Sequence[Completion]) -> None:
        """Keep those of a batch."""


def _ends(ids: NDArray[np.int32], end: NDArray[np.int32]) -> bool:
    return len(ids) >= len(end) and bool((ids[len(ids) - len(end) :] == end).all())


def stop_ids(loaded: LoadedModel) -> list[int]:
    """Return the token ids that end a turn: the tokenizer's, the model's, and the chat template's own."""
    configured = loaded.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    turn = loaded.turn
    own = turn.closing[-1:].tolist() if turn.ends else []
    ids = dict.fromkeys(i for i in [loaded.tokenizer.eos_token_id, *several, *own] if i is not None)
    return [int(i) for i in ids]


def closing_id(loaded: LoadedModel) -> int | None:
    """Return the token that the chat template closes a completion with, None where there is none."""
    return int(loaded.turn.closing[-1]) if len(loaded.turn.closing) else None


def sample(
    loaded: LoadedModel,
    prompts: Sequence[Rendered],
    config: SamplingConfig,
    *,
    amplify: float | None = None,
    forward: Callable[..., Any] | None = None,
    kept: Batches | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Completion]:
    """Draw completions of every prompt, exactly as many as asked, in prompt-major order.

    Parameters
    ----------
    loaded
        The model and its tokenizer.
    prompts
        Rendered prompts (`start == stop == len(ids)`), of any lengths.
    config
        How completions are drawn.
    amplify
        k of base + k (tuned - base), of a model with an adapter in it; see `probekit.models.amplify`. None
        draws from the model as it is.
    forward
        Called in place of `loaded.model`, with the same arguments: another backend's forward pass.
    kept
        Where the completions of a batch are put as soon as it is done, and those of an earlier run lie.
    progress
        Told how many completions are done.

    Raises
    ------
    ModelError
        When a prompt and its completion would not fit the model's context.
    """
    check_drawing(loaded, prompts, config, amplify)
    completions: dict[tuple[int, int], Completion] = {}
    for number, (group, samples) in enumerate(_batches(prompts, config)):
        written = None if kept is None else kept.read(number)
        if written is None:
            rows = [prompts[i] for i in group]
            batch = _Batch(loaded, rows, group, samples, config, forward, amplify)
            written = batch.decode()
            if kept is not None:
                kept.write(number, written)
        for done in written:
            completions[done.prompt, done.sample] = done
        progress(len(completions))
    return [completions[i, j] for i in range(len(prompts)) for j in range(config.samples)]


def check_drawing(
    loaded: LoadedModel,
    prompts: Sequence[Rendered],
    config: SamplingConfig,
    amplify: float | None = None,
) -> None:
    """Do `check_context`, and refuse what cannot be amplified; see `sample`."""
    check_context(loaded, prompts, config)
    if amplify is not None and prompts:
        longest = max((prompt.ids for prompt in prompts), key=len)
        check_amplify(loaded.model, amplify, torch.from_numpy(longest).to(loaded.device).long())


def check_context(loaded: LoadedModel, prompts: Sequence[Rendered], config: SamplingConfig) -> None:
    """Refuse a model that cannot be sampled from, and prompts that do not fit it with what is to be written.

    Raises
    ------
    ModelError
        With the first of them, and its length or its token.
    """
    check_decoding(loaded.model)
    for number, prompt in enumerate(prompts, 1):
        loaded.check_ids(prompt.ids, f"prompt {number}")
        if len(prompt.ids) + config.max_new_tokens > loaded.max_length:
            raise ModelError(
                f"a prompt has {len(prompt.ids)} tokens and {config.max_new_tokens} new ones were "
                f"asked for; the model's context is {loaded.max_length}. Shorten either."
            )


def _batches(
    prompts: Sequence[Rendered], config: SamplingConfig
) -> list[tuple[list[int], list[int]]]:
    """Return (prompts, samples of each) of every batch; prompts of like length together."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids))
    size = max(1, config.batch // config.samples)
    every = list(range(config.samples))
    return [
        (order[at : at + size], every[first : first + config.batch])
        for at in range(0, len(order), size)
        for first in range(0, config.samples, config.batch)
    ]


class _Batch:
    """One batch: left-padded prompts, each repeated for its samples, decoded to the end."""

    def __init__(
        self,
        loaded: LoadedModel,
        prompts: list[Rendered],
        index: list[int],
        samples: list[int],
        config: SamplingConfig,
        forward: Callable[..., Any] | None,
        amplify: float | None,
    ) -> None:
        self.amplify, self.passes = amplify, passes(loaded.model, amplify)
        self.model, self.device = forward or loaded.model, loaded.device
        self.loaded, self.prompts, self.config = loaded, prompts, config
        self.names = [(prompt, sample) for prompt in index for sample in samples]
        self.samples = len(samples)
        self.stops = torch.tensor(stop_ids(loaded), device=self.device, dtype=torch.int64)
        n, length = len(self.names), config.max_new_tokens
        self.uniform = torch.from_numpy(
            np.stack([uniforms(config.seed, *name, length) for name in self.names])
        ).to(self.device)
        self.ids = torch.zeros((n, length), dtype=torch.int64, device=self.device)
        self.logprobs = torch.zeros((n, length), device=self.device)

    @torch.inference_mode()
    def decode(self) -> list[Completion]:
        """Prefill, then one token a step for every unfinished row."""
        logits, caches, mask = self._prefill()
        rows = torch.arange(len(self.names), device=self.device)  # the rows still in the batch
        done = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        lengths = torch.full_like(rows, self.config.max_new_tokens)
        for step in range(self.config.max_new_tokens):
            token, logprob = choose(logits, self.uniform[rows, step], self.config)
            alive = ~done
            self.ids[rows[alive], step] = token[alive]
            self.logprobs[rows[alive], step] = logprob[alive]
            ended = alive & torch.isin(token, self.stops)
            lengths[rows[ended]] = step + 1
            done |= ended
            if step + 1 == self.config.max_new_tokens or bool(done.all()):
                break
            if float(done.float().mean()) >= COMPACT_AT:
                keep = (~done).nonzero()[:, 0]
                for cache in caches:
                    select_rows(cache, keep)
                rows, token, mask, done = rows[keep], token[keep], mask[keep], done[keep]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            logits = self._forward(token[:, None], mask, caches)
        return self._completions(lengths)

    def _prefill(self) -> tuple[Tensor, list[Any], Tensor]:
        """Run every prompt once; return last logits, caches and mask, repeated for the samples."""
        ids, mask = left_pad([prompt.ids for prompt in self.prompts], self.device)
        caches = [new_cache(self.loaded.model) for _ in self.passes]
        with head_input(self.loaded.model, torch.Tensor.contiguous):
            logits = self._forward(ids, mask, caches)
        for cache in caches:
            preallocate(cache, self.samples, self.config.max_new_tokens)
        repeat = self.samples
        return logits.repeat_interleave(repeat, 0), caches, mask.repeat_interleave(repeat, 0)

    def _forward(self, ids: Tensor, mask: Tensor, caches: list[Any]) -> Tensor:
        """Return the logits after the last column, (n_rows, n_vocabulary)."""
        found = []
        for cache, switch in zip(caches, self.passes, strict=True):
            inputs = decode_inputs(self.loaded.model, mask, cache, ids.shape[1])
            with switch():
                logits = self.model(input_ids=ids, **inputs, logits_to_keep=1).logits
            found.append(logits[:, -1])
        return mixed(found, self.amplify)

    def _completions(self, lengths: Tensor) -> list[Completion]:
        stops, completions = set(self.stops.tolist()), []
        for row, (prompt, sample_index) in enumerate(self.names):
            n = int(lengths[row])
            ids = self.ids[row, :n].cpu().numpy().astype(np.int32)
            completions.append(
                Completion(
                    prompt=prompt,
                    sample=sample_index,
                    ids=ids,
                    logprobs=self.logprobs[row, :n].cpu().numpy(),
                    finished=int(ids[-1]) in stops,
                )
            )
        return completions


def uniforms(seed: int, prompt: int, sample_index: int, n: int) -> NDArray[np.float64]:
    """Return the uniform numbers in [0, 1) that a completion's tokens are drawn with, shape (n,)."""
    return np.random.default_rng([seed, prompt, sample_index]).random(n)


def choose(logits: Tensor, uniform: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution.

    Much cheaper than `torch.multinomial`, which draws one exponential for every vocabulary entry.

    Parameters
    ----------
    logits
        Shape (n, n_vocabulary).
    uniform
        In [0, 1), shape (n,).
    config
        Temperature and nucleus.

    Returns
    -------
    tuple[Tensor, Tensor]
        Token ids (n,) and their log-probabilities (n,), before any nucleus.
    """
    logits = logits.float()
    if config.temperature not in (0.0, 1.0):
        logits = logits / config.temperature
    if config.temperature == 0 or config.top_p < 1:
        logprob = logits.log_softmax(-1)
        token = (
            logits.argmax(-1)
            if config.temperature == 0
            else _nucleus(logprob.exp(), uniform, config)
        )
        return token, logprob.gather(1, token[:, None])[:, 0]
    top = logits.amax(-1, keepdim=True)
    weights = (logits - top).exp_()
    token = _invert(weights, uniform)
    logprob = logits.gather(1, token[:, None]) - top - weights.sum(-1, keepdim=True).log()
    return token, logprob[:, 0]


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index in proportion to weights (n, n_weights), by blocks: most are only summed."""
    n, size = weights.shape
    blocks = math.isqrt(size - 1) + 1
    padded = torch.nn.functional.pad(weights, (0, blocks * blocks - size)).view(n, blocks, blocks)
    at = uniform.to(torch.float64)
    block, rest = _place(padded.sum(-1), at)
    inside, _ = _place(padded[torch.arange(n, device=weights.device), block], rest)
    return (block * blocks + inside).clamp_max(size - 1)


def _place(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return where `uniform` falls in the weights' distribution, and how far into that weight."""
    # float64: summing 10^5 float32 probabilities would move the rarest tokens' shares.
    cdf = weights.cumsum(-1, dtype=torch.float64)
    at = (uniform * cdf[:, -1])[:, None]
    index = torch.searchsorted(cdf, at, right=True).clamp_max(weights.shape[1] - 1)
    probability = weights.gather(1, index).double()
    before = cdf.gather(1, index) - probability
    return index[:, 0], ((at - before) / probability.clamp_min(1e-300)).clamp(0.0, 1.0 - 2.0**-53)[
        :, 0
    ]


def _nucleus(probs: Tensor, uniform: Tensor, config: SamplingConfig) -> Tensor:
    k = min(NUCLEUS_GUESS, probs.shape[1])
    values, order = probs.topk(k)
    if k < probs.shape[1] and bool((values.sum(-1) < config.top_p).any()):
        values, order = probs.sort(-1, descending=True)
    before = values.cumsum(-1) - values
    kept = values * (before < config.top_p)
    return order.gather(1, _invert(kept, uniform)[:, None])[:, 0]
