"""Packages give their public names without loading torch for those that need none."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

ROOMS = ("analyses", "probes", "rl", "steering")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_no_module_stands_in_its_place(room):
    package = importlib.import_module(f"probekit.{room}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)
    for name in package.__all__:
        found = getattr(package, name)
        assert found.__name__ == name and found.__module__.startswith(f"probekit.{room}.")
    with pytest.raises(
        AttributeError, match=f"module 'probekit.{room}' has no attribute 'nothing'"
    ):
        _ = package.nothing


def test_settings_are_read_without_torch():
    code = (
        "import sys\nfrom probekit.rl import RLConfig\nfrom probekit.steering import SteerConfig\n"
        "from probekit.probes import SweepConfig\nfrom probekit.analyses import DynamicsConfig\n"
        "from probekit.activations.config import CacheConfig\n"
        "sys.exit(sorted({'torch', 'sklearn', 'pandas', 'scipy', 'h5py'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
