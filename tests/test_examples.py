"""The examples in the docstrings of public names are run, in a folder with a tiny fit."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json

import pytest

ROOMS = ("probekit", "probekit.probes", "probekit.steering", "probekit.rl")
NAMES = {name: room for room in ROOMS for name in importlib.import_module(room).__all__}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `acts.h5` and `sweep` of a tiny model that stands in for the built-in one."""
    from probekit.activations.cache import CacheConfig, cache_activations
    from probekit.activations.store import ActivationStore
    from probekit.data.rows import Example, Message
    from probekit.models import registry
    from probekit.models.load import load_model
    from probekit.probes import SweepConfig, fit_sweep
    from probekit.probes.scoring import reference_rows
    from tests.activations.memory import MemoryRows
    from tests.tiny import save_tiny

    home = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROBEKIT_HOME", str(home))
        patch.chdir(home)
        built_in = save_tiny(home / "models" / "smollm2-135m")
        (built_in / registry.MARKER).write_text(json.dumps({}))
        rows = [
            Example(f"r{i}", f"g{i}", (Message("user", "say"),), text, label=text[:2])
            for i, text in enumerate(["ab ab", "xy xy xy"] * 20)
        ]
        data = MemoryRows(rows, kind="label", classes=("ab", "xy"))
        loaded = load_model("smollm2-135m", dtype="float32")
        config = CacheConfig(positions="mean")
        cache_activations(loaded, data, home / "acts.h5", config=config).close()
        with ActivationStore.open(home / "acts.h5") as store:
            result = fit_sweep(store, SweepConfig(n_boot=20))
            result = result.with_reference(reference_rows(store, result.probe))
            (home / "sweep").mkdir()
            result.save(home / "sweep")
        yield home


@pytest.mark.parametrize(("name", "room"), NAMES.items())
def test_a_public_name_has_an_example_that_holds(room, name, folder):
    thing = getattr(importlib.import_module(room), name)
    assert ">>>" in (inspect.getdoc(thing) or ""), f"{room}.{name} has no example"
    finder = doctest.DocTestFinder(recurse=False)
    for test in finder.find(thing, f"{room}.{name}", globs={}):
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
