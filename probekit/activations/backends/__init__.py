"""Three ways to read a model's activations behind one small interface, with the same numbers."""

from __future__ import annotations

from probekit.activations.backends.base import Backend, Reader, prove
from probekit.errors import ModelError
from probekit.models.blocks import BlockNames
from probekit.models.load import LoadedModel

BACKENDS = ("hooks", "transformer-lens", "nnsight")

__all__ = ["BACKENDS", "Backend", "Reader", "make_backend", "prove"]


def make_backend(name: str, loaded: LoadedModel, *, names: BlockNames | None = None) -> Backend:
    """Return the backend `name` around a loaded model.

    `hooks` reads the user's own model and leaves nothing behind. `transformer-lens` and `nnsight`
    rewire or configure what they wrap, so each is given its own copy; their library is imported
    only here.

    Raises
    ------
    ModelError
        When the backend is unknown, its library is absent, or the architecture is.
    """
    if name == "hooks":
        from probekit.activations.backends.hooks import HooksBackend

        return HooksBackend(loaded, names=names)
    if name == "transformer-lens":
        from probekit.activations.backends.lens import TransformerLensBackend

        return TransformerLensBackend(loaded)
    if name == "nnsight":
        from probekit.activations.backends.nnsight import NNsightBackend

        return NNsightBackend(loaded, names=names)
    raise ModelError(f"backend {name!r}: unknown. Expected {', '.join(BACKENDS)}.")
