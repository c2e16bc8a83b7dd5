"""The error tree: every mistake a user can fix is a `ProbekitError` and prints as one line."""

from __future__ import annotations

from probekit.foreign import one_line


class ProbekitError(Exception):
    """A mistake the user can fix; one line says where, what was found, expected, and the remedy."""

    def __str__(self) -> str:
        """Return the message on one line, whatever was formatted into it; nothing in it moves a cursor."""
        return one_line(super().__str__())


def with_extra(name: str) -> str:
    """Return how to install what an extra of probekit names; the index has another project of its name."""
    return f"In the checkout of probekit run: pip install -e '.[{name}]'."


class DataError(ProbekitError):
    """A data file is missing, malformed or unfit for the task."""


class TemplateRefusal(DataError):
    """The model's chat template refuses a row, or does not print its completion."""


class ModelError(ProbekitError):
    """A model cannot be found, loaded, or hooked where it was asked."""


class StoreError(ProbekitError):
    """An activation store is missing, partial, foreign, damaged, newer, or does not fit."""


class ProbeError(ProbekitError):
    """A probe directory is not one, or the probe does not fit what it is applied to."""


class OutputError(ProbekitError):
    """An output path exists already, cannot be written, or the disk is full."""


class SteeringError(ProbekitError):
    """A steering vector, strength or place cannot be used on the model at hand."""


class PatternError(ProbekitError):
    """A regular expression takes too long on a text."""


class BehaviourError(ProbekitError):
    """A behaviours file is malformed, or a judge cannot be asked as it says."""
