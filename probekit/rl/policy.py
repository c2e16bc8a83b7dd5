"""The model that learns: an adapter, merged while it writes and off for the reference; or all of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from probekit.errors import ModelError
from probekit.models.load import LoadedModel
from probekit.rl.config import RLConfig
from probekit.rl.lora_targets import all_linear, check_mergeable

ADAPTER = "default"
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

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Do nothing: there is no adapter to merge."""
        yield

    learning = merged

    def save(self, folder: Path) -> None:
        """Write the model with its tokenizer as transformers does, and the float32 weights."""
        from safetensors.torch import save_file

        self.loaded.model.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)
        exact = dict(zip(self._names, self.masters.all, strict=True))
        save_file({k: v.detach() for k, v in exact.items()}, folder / MASTERS)

    def load(self, folder: Path) -> None:
        """Set the weights to those of a saved one."""
        from safetensors.torch import load_file

        saved = load_file(folder / MASTERS)
        self.masters.set([saved[name] for name in self._names])


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
        self.masters = Masters([p for _, p in named])

    @property
    def n_trainable(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.masters.all)

    def _check_layers(self, targets: str) -> None:
        """Refuse layers that cannot be merged: not linear ones, and weights used twice."""
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

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        """Merge while the block lasts; gradients go through the merged weights to the adapter.

        Forward a layer costs what it costs without an adapter, and the weights that learn are, to the
        bit, those that wrote: see `merged_linear`.
        """
        with self.merged(), contextlib.ExitStack() as stack:
            for layer in self._layers:
                base = layer.get_base_layer()
                base.forward = _learning_forward(layer)
                stack.callback(base.__dict__.pop, "forward")
            yield

    def save(self, folder: Path) -> None:
        """Write the adapter in float32 as peft does (safetensors), to be loaded with `PeftModel`."""
        exact = dict(zip(self._names, (p.detach() for p in self.masters.all), strict=True))
        self.peft.save_pretrained(folder, safe_serialization=True, state_dict=exact)

    def load(self, folder: Path) -> None:
        """Set the adapter's weights to those of a saved one."""
        from safetensors.torch import load_file

        saved = load_file(folder / "adapter_model.safetensors")
        self.masters.set([saved[name.replace(f".{ADAPTER}", "")] for name in self._names])


def _learning_forward(layer: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401 - peft's LoRA layer
    """Return the forward of a merged layer's base that sends gradients to the adapter."""
    base = layer.get_base_layer()
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    weight = base.weight.T if layer.fan_in_fan_out else base.weight
    bias, scale = base.bias, layer.scaling[ADAPTER]
    return lambda x: merged_linear(x, weight, bias, a, b, scale)


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


class _MergedLinear(torch.autograd.Function):
    """y = x W'^T + c with W' = W + s B A; gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        """Return the layer's output, shape (..., n_out)."""
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of x, A and B.

        dL/dA = s B^T dL/dW' and dL/dB = s dL/dW' A^T with dL/dW' = g^T x, which is never formed: (g B)
        and (x A^T) have only as many columns as the adapter has rank.
        """
        x, weight, a, b = ctx.saved_tensors
        g = gradients[0]
        dx = g @ weight if ctx.needs_input_grad[0] else None
        flat, rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        down = (rows @ b).mul_(ctx.scale)
        up = (flat @ a.T).mul_(ctx.scale)
        return dx, None, None, down.T @ flat, rows.T @ up, None


def merged_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """Return x W'^T + bias, where W' holds the adapter already, with gradients of x, a and b.

    Forward it costs what the bare layer costs. Backward it costs the gradient of x, and products with
    r columns in place of the gradient of the whole weight.

    Parameters
    ----------
    x
        Shape (..., n_in).
    weight
        W' = W + scale * b a, shape (n_out, n_in).
    bias
        Shape (n_out,).
    a, b
        The adapter, shapes (r, n_in) and (n_out, r).
    scale
        Factor of the adapter, alpha / rank.
    """
    return _MergedLinear.apply(x, weight, bias, a, b, scale)  # type: ignore[no-any-return, no-untyped-call]
