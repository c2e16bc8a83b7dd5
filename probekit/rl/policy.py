"""The model that learns: an adapter, merged while it writes and off for the reference; or all of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probekit.errors import ModelError
from probekit.models.load import LoadedModel

ADAPTER = "default"


class FullPolicy:
    """A loaded model all of whose weights are trained.

    The reference needs the weights a second time; they are exchanged in place, tensor for tensor,
    so that there is one module and every part of probekit can go on using `loaded`.

    Parameters
    ----------
    loaded
        The model. In bfloat16 small updates are rounded away: load it in float32.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.parameters = list(loaded.model.parameters())
        for parameter in self.parameters:
            parameter.requires_grad_(requires_grad=True)
        self._frozen = [p.detach().clone() for p in self.parameters]

    @property
    def n_trainable(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Put the weights of the start in place while the block lasts."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Do nothing: there is no adapter to merge."""
        yield

    def save(self, folder: Path) -> None:
        """Write the model with its tokenizer as transformers does."""
        self.loaded.model.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Set the weights to those of a saved one."""
        found = type(self.loaded.model).from_pretrained(folder, dtype=self.loaded.model.dtype)
        with torch.no_grad():
            for own, other in zip(self.parameters, found.parameters(), strict=True):
                own.copy_(other)

    def _exchange(self) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.data, self._frozen[i] = self._frozen[i], parameter.data


class Policy:
    """A loaded model with a trainable adapter in it.

    The adapter is put into the loaded model itself (peft replaces its linear layers in place), so
    every other part of probekit can go on using `loaded`. With the adapter off the model computes
    bit for bit what it did before: the frozen reference needs no second copy.

    Parameters
    ----------
    loaded
        The model.
    rank
        Of the LoRA matrices (2106.09685).
    alpha
        Their output is scaled by alpha / rank.
    targets
        `all-linear`, or names of linear layers with commas.
    seed
        Of the initial weights; the global random state is left alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        rank: int = 16,
        alpha: int = 32,
        targets: str = "all-linear",
        seed: int = 0,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self.loaded = loaded
        names = targets if targets == "all-linear" else targets.split(",")
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM", lora_dropout=0.0
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with warnings.catch_warnings():  # of attributes that peft still asks for
                    warnings.simplefilter("ignore", FutureWarning)
                    self.peft: Any = get_peft_model(loaded.model, config)
            except ValueError as error:
                raise ModelError(
                    f"LoRA targets {targets!r}: {' '.join(str(error).split())[:200]}"
                ) from error
        self.parameters = [p for p in self.peft.parameters() if p.requires_grad]
        if not self.parameters:
            raise ModelError(
                f"LoRA targets {targets!r}: leave nothing to train. Name other layers."
            )
        self._layers: list[Any] = [
            m for m in self.peft.modules() if hasattr(m, "lora_A") and m.lora_A
        ]

    @property
    def n_trainable(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapter off while the block lasts: the model is the frozen one."""
        with self.peft.disable_adapter():
            yield

    @contextlib.contextmanager
    @torch.no_grad()
    def merged(self) -> Iterator[None]:
        """Add the adapter to the weights while the block lasts, so that writing costs no more.

        The weights are copied back afterwards: subtracting what was added would leave rounding
        behind, and after a thousand steps a reference that has drifted.
        """
        kept: list[tuple[Any, Tensor]] = []
        try:
            for layer in self._layers:
                base = layer.get_base_layer()
                kept.append((base, base.weight.detach().clone()))
                base.weight += layer.get_delta_weight(ADAPTER).to(base.weight.dtype)
                layer.merged_adapters.append(ADAPTER)
            yield
        finally:
            for (base, weight), layer in zip(kept, self._layers, strict=False):
                base.weight.copy_(weight)
                if layer.merged_adapters:
                    layer.merged_adapters.pop()

    def save(self, folder: Path) -> None:
        """Write the adapter as peft does (safetensors), to be loaded with `PeftModel`."""
        self.peft.save_pretrained(folder, safe_serialization=True)

    def load(self, folder: Path) -> None:
        """Set the adapter's weights to those of a saved one."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(self.peft, load_file(folder / "adapter_model.safetensors"))


AnyPolicy = Policy | FullPolicy
