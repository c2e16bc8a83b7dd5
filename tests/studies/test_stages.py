"""Stages run once, again when what comes before them ran again, and go on where they can."""

from __future__ import annotations

import json

import pytest

from probekit.cli.main import cli
from probekit.studies.knowledge_awareness import ARMS, plan
from probekit.studies.stages import Progress, Stage


class Study:
    """Stages that write files, c from b and d from a, and which of them ran."""

    def __init__(self, folder):
        self.folder, self.words = folder, ["x"]
        self.stages = [
            Stage(
                name,
                lambda name=name: [name, *self.words],
                folder / name,
                resumes=name == "b",
                reads=reads,
            )
            for name, reads in (("a", ()), ("b", ("a",)), ("c", ("b",)), ("d", ("a",)))
        ]

    def run(self, fail=None):
        ran = []
        progress = Progress(self.folder / "study.json", {"study": "s"}, self.stages)
        for stage in self.stages:
            words = stage.arguments()
            if progress.is_done(stage, words):
                continue
            ran.append(stage.name + ("+" if progress.continues(stage, words) else ""))
            progress.begin(stage, words)
            if stage.name == fail:
                progress.end(stage, "failed", 1.0)
                return ran
            stage.output.mkdir(exist_ok=True)
            (stage.output / "run.json").write_text("{}")
            progress.end(stage, "done", 2.0)
        return ran


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_what_is_done_is_skipped_and_keeps_its_time(study):
    assert study.run() == ["a", "b", "c", "d"]
    assert study.run() == []
    stages = json.loads((study.folder / "study.json").read_text())["stages"]
    assert [(s["name"], s["state"], s["seconds"]) for s in stages] == [
        (name, "done", 2.0) for name in "abcd"
    ]


def test_a_stage_that_ran_again_makes_those_that_read_it_run_again(study):
    study.run()
    (study.folder / "b" / "run.json").unlink()
    assert study.run() == ["b", "c"]
    study.words = ["y"]
    assert study.run() == ["a", "b", "c", "d"]


def test_a_failed_stage_goes_on_if_it_can_and_later_ones_are_not_taken_for_new(study):
    study.run()
    study.words = ["y"]
    for name in "bc":
        (study.folder / name / "run.json").unlink()
    assert study.run(fail="b") == ["a", "b"]
    # c is of the old b: were it kept as done, it would be skipped once b is done.
    study.words = ["y"]
    assert study.run() == ["b+", "c", "d"]
    stages = json.loads((study.folder / "study.json").read_text())["stages"]
    assert [s["seconds"] for s in stages] == [2.0, 1.0 + 2.0, 2.0, 2.0]


def test_every_command_line_of_the_study_is_one_that_its_command_takes(tmp_path):
    (tmp_path / "fit").mkdir()
    chosen = {"kind": "bradley-terry", "site": "resid_post", "layer": 18, "position": "mean"}
    layers = [
        {
            "site": "resid_post", "layer": layer, "position": "mean",
            "choose": {"pair_accuracy": {"value": 1 - abs(layer - 20) / 100}},
        }
        for layer in range(30)
    ]  # fmt: skip
    (tmp_path / "fit" / "sweep.json").write_text(json.dumps({"chosen": chosen, "rows": layers}))
    for quick in (True, False):
        stages = plan(tmp_path, model="m", seed=3, quick=quick, samples=None if quick else 64)
        words = stages[0].arguments()
        assert words[words.index("--samples") + 1] == ("4" if quick else "64")
        names = [stage.name for stage in stages]
        assert len(set(names)) == len(names)
        assert {"elicit", "fit", "steer", *(f"rl/{arm}" for arm in ARMS), "ood/before"} <= set(
            names
        )
        for stage in stages:
            words = stage.arguments()
            command = cli.get_command(None, words[0])
            if words[0] == "data":
                command, words = command.get_command(None, words[1]), words[1:]
            made = command.make_context(words[0], [*words[1:], "--force"])
            assert made.params["out"] == str(stage.output)
            assert made.params.get("seed", 3) == 3
            if stage.name == "rl/refits":
                assert made.params["ensemble_layers"] == "20,22"
            if stage.resumes:
                command.make_context(words[0], [*words[1:], "--resume"])
