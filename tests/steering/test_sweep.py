"""The sweep end to end on a tiny model: what it leaves, resumes, refuses and finds."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from probekit.behaviours import Behaviours, Judge
from probekit.container import write_json
from probekit.errors import ModelError, OutputError, ProbeError, SteeringError
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.reports import write_steer_report
from probekit.results.steer import BASELINE, Condition
from probekit.steering import SteerConfig, SteeringVector, steer_sweep
from tests.behaviours.test_judge import Endpoint, says
from tests.steering.conftest import prompts
from tests.tiny import save_tiny

RANDOM_ONLY = SteerConfig(shuffled_controls=0, placebo_controls=0, max_new_tokens=8)
SMALL = dataclasses.replace(RANDOM_ONLY, coeffs="-1:1:1", samples=2, random_controls=2)


@pytest.fixture(scope="module")
def result(loaded, fitted, tmp_path_factory):
    out = tmp_path_factory.mktemp("steer") / "out"
    found = steer_sweep(loaded, fitted, prompts(), out, SMALL, finish=write_steer_report)
    return found, out


def test_the_directory_holds_everything_and_only_that(result):
    _, out = result
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
    names = {
        "steer.json",
        "completions.jsonl",
        "digests.json",
        "run.json",
        "vector.safetensors",
        "report.html",
    }
    assert {path.name for path in out.iterdir()} == names
    summary = json.loads((out / "steer.json").read_text())
    rows = [
        json.loads(line) for line in (out / "completions.jsonl").read_text().split("\n") if line
    ]
    assert summary["complete"] is True
    assert summary["n"]["completions"] == len(rows) == (1 + 3 * 3) * 12
    assert summary["provenance"]["weights_fingerprint"]
    assert {m["name"] for m in summary["measures"]} == set(summary["doses"])


def test_figures_follow_from_the_completions(result):
    found, out = result
    rows = [
        json.loads(line) for line in (out / "completions.jsonl").read_text().split("\n") if line
    ]
    for condition in found.summary["conditions"]:
        own = [
            r
            for r in rows
            if (r["direction"], r["coeff"]) == (condition["direction"], condition["coeff"])
            and r["mode"] == condition["mode"]
        ]
        assert condition["n"] == len(own) == 12
        scores = [r["score"] for r in own if r["score"] is not None]
        assert condition["values"]["score"]["value"] == pytest.approx(np.mean(scores))
        tokens = sum(r["n_tokens"] for r in own if r["nll"] is not None)
        nll = sum(r["nll"] * r["n_tokens"] for r in own if r["nll"] is not None) / tokens
        assert condition["values"]["perplexity"]["value"] == pytest.approx(np.exp(nll))
    base = next(c for c in found.summary["conditions"] if c["direction"] == "none")
    assert base["values"]["kl"]["value"] == 0.0
    assert all(d["value"] in (0, None) for d in base["differences"].values())


def test_the_vector_is_the_probes_direction_in_residual_norms(result, fitted):
    found, out = result
    probe = Probe.load(fitted)
    vector = SteeringVector.load(out / "vector.safetensors")
    assert vector.layers == [probe.layer]
    norm = found.summary["vector"]["norms"][probe.layer]
    np.testing.assert_allclose(vector.vectors[probe.layer], norm * probe.direction)


def test_the_same_seed_gives_the_same_rows_and_another_does_not(loaded, fitted, result, tmp_path):
    found, _ = result
    again = steer_sweep(loaded, fitted, prompts(), tmp_path / "again", SMALL)
    assert again.rows == found.rows
    config = dataclasses.replace(SMALL, coeffs="1", seed=1)
    other = steer_sweep(loaded, fitted, prompts(), tmp_path / "other", config)
    assert other.rows[BASELINE] != found.rows[BASELINE]


class Stop(BaseException):
    """Stands for an interrupt in the middle of a condition."""


def test_an_interrupt_before_anything_is_finished_leaves_nothing(loaded, fitted, tmp_path):
    def progress(what, done, total):
        raise Stop

    with pytest.raises(Stop):
        steer_sweep(loaded, fitted, prompts(), tmp_path / "out", SMALL, progress=progress)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [12, 20, 55, 105])
def test_an_interrupted_sweep_resumes_to_the_same_result(loaded, fitted, result, tmp_path, after):
    found, _ = result
    out = tmp_path / "out"

    def progress(what, done, total):
        if done > after:
            raise Stop

    with pytest.raises(Stop):
        steer_sweep(loaded, fitted, prompts(), out, SMALL, progress=progress)
    assert not out.exists()
    kept = sorted(path.name for path in (tmp_path / "out.partial").glob("*.jsonl"))
    assert len(kept) == after // 12
    with pytest.raises(OutputError, match="an interrupted steering sweep is here. Pass --resume"):
        steer_sweep(loaded, fitted, prompts(), out, SMALL)
    changed = dataclasses.replace(SMALL, samples=1)
    with pytest.raises(OutputError, match="was started with samples 2, now 1"):
        steer_sweep(loaded, fitted, prompts(), out, changed, resume=True)
    seen = []
    resumed = steer_sweep(
        loaded, fitted, prompts(), out, SMALL, resume=True,
        progress=lambda what, done, total: seen.append(done),
    )  # fmt: skip
    assert {c: resumed.rows[c] for c in found.rows} == found.rows
    for key in ("conditions", "doses", "ablation", "usable"):
        assert resumed.summary[key] == found.summary[key]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_sweep_can_be_continued_with_more_and_in_other_batches(loaded, fitted, result, tmp_path):
    """What is finished stays; a completion depends neither on its batch nor on the grid."""
    found, _ = result
    out, few = tmp_path / "out", dataclasses.replace(SMALL, coeffs="1", random_controls=0)

    def progress(what, done, total):
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        steer_sweep(loaded, fitted, prompts(), out, few, progress=progress)
    more = dataclasses.replace(SMALL, batch=3, batch_tokens=100)
    assert (
        steer_sweep(loaded, fitted, prompts(), out, more, resume=True).rows.keys()
        == found.rows.keys()
    )


def test_what_decides_the_rows_must_not_change_on_resume(loaded, fitted, tmp_path):
    fit = tmp_path / "fit"
    shutil.copytree(fitted, fit)
    out = tmp_path / "out"

    def progress(what, done, total):
        if done > 12:
            raise Stop

    with pytest.raises(Stop):
        steer_sweep(loaded, fit, prompts(), out, SMALL, progress=progress)

    def changed(match, **options):
        with pytest.raises(OutputError, match=match):
            steer_sweep(
                loaded, fit, **{"prompts": prompts(), **options}, out=out, config=SMALL, resume=True
            )

    changed("was started with prompts", prompts=prompts()[:-1])
    changed("was started with directions", vector=SteeringVector({1: np.ones(16)}))
    rules = Behaviours("mine", (), "other")
    changed("was started with behaviours", behaviours=rules)
    tensors = load_file(fit / "probes.safetensors")
    shifted = {k: v + 1.0 if k.endswith("bias") else v for k, v in tensors.items()}
    save_file(shifted, fit / "probes.safetensors")
    (fit / "digests.json").unlink()
    header = json.loads((fit / "probes.json").read_text())
    write_json(fit / "probes.json", {**header, "reference": None})
    changed("was started with probes")


def test_a_line_separator_in_a_text_is_no_end_of_a_row(loaded, fitted, tmp_path):
    odd = [*prompts(), *prompts(["a\u2028b\x85c"])]
    odd[-1] = dataclasses.replace(odd[-1], id="odd")
    config = dataclasses.replace(SMALL, random_controls=0)
    found = steer_sweep(loaded, fitted, odd, tmp_path / "out", config, finish=write_steer_report)
    assert "\u2028" in found.rows[BASELINE][-1]["prompt"]


def test_gaps_of_the_judge_are_asked_again_on_resume(loaded, fitted, tmp_path):
    rules, down = Behaviours.load("sentiment"), "http://127.0.0.1:9/v1"
    config = dataclasses.replace(SMALL, random_controls=1)

    def progress(what, done, total):
        if done > 24:
            raise Stop

    with Endpoint(lambda body, n: (500, "no") if down else (200, says("neutral"))) as endpoint:
        judge = Judge(rules, endpoint.url, "m", give_up_after=1, attempts=1)
        with pytest.raises(Stop):
            steer_sweep(
                loaded, fitted, prompts(), tmp_path / "out", config,
                behaviours=rules, judge=judge, progress=progress,
            )  # fmt: skip
        down = ""
        found = steer_sweep(
            loaded, fitted, prompts(), tmp_path / "out", config,
            behaviours=rules, judge=Judge(rules, endpoint.url, "m"), resume=True,
        )  # fmt: skip
    assert found.summary["judge"]["failed"] == 0
    assert found.summary["judge"]["asked"] == 12 * 4  # baseline, two strengths, ablated
    random = next(rows for c, rows in found.rows.items() if c.direction == "random-01")
    assert {row["judge"] for row in random} == {None}


def test_what_is_there_is_not_overwritten(loaded, fitted, result):
    _, out = result
    before = (out / "steer.json").read_bytes()
    with pytest.raises(OutputError, match="already exists. Pass --force"):
        steer_sweep(loaded, fitted, prompts(), out, SMALL)
    with pytest.raises(OutputError, match="is whole already"):
        steer_sweep(loaded, fitted, prompts(), out, SMALL, resume=True)
    assert (out / "steer.json").read_bytes() == before


def test_a_planted_cause_is_found_and_random_directions_are_not(loaded, fitted, tmp_path):
    """Steered along a token's own unembedding after the last block, the model writes that token."""
    token = loaded.tokenizer.convert_tokens_to_ids("z")
    row = loaded.model.get_output_embeddings().weight[token].detach().double().numpy()
    path = tmp_path / "z.toml"
    path.write_text("[categories.z]\npatterns = ['z']\n")
    config = SteerConfig(
        coeffs="-2:2:1", max_new_tokens=8, samples=8, random_controls=9, placebo_controls=2,
        damage_bound=1e6,
    )  # fmt: skip
    found = steer_sweep(
        loaded, fitted, prompts(), tmp_path / "out", config,
        vector=SteeringVector({2: row}), behaviours=Behaviours.load(path),
    )  # fmt: skip
    dose = found.summary["doses"]["rate:z"]
    assert dose["coeffs"] == [-2, -1, 0, 1, 2]
    assert dose["slope"]["low"] > 0.1
    assert dose["p"] == 0.1  # beyond all nine controls
    controls = [*dose["random"], *dose["placebo"]]
    assert max(map(abs, controls)) < dose["slope"]["value"] / 2
    assert dose["over"]["low"] > 0 and dose["shuffled"] == []  # another layer than the probe's


def test_modes_places_layers_and_reranking(loaded, fitted, tmp_path):
    config = SteerConfig(
        coeffs="0,1", mode="clamp", where="generated", layers="0,2", max_new_tokens=5,
        samples=1, random_controls=1, placebo_controls=1, rerank=True, rerank_prompts=3,
    )  # fmt: skip
    found = steer_sweep(
        loaded, fitted, prompts(), tmp_path / "out", config, finish=write_steer_report
    )
    assert Condition("probe", "clamp", 0.0) in found.rows
    assert found.summary["vector"]["layers"] == [0, 2]
    rerank = found.summary["rerank"]
    assert [row["layer"] for row in rerank["rows"]] == [0, 1, 2]
    assert sorted(row["rank"] for row in rerank["rows"]) == [1, 2, 3]
    assert [row["steered"] for row in rerank["rows"]] == [True, False, True]
    by_rank = sorted(rerank["rows"], key=lambda row: row["rank"])
    ratios = [row["ratio"]["value"] for row in by_rank]
    assert ratios == sorted(ratios, reverse=True)
    lines = (tmp_path / "out" / "rerank.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 2 * 3


def test_ablation_alone(loaded, fitted, tmp_path):
    config = dataclasses.replace(RANDOM_ONLY, mode="ablate", random_controls=1, samples=1)
    found = steer_sweep(
        loaded, fitted, prompts(), tmp_path / "out", config, finish=write_steer_report
    )
    assert found.summary["doses"] is None
    assert found.summary["usable"] is None
    assert set(found.summary["ablation"]["kl"]) == {
        "difference", "random", "shuffled", "placebo", "p", "p_shuffled",
    }  # fmt: skip


def test_behaviours_are_counted(loaded, fitted, tmp_path):
    path = tmp_path / "b.toml"
    path.write_text("[categories.vowel]\npatterns = ['[aeiou]']\n")
    config = dataclasses.replace(RANDOM_ONLY, coeffs="1", random_controls=0, samples=1)
    found = steer_sweep(
        loaded, fitted, prompts(), tmp_path / "out", config, behaviours=Behaviours.load(path)
    )
    for condition, rows in found.rows.items():
        share = np.mean([any(v in r["text"].lower() for v in "aeiou") for r in rows])
        values = next(
            c["values"]
            for c in found.summary["conditions"]
            if c["direction"] == condition.direction and c["mode"] == condition.mode
        )
        assert values["rate:vowel"]["value"] == pytest.approx(share)
        assert values["rate:other"]["value"] == pytest.approx(1 - share)
    assert found.summary["doses"]["rate:vowel"]["p"] is None  # no controls, no rank


def test_what_does_not_fit_is_refused_before_anything_is_written(loaded, fitted, tmp_path):
    out = tmp_path / "out"

    def refused(match, error=SteeringError, **options):
        arguments = {"loaded": loaded, "probe": fitted, "prompts": prompts(), "config": SMALL}
        arguments |= options
        with pytest.raises(error, match=match) as caught:
            steer_sweep(out=out, **arguments)
        assert "\n" not in str(caught.value)
        assert not out.exists()
        assert not list(tmp_path.glob("out*"))

    other = save_tiny(tmp_path / "other", "llama", seed=7)
    refused("weights_fingerprint is", ProbeError, loaded=load_model(str(other), dtype="float32"))
    wide = save_tiny(tmp_path / "wide", "gpt2")
    refused("fingerprint|width", ProbeError, loaded=load_model(str(wide), dtype="float32"))
    refused("layer 7: the model has 3", ModelError, config=SteerConfig(layers="7"))
    refused("7 wide, the model's residual stream 16", vector=SteeringVector({1: np.ones(7)}))
    refused("layer 3: out of range", vector=SteeringVector({3: np.ones(16)}))
    refused("zero at layer 1", vector=SteeringVector({1: np.zeros(16)}))
    refused("layer -1: out of range", vector=SteeringVector({-1: np.ones(16)}))
    foreign = SteeringVector({1: np.ones(16)}, model={"weights_fingerprint": "abc", "model": "m"})
    refused("weights_fingerprint is abc \\('m'\\)", vector=foreign)
    here = loaded.fingerprint
    scaled = {"weights_fingerprint": here, "config_hash": "abc"}
    refused("config_hash is abc", vector=SteeringVector({1: np.ones(16)}, model=scaled))
    refused("there are none", prompts=[])
    refused("two have the same id", prompts=[*prompts(), prompts()[0]])
    refused("is not a probe", ProbeError, probe=tmp_path / "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(fitted, broken)
    _spoil(broken)
    refused("holds NaN", probe=broken)


def _spoil(folder):
    """Put NaN into every coefficient of a fit."""
    tensors = load_file(folder / "probes.safetensors")
    save_file(
        {k: np.full_like(v, np.nan) for k, v in tensors.items()}, folder / "probes.safetensors"
    )
    (folder / "digests.json").unlink()
    header = json.loads((folder / "probes.json").read_text())
    header["reference"] = None  # so that not already the check of the scores finds it
    write_json(folder / "probes.json", header)
