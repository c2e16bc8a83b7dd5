"""`python -m probekit`: the command line of this very environment."""

import os
import sys

# `python -m` looks for modules in the current folder first, so a `click.py` there would be run. Python has
# already looked there for probekit and for its own `runpy`; `python -P -m probekit` does not.
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is more to run
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != _OWN:  # noqa: PTH109
    del sys.path[0]

from probekit.cli.main import main  # noqa: E402

main()
