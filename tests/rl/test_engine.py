"""The loop needs two calls of an engine, and does the rest the same for each."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.models.load import load_model
from probekit.rl.learner import StepStats
from tests.rl.test_train import FAST, assert_same_weights, rows, trainer


class Watched:
    """An engine of somebody else: hands on to the embedded one and notes what it is asked."""

    def __init__(self, inner):
        self.inner, self.needs_reference, self.calls = inner, inner.needs_reference, []

    def write(self, number, index):
        self.calls.append(("write", number))
        return self.inner.write(number, index)

    def learn(self, number, lesson):
        self.calls.append(("learn", number))
        self.lesson = lesson
        return self.inner.learn(number, lesson)

    def close(self):
        self.calls.append("close")


def test_another_engine_is_driven_by_two_calls(tiny_llama, fitted, tmp_path):
    plain, other = (
        trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / name)
        for name in "ab"
    )
    plain.run()
    other.engine = Watched(other.engine)
    other.run()
    turns = [(call, number) for number in range(FAST.steps) for call in ("write", "learn")]
    assert other.engine.calls == [*turns, "close"]
    assert rows(tmp_path / "a" / "metrics.jsonl") == rows(tmp_path / "b" / "metrics.jsonl")
    assert_same_weights(plain, other)
    lesson, size = other.engine.lesson, FAST.group
    groups = lesson.reward.reshape(-1, size)
    wanted = groups - groups.mean(axis=1, keepdims=True)  # the target is chosen: not divided
    np.testing.assert_allclose(lesson.advantage.reshape(-1, size), wanted, atol=1e-9)
    assert [len(part) for part in lesson.reference] == lesson.rollout.n_new


def test_the_row_is_the_loops_whatever_an_engine_says_of_learning(tiny_llama, fitted, tmp_path):
    run = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "run")
    engine = run.engine = Watched(run.engine)
    made = StepStats(*np.arange(1.0, 1.0 + len(StepStats._fields)).tolist())
    engine.inner = type("Idle", (), {"write": engine.inner.write, "learn": lambda *_: made})()
    row = run.step(0)
    assert {name: row[name] for name in StepStats._fields} == made._asdict()
    rollout, reward = engine.lesson.rollout, engine.lesson.reward
    assert row["reward"] == pytest.approx(reward.mean())
    assert row["n_tokens"] == pytest.approx(np.mean(rollout.n_new))
    assert row["finished"] == pytest.approx(np.mean(rollout.finished))
    equal = [len(set(group)) == 1 for group in reward.reshape(-1, FAST.group).tolist()]
    assert row["flat_groups"] == pytest.approx(np.mean(equal))


def test_an_engine_is_closed_when_the_loop_fails(tiny_llama, fitted, tmp_path):
    run = trainer(load_model(str(tiny_llama), dtype="float32"), fitted, tmp_path / "run")
    run.engine = Watched(run.engine)

    def log(row):
        if "loss" in row:
            raise RuntimeError("the loop's side")

    with pytest.raises(RuntimeError, match="the loop's side"):
        run.run(log=log)
    assert run.engine.calls == [("write", 0), ("learn", 0), "close"]
