"""Event files: the scalars that a run's rows hold, or one line when TensorBoard is not there."""

from __future__ import annotations

import sys
import types

import pytest

from probekit.cli.options import progress_bar
from probekit.cli.rl_output import Events, Watch, progress_line
from probekit.errors import OutputError


def test_without_tensorboard_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OutputError, match="Run: pip install tensorboard. Or leave --report-to"):
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


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_every_scalar_under_the_runs_name(tmp_path, monkeypatch, name):
    told, module = [], types.ModuleType(name)
    module.init = lambda **named: told.append(named) or True
    module.log = lambda scalars, step: told.append((scalars, step))
    module.finish = lambda: told.append("finished")
    monkeypatch.setitem(sys.modules, name, module)
    watch = Watch(2, tmp_path / "run", [name, name])
    watch({"note": "no step"})
    assert told == []
    watch({"step": 2, "evaluation": {"all": {"kl": {"value": 0.1}}}, "score": 1.5, "alarms": []})
    watch.close()
    scalars = {"step/score": 1.5, "all/kl": 0.1}
    assert told == [{"project": "probekit", "name": "run"}, (scalars, 2), "finished"]


def test_a_step_says_what_its_target_measures():
    row = {
        "step": 3,
        "score": 0.5,
        "reward": 0.0,
        "kl": 0.01,
        "entropy": 2.0,
        "n_tokens": 20,
        "seconds": 1.0,
    }
    assert "score +0.500, reward 0.000, KL" in progress_line(row)
    line = progress_line({**row, "distance_to_chosen": 1.25})
    assert "score +0.500, distance to the chosen scores 1.250, KL" in line and "reward" not in line


def test_where_stderr_is_no_terminal_a_line_a_minute_tells_how_far_it_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("probekit.cli.options.time.monotonic", lambda: now[0])
    with progress_bar() as progress:
        for done in range(0, 500, 100):
            progress("capturing", done, 500)
            now[0] += 40.0
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert [line.split(",")[0] for line in said] == [
        "capturing 200 / 500 tokens",
        "capturing 400 / 500 tokens",
    ]
