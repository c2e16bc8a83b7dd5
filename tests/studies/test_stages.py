"""Stages run once, again when what comes before them ran again, and go on where they can."""

from __future__ import annotations

import json

import pytest

import probekit
from probekit.cli.main import cli
from probekit.container import write_json
from probekit.studies import Stage, find_study
from probekit.studies.knowledge_awareness import ARMS
from probekit.studies.stages import Progress
from tests.reports.factory import Made, write_fit


class Study:
    """Stages that write directories, c from b and d from a; b can be resumed, and reads a file too."""

    def __init__(self, folder):
        self.folder, self.word = folder, "x"
        self.file = folder / "rows.jsonl"
        self.file.write_text("rows")

    def run(self, fail=None):
        ran = []
        a = Stage("a", ["fit", self.word], self.folder / "a")
        b = Stage("b", ["rl", a, self.file], self.folder / "b")
        c = Stage("c", ["fit", b.after(lambda output: [output.name])], self.folder / "c")
        stages = [a, b, c, Stage("d", ["fit", a / "probe"], self.folder / "d")]
        progress = Progress(self.folder / "study.json", {"study": "s"}, stages)
        for stage in stages:
            words = stage.arguments()
            if progress.is_done(stage, words):
                continue
            how = progress.begin(stage, words)[-1]
            ran.append(stage.name + ("+" if how == "--resume" else ""))
            if stage.name == fail:
                progress.end(stage, "failed", 1.0)
                return ran
            stage.output.mkdir(exist_ok=True)
            (stage.output / self.last(stage.name)).write_text("{}")
            progress.end(stage, "done", 2.0)
        return ran

    @staticmethod
    def last(name):
        return "goodhart.json" if name == "b" else "sweep.json"

    def lose(self, *names):
        for name in names:
            (self.folder / name / self.last(name)).unlink()


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
    study.lose("b")
    assert study.run() == ["b", "c"]
    study.word = "y"
    assert study.run() == ["a", "b", "c", "d"]


def test_a_changed_file_from_outside_or_version_makes_stages_run_again(study, monkeypatch):
    study.run()
    study.file.write_text("other rows")
    assert study.run() == ["b", "c"]
    study.file.write_text("other rows")
    assert study.run() == []
    monkeypatch.setattr("probekit.studies.stages.__version__", "9.9")
    assert study.run() == ["a", "b", "c", "d"]
    items = json.loads((study.folder / "study.json").read_text())["stages"]
    assert {item["version"] for item in items} == {"9.9"} != {probekit.__version__}


def test_a_command_says_what_it_reads_and_is_known_once_that_is_there(tmp_path):
    fit = Stage("fit", ["fit", "--seed", "0"], tmp_path / "fit")
    score = Stage(
        "score",
        [
            "score",
            "--probe",
            fit,
            "--data",
            tmp_path / "rows.jsonl",
            fit.after(lambda at: [at.name]),
        ],
        tmp_path / "scores.jsonl",
    )
    assert fit.arguments() == ["fit", "--seed", "0", "--out", f"{tmp_path}/fit"]
    assert score.reads == ("fit",) and score.files == (tmp_path / "rows.jsonl",)
    assert score.arguments() == [
        "score", "--probe", f"{tmp_path}/fit", "--data", f"{tmp_path}/rows.jsonl", "fit",
        "--out", f"{tmp_path}/scores.jsonl",
    ]  # fmt: skip
    assert not fit.is_whole() and not score.is_whole()
    score.output.touch()
    assert score.is_whole()


def test_a_failed_stage_goes_on_if_it_can_and_later_ones_are_not_taken_for_new(study):
    study.run()
    study.word = "y"
    study.lose("b", "c")
    assert study.run(fail="b") == ["a", "b"]
    # c is of the old b: were it kept as done, it would be skipped once b is done.
    assert study.run() == ["b+", "c", "d"]
    stages = json.loads((study.folder / "study.json").read_text())["stages"]
    assert [s["seconds"] for s in stages] == [2.0, 1.0 + 2.0, 2.0, 2.0]


def test_every_command_line_of_the_study_is_one_that_its_command_takes(tmp_path):
    fit = write_fit(tmp_path / "fit", Made(layers=30, positions=("mean",), embedding=False))
    sweep = json.loads((fit / "sweep.json").read_text())
    sweep["chosen"]["layer"] = 18
    for row in sweep["rows"]:
        row["choose"]["pair_accuracy"]["value"] = 1 - abs(row["layer"] - 20) / 100
    write_json(fit / "sweep.json", sweep)
    for quick in (True, False):
        study = find_study("knowledge-awareness")
        stages = study.plan(tmp_path, model="m", seed=3, quick=quick, samples=None if quick else 64)
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
