"""The model that learns: an adapter beside the weights, off for the reference; or all of it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from probekit.errors import ModelError, OutputError
from probekit.models.load import LoadedModel, load_model
from probekit.models.low_rank import ADAPTER, compute_unrounded, parts
from probekit.parsing import read_tensors
from probekit.rl.config import RLConfig
from probekit.rl.lora_targets import all_linear, check_mergeable

MASTERS = "float32.safetensors"


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
                gradient = live.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
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
        """Set copies and model to other values, of the same shapes and in the order of `all`."""
        for master, value in zip(self.all, values, strict=True):
            master.copy_(value)
        self.publish()


AGAIN = "Pass --force to start the run again."
"""The remedy for a damaged checkpoint."""


class FullPolicy:
    """A loaded model all of whose weights are trained.

    The reference needs the weights a second time; they are exchanged in place, tensor for tensor,
    so that there is one module and every part of probekit can go on using `loaded`.

    Parameters
    ----------
    loaded
        The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._names, self._live = zip(*loaded.model.named_parameters(), strict=True)
        for parameter in self._live:
            parameter.requires_grad_(requires_grad=True)
        self.masters = Masters(self._live)
        self._frozen = [p.detach().clone() for p in self._live]

    @property
    def n_trainable(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self._live)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Put the weights of the start in place while the block lasts."""
        trained = [parameter.data for parameter in self._live]
        try:
            for parameter, frozen in zip(self._live, self._frozen, strict=True):
                parameter.data = frozen
            yield
        finally:
            for parameter, weights in zip(self._live, trained, strict=True):
                parameter.data = weights

    def save(self, folder: Path) -> None:
        """Write the model that writes, with its tokenizer as transformers does, and the float32 weights.

        A step below the last digit of a bfloat16 weight reaches the model when enough of them add up.
        """
        from safetensors.torch import save_file

        self.loaded.model.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)
        exact = dict(zip(self._names, self.masters.all, strict=True))
        save_file({k: v.detach() for k, v in exact.items()}, folder / MASTERS)

    def load(self, folder: Path) -> None:
        """Set the weights to those of a saved one."""
        saved = read_tensors(folder / MASTERS, OutputError, AGAIN)
        self.masters.set([saved[name] for name in self._names])


class Policy:
    """A loaded model with a trainable adapter in it.

    The adapter is put into the loaded model itself (peft replaces its linear layers in place), so
    every other part of probekit can go on using `loaded`. With the adapter off the model computes
    bit for bit what it did before: the frozen reference needs no second copy. With the adapter on it
    writes, learns and is read in the same way, unmerged, as peft computes what `save` wrote.

    Parameters
    ----------
    loaded
        The model.
    rank
        Rank of the LoRA matrices (2106.09685).
    alpha
        Their output is scaled by alpha / rank.
    targets
        `all-linear`, or names of linear layers with commas.
    seed
        Seed of the initial weights; the global random state is left alone.

    Examples
    --------
    >>> import torch
    >>> from probekit.models.load import load_model
    >>> from probekit.rl import Policy
    >>> loaded = load_model("smollm2-135m", dtype="float32")
    >>> ids = torch.arange(3, 9)[None]
    >>> before = loaded.model(ids).logits
    >>> policy = Policy(loaded, rank=2)
    >>> with torch.no_grad():
    ...     policy.masters.set([parameter + 0.1 for parameter in policy.masters.all])
    >>> with policy.reference():
    ...     torch.equal(before, loaded.model(ids).logits)
    True
    >>> torch.equal(before, loaded.model(ids).logits)
    False
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
        work, self.left_out = all_linear(loaded.model)
        names = work if targets == "all-linear" else targets.split(",")
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM", lora_dropout=0.0
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with warnings.catch_warnings():  # of attributes that peft still asks for
                    warnings.simplefilter("ignore", FutureWarning)
                    # GPT-2's transposed linear layers, which peft then handles.
                    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
                    # Of experts, which are refused below.
                    warnings.filterwarnings("ignore", message="The following .*_pattern keys")
                    # In the model's own dtype: casting to float32 and back costs more than LoRA.
                    self.peft: Any = get_peft_model(
                        loaded.model, config, autocast_adapter_dtype=False
                    )
            except ValueError as error:
                raise ModelError(
                    f"LoRA targets {targets!r}: {' '.join(str(error).split())[:200]}"
                ) from error
        named = [(n, p) for n, p in self.peft.named_parameters() if p.requires_grad]
        if not named:
            raise ModelError(
                f"LoRA targets {targets!r}: leave nothing to train. Name other layers."
            )
        self._names = [name for name, _ in named]
        self._layers: list[Any] = [
            m for m in self.peft.modules() if hasattr(m, "lora_A") and m.lora_A
        ]
        check_mergeable(self._layers, targets, work)
        self._check_layers(targets)
        compute_unrounded(self.peft)
        self.masters = Masters([p for _, p in named])

    @property
    def n_trainable(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.masters.all)

    def _check_layers(self, targets: str) -> None:
        """Refuse layers that nobody could merge: not linear ones, and weights used twice."""
        owners: dict[int, int] = {}
        for _, parameter in self.loaded.model.named_parameters(remove_duplicate=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        shared = any(owners.get(id(m.get_base_layer().weight), 0) > 1 for m in self._layers)
        if shared or any("lora_embedding" in name for name in self._names):
            raise ModelError(
                f"LoRA targets {targets!r}: name an embedding, or an output matrix that is one. Name "
                "linear layers with weights of their own, or all-linear."
            )

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapter off while the block lasts: the model is the frozen one."""
        with self.peft.disable_adapter():
            yield

    @contextlib.contextmanager
    @torch.no_grad()
    def merged(self) -> Iterator[None]:
        """Hold W + s B A in float32 as the layers' weights while the block lasts, to look at or to run.

        What `low_rank_linear` computes without forming it. Rounded to bfloat16 the sum would lose most of
        the first steps' change: it is smaller than the last digit of W.
        """
        kept: list[tuple[Any, Tensor, Any]] = []
        try:
            for layer in self._layers:
                base, a, b, scale = parts(layer)
                kept.append((layer, base.weight.data, layer.forward))
                change = scale * b.float() @ a.float()
                base.weight.data = base.weight.float() + (
                    change.T if layer.fan_in_fan_out else change
                )
                layer.forward = _float32_forward(layer)
            yield
        finally:
            for layer, weight, forward in kept:
                layer.get_base_layer().weight.data, layer.forward = weight, forward

    def save(self, folder: Path) -> None:
        """Write the adapter in float32 as peft does (safetensors), to be loaded with `PeftModel`."""
        exact = {
            n: p.detach().contiguous() for n, p in zip(self._names, self.masters.all, strict=True)
        }
        self.peft.save_pretrained(
            folder, safe_serialization=True, state_dict=exact, save_embedding_layers=False
        )

    def load(self, folder: Path) -> None:
        """Set the adapter's weights to those of a saved one."""
        saved = read_tensors(folder / "adapter_model.safetensors", OutputError, AGAIN)
        self.masters.set([saved[name.replace(f".{ADAPTER}", "")] for name in self._names])


def _float32_forward(layer: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401
    """Return the forward of a layer whose weight is in float32, in the dtype of its input."""
    base = layer.get_base_layer()
    weight = base.weight.T if layer.fan_in_fan_out else base.weight
    bias = None if base.bias is None else base.bias.float()
    return lambda x: torch.nn.functional.linear(x.float(), weight, bias).to(x.dtype)


AnyPolicy = Policy | FullPolicy


def make_policy(loaded: LoadedModel, config: RLConfig) -> AnyPolicy:
    """Return the policy of a run's settings, made of a loaded model in place."""
    if config.full_weights:
        return FullPolicy(loaded)
    return Policy(
        loaded,
        rank=config.rank,
        alpha=config.alpha,
        targets=config.lora_targets,
        seed=config.seed,
    )


def model_to_train(model: Any, tokenizer: Any) -> LoadedModel:  # noqa: ANN401
    """Return a model to train, one that nobody else has: a model in memory is copied.

    Raises
    ------
    ModelError
        When it has an adapter already.
    """
    loaded = load_model(model, tokenizer=tokenizer)
    names = [name for name, _ in loaded.model.named_modules()]
    if any("_original_component" in name or name.endswith(".base_layer") for name in names):
        raise ModelError(
            "model: is wrapped by TransformerLens or has an adapter already, and takes no other one. Give "
            "the transformers model below, or merge the adapter (merge_and_unload) and fit again."
        )
    if isinstance(model, (str, Path)):
        return loaded
    return dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
