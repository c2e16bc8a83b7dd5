"""Iterated heads: refit on the policy's own outputs, so that what it found to fool them is learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.activations.table import Cell
from probekit.errors import ModelError, OutputError
from probekit.probes.probe import Probe
from probekit.rl.config import RLConfig
from probekit.rl.head_data import HeadData, Outputs


class Refitter:
    """Keeps recent outputs of the policy and fits every head again with them as rejected.

    The view of a discriminator (GAN; a density ratio): the head has to tell chosen text from what
    the policy writes now. Outputs that do what is wanted are left out.

    Parameters
    ----------
    data
        What each head was fitted on.
    keep
        How many of the most recent outputs are used.
    rate
        Share of the refitted head in the new one: weights are averaged, w <- (1 - rate) w + rate w'.
    seed
        Seed of the choice of chosen completions that outputs are set against.
    tag
        Tag whose values are the classes of prompts.
    """

    def __init__(
        self,
        data: Sequence[HeadData],
        *,
        keep: int,
        rate: float = 1.0,
        seed: int = 0,
        tag: str = "",
    ) -> None:
        self.tag = tag
        self.data, self.keep, self.rate, self.seed = list(data), keep, rate, seed
        self.heads = [item.head for item in self.data]
        """As they are now."""
        self.left_out = 0
        """Outputs left out since the last refit, because they do what is wanted."""
        self._acts: list[NDArray[np.float32]] = [
            np.empty((0, len(head.coef)), dtype=np.float32) for head in self.heads
        ]
        self._groups: list[str] = []
        self._tags: list[str] = []

    def add(
        self,
        acts: Mapping[Cell, NDArray[np.float32]],
        groups: Sequence[str],
        tags: Sequence[str],
        wanted: Sequence[bool | None],
    ) -> None:
        """Keep the outputs of a step that are not wanted and could be read at every head's cell.

        Parameters
        ----------
        acts
            On the frozen model, each (n, d_model); NaN where a position has no token.
        groups, tags
            Group and class of each output's prompt, n of each.
        wanted
            True for outputs that are left out.
        """
        read = np.all([np.isfinite(acts[head.cell]).all(axis=1) for head in self.heads], axis=0)
        use = [i for i, good in enumerate(wanted) if good is not True and read[i]]
        self.left_out += sum(good is True for good in wanted)
        self._acts = [
            np.concatenate([kept, acts[head.cell][use]])[-self.keep :]
            for kept, head in zip(self._acts, self.heads, strict=True)
        ]
        self._groups = (self._groups + [groups[i] for i in use])[-self.keep :]
        self._tags = (self._tags + [tags[i] for i in use])[-self.keep :]

    def refit(self, number: int) -> dict[str, Any] | None:
        """Fit the heads again; return what happened, None when there are no outputs.

        Parameters
        ----------
        number
            The step, 0-based, for the seed.
        """
        if not self._groups:
            return None
        before = self.heads
        self.heads = [self._new(k, number) for k in range(len(self.data))]
        left_out, self.left_out = self.left_out, 0
        return {
            "n_outputs": len(self._groups),
            "n_wanted_left_out": left_out,
            "accuracy": float(
                np.mean([d.accuracy(h) for d, h in zip(self.data, self.heads, strict=True)])
            ),
            "cosine": float(
                np.mean(
                    [a.direction @ b.direction for a, b in zip(before, self.heads, strict=True)]
                )
            ),
        }

    def _new(self, k: int, number: int) -> Probe:
        outputs = Outputs(self._acts[k], self._groups, self._tags, self.tag)
        new, old = self.data[k].refit(outputs, seed=self.seed + number), self.heads[k]
        if self.rate == 1.0:
            return new
        mixed = dataclasses.replace(
            new,
            coef=(1 - self.rate) * old.coef + self.rate * new.coef,
            bias=(1 - self.rate) * old.bias + self.rate * new.bias,
        )
        return self.data[k].with_distributions(mixed)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what a checkpoint has to keep: tensors by name, and the rest.

        For head k, `k/coef` holds coef and bias, shape (d_model + 1,), and `k/acts` the kept outputs,
        shape (n_kept, d_model).
        """
        tensors = {}
        for k, head in enumerate(self.heads):
            tensors[f"{k}/coef"] = torch.from_numpy(np.append(head.coef, head.bias))
            tensors[f"{k}/acts"] = torch.from_numpy(self._acts[k].copy())
        rest = {"groups": self._groups, "tags": self._tags, "left_out": self.left_out}
        return tensors, rest

    def load_state(self, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> None:
        """Go back to what `state` returned, tensors of the same shapes.

        Raises
        ------
        OutputError
            When it is of other heads.
        """
        if len(tensors) != 2 * len(self.heads):
            raise OutputError("checkpoint: was made with another number of heads. Start again.")
        for k, head in enumerate(self.heads):
            weights = tensors[f"{k}/coef"].numpy()
            refitted = dataclasses.replace(head, coef=weights[:-1].copy(), bias=float(weights[-1]))
            self.heads[k] = self.data[k].with_distributions(refitted)
            self._acts[k] = tensors[f"{k}/acts"].numpy().copy()
        self._groups, self._tags = list(rest["groups"]), list(rest["tags"])
        self.left_out = int(rest["left_out"])


def make_refitter(
    config: RLConfig, data: Sequence[HeadData], *, n_heads: int, tag: str
) -> Refitter | None:
    """Return what refits a run's heads; None where they stay as they are.

    Raises
    ------
    ModelError
        When the rows that the heads were fitted on are absent.
    """
    if not config.refit_every:
        return None
    if len(data) != n_heads:
        raise ModelError(
            "refit_every: the rows that the heads were fitted on are not known. Name their store "
            "with --store, or leave the heads as they are."
        )
    return Refitter(data, keep=config.refit_keep, rate=config.refit_rate, seed=config.seed, tag=tag)
