"""A checkout that is installed as `make setup` does is found, wherever Python is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as b; print('\\n' + b.build_editable(sys.argv[1]))"
FIND = (
    "import site, sys; site.addsitedir(sys.argv[1]); import probekit, probekit.inside as i; "
    "print(probekit.__file__, i.ANSWER)"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A checkout in a folder that is called as the package is, and where it is installed."""
    home = tmp_path_factory.mktemp("home")
    checkout, site = home / "probekit", home / "site"
    (checkout / "probekit").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "probekit" / "__init__.py").write_text("HERE = True\n")
    (checkout / "probekit" / "inside.py").write_text("ANSWER = 42\n")
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(home)],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(home / done.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    return home, site, env


@pytest.mark.parametrize("place", [".", "probekit", "probekit/probekit", "site"])
def test_python_finds_the_package_from_any_folder(installed, place):
    home, site, env = installed
    # Without the environment's own packages, among which is the probekit that is tested.
    command = [sys.executable, "-S", "-c", FIND, str(site)]
    done = subprocess.run(command, cwd=home / place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, answer = done.stdout.split()
    assert Path(found).resolve() == (home / "probekit" / "probekit" / "__init__.py").resolve()
    assert answer == "42"
