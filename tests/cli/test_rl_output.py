"""Event files: the scalars that a run's rows hold, or one line when TensorBoard is not there."""

from __future__ import annotations

import sys
import types

import pytest

from probekit.cli.rl_output import Events
from probekit.errors import OutputError


def test_without_tensorboard_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OutputError, match=r"pip install 'probekit\[tensorboard\]'"):
        Events(tmp_path / "tb")


def test_rows_become_scalars(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, *args):
            written.append(args)

        def flush(self):
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    events = Events(tmp_path / "tb")
    events.write({"step": 3, "score": 1.5, "alarms": [], "refit": {"n_outputs": 4}})
    events.write({"step": 3, "evaluation": {"all": {"kl": {"value": 0.1, "low": 0, "high": 1}}}})
    assert written == [("step/score", 1.5, 3), ("all/kl", 0.1, 3)]
    assert not (tmp_path / "tb").exists()
