"""Three edits of an activation along a direction, as pure functions: add, ablate, clamp."""

from __future__ import annotations

from torch import Tensor

MODES = ("add", "ablate", "clamp")


def add(acts: Tensor, vector: Tensor) -> Tensor:
    """Return acts + vector.

    Parameters
    ----------
    acts
        Shape (..., d_model).
    vector
        Shape (d_model,).
    """
    return acts + vector.to(acts.dtype)


def ablate(acts: Tensor, direction: Tensor) -> Tensor:
    """Return acts - (acts . u) u: the component along a direction projected out.

    Computed in float32 whatever the dtype of the activations. Applied to one site it differs from
    editing every weight that writes to the residual stream (2406.11717): later blocks may write
    the direction again unless their layers are ablated too.

    Parameters
    ----------
    acts
        Shape (..., d_model).
    direction
        Unit vector u in float32, shape (d_model,).
    """
    return clamp(acts, direction, 0.0)


def clamp(acts: Tensor, direction: Tensor, value: float) -> Tensor:
    """Return acts + (value - acts . u) u: the component along a direction set to a value.

    Parameters
    ----------
    acts
        Shape (..., d_model).
    direction
        Unit vector u in float32, shape (d_model,).
    value
        The component afterwards, in units of the activations.
    """
    component = acts.float() @ direction  # (...,)
    moved = acts.float() + (value - component)[..., None] * direction
    return moved.to(acts.dtype)
