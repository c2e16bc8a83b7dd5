"""Weights in float32 behind weights of lower precision: steps too small to show still add up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class Masters:
    """Float32 copies that the optimiser works on, of parameters that the model computes with.

    A learning rate of 1e-4 changes a bfloat16 weight by less than its last digit, so updates are
    kept in float32 and rounded into the model; computing in the model's own precision is several
    times faster than in float32. For float32 parameters the copies are the parameters themselves.

    Parameters
    ----------
    live
        The parameters that the model computes with.
    """

    def __init__(self, live: Sequence[Parameter]) -> None:
        self._live = list(live)
        self.all: list[Tensor] = [
            p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for p in self._live
        ]
        """To be optimised, in the order of `live`."""

    @torch.no_grad()
    def collect(self) -> None:
        """Move the gradients that a backward pass left in the model to the copies."""
        for live, master in zip(self._live, self.all, strict=True):
            if live is not master and live.grad is not None:
                found = live.grad.float()
                master.grad = found if master.grad is None else master.grad + found
                live.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the copies into the model; their gradients have been used."""
        for live, master in zip(self._live, self.all, strict=True):
            if live is not master:
                live.copy_(master)
                master.grad = None

    @torch.no_grad()
    def set(self, values: Sequence[Tensor]) -> None:
        """Set copies and model to other values."""
        for master, value in zip(self.all, values, strict=True):
            master.copy_(value)
        self.publish()
