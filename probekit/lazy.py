"""Packages that import a module when one of its names is first asked for (PEP 562).

So a command's settings can be read, and its help printed, without loading torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy(package: str, **names: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return the `__getattr__` and the `__all__` of a package.

    Parameters
    ----------
    package
        The package's `__name__`.
    names
        Module to the public names that it defines, with spaces between them. A module may not have
        the name of one of them: once imported it would stand in its place.
    """
    module_of = {name: module for module, some in names.items() for name in some.split()}

    def getattribute(name: str) -> Any:  # noqa: ANN401 - any public name
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute, sorted(module_of)
