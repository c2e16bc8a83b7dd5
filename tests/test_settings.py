"""Settings stand once: each key has a label, a sentence and a default that holds; a bad value is one line."""

from __future__ import annotations

import dataclasses
import typing

import numpy as np
import pytest

from probekit.activations.config import CacheConfig
from probekit.analyses.config import DynamicsConfig
from probekit.errors import ModelError, ProbeError, SteeringError
from probekit.models.sampling_config import SamplingConfig
from probekit.probes.config import SweepConfig
from probekit.rl.config import RLConfig
from probekit.steering.config import SteerConfig

MODELS = (CacheConfig, DynamicsConfig, RLConfig, SamplingConfig, SteerConfig, SweepConfig)
KEYS = [
    pytest.param(model, key, id=f"{model.__name__}.{key}")
    for model in MODELS
    for key in model.keys()
]


@pytest.mark.parametrize(("model", "key"), KEYS)
def test_a_key_has_a_label_and_a_sentence_that_stands_alone(model, key):
    known = model.keys()[key]
    assert 0 < len(known.title.split()) <= 8
    assert len(known.sentence.split()) >= 4 and known.sentence.endswith(".")
    assert not known.sentence.startswith(("Of ", "Its ", "It "))
    assert model.labels()[key] == known.title


def test_labels_differ():
    for model in MODELS:
        assert len(set(model.labels().values())) == len(model.keys())


@pytest.mark.parametrize(
    ("model", "values", "error", "line"),
    [
        (RLConfig, {"steps": 0}, ModelError, "steps: got 0, expected 1 or more."),
        (RLConfig, {"steps": 2.5}, ModelError, "steps: got 2.5, expected a whole number."),
        (RLConfig, {"steps": True}, ModelError, "steps: got True, expected a whole number."),
        (RLConfig, {"steps": "9"}, ModelError, "steps: got '9', expected a whole number."),
        (RLConfig, {"stepps": 3}, ModelError, "stepps: unknown key. Did you mean steps?"),
        (
            RLConfig,
            {"kl_coeff": float("nan")},
            ModelError,
            "kl_coeff: got nan, expected a finite number.",
        ),
        (
            RLConfig,
            {"estimator": "drgrpo"},
            ModelError,
            "estimator: got 'drgrpo', expected grpo, dr-grpo or rloo. Did you mean dr-grpo?",
        ),
        (SteerConfig, {"where": 3}, SteeringError, "where: got 3, expected text in quotes."),
        (
            SteerConfig,
            {"rerank": "yes"},
            SteeringError,
            "rerank: got 'yes', expected true or false.",
        ),
        (SteerConfig, {"top_p": 2.0}, ModelError, "top_p: got 2.0, expected 1 or less."),
        (SweepConfig, {"n_folds": 1}, ProbeError, "n_folds: got 1, expected 2 or more."),
        (
            CacheConfig,
            {"sites": "attn_out,resid"},
            ModelError,
            "sites[1]: got 'resid', expected resid_post, resid_pre, attn_out or mlp_out. "
            "Did you mean resid_pre?",
        ),
    ],
)
def test_a_bad_value_is_one_line_of_the_room(model, values, error, line):
    with pytest.raises(error) as caught:
        model(**values)
    assert str(caught.value) == line


def test_lists_are_read_from_lists_and_from_text():
    assert CacheConfig(sites="attn_out, mlp_out").sites == ("attn_out", "mlp_out")
    assert SweepConfig(l2_factors=[1, 0.1]) == SweepConfig(l2_factors="1,0.1")
    assert RLConfig(rewards="pattern:a,b=1").rewards == ("pattern:a,b=1",)
    assert DynamicsConfig(learning_rates="1e-3,1e-2,1").learning_rates == [1e-3, 1e-2, 1.0]
    assert DynamicsConfig([1e-3], optimizers=["sgd"]).optimizers == ("sgd",)


def test_a_changed_copy_is_checked_again():
    config = RLConfig(steps=3)
    assert dataclasses.replace(config, group=4) == RLConfig(steps=3, group=4)
    with pytest.raises(ModelError, match="group: got 1"):
        dataclasses.replace(config, group=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 4


def test_choices_are_those_of_the_code_that_follows_them():
    from probekit.activations.backends import BACKENDS
    from probekit.activations.backends.hooks import SITES
    from probekit.rl.target import TARGETS
    from probekit.steering.operators import MODES

    def choices(model, key):
        return set(typing.get_args(model.keys()[key].type))

    assert choices(RLConfig, "target") == set(TARGETS)
    assert choices(SteerConfig, "mode") == set(MODES)
    assert choices(CacheConfig, "backend") == set(BACKENDS)
    for site in SITES:
        assert CacheConfig(sites=(site,)).sites == (site,)


@pytest.mark.parametrize(
    ("model", "given", "text"),
    [
        (CacheConfig, {"layers": [4, 8]}, {"layers": "4,8"}),
        (CacheConfig, {"layers": range(0, 6, 2)}, {"layers": "0,2,4"}),
        (CacheConfig, {"positions": ["last", "mean"]}, {"positions": "last,mean"}),
        (CacheConfig, {"sites": ["resid_post", "mlp_out"]}, {"sites": "resid_post,mlp_out"}),
        (SweepConfig, {"layers": -1}, {"layers": "-1"}),
        (SweepConfig, {"layers": np.array([1, 2])}, {"layers": "1,2"}),
        (
            SweepConfig,
            {"kinds": ("ridge",), "sites": ["mlp_out"]},
            {"kinds": "ridge", "sites": "mlp_out"},
        ),
        (SteerConfig, {"coeffs": [0.1, 0.2]}, {"coeffs": "0.1,0.2"}),
        (SteerConfig, {"coeffs": 0.5, "layers": [3]}, {"coeffs": "0.5", "layers": "3"}),
        (RLConfig, {"lora_targets": ["q_proj", "v_proj"]}, {"lora_targets": "q_proj,v_proj"}),
    ],
)
def test_lists_and_numbers_stand_for_text_with_commas(model, given, text):
    assert model(**given) == model(**text)
    assert model.of_keys(None, given) == model(**text)


def test_keys_change_settings_and_an_unknown_one_names_the_nearest():
    config = SteerConfig.of_keys(SteerConfig(seed=3), {"coeffs": [0.1]})
    assert (config.seed, config.grid()) == (3, [0.0, 0.1])
    with pytest.raises(SteeringError, match="^coef: unknown key. Did you mean coeffs?"):
        SteerConfig.of_keys(None, {"coef": 1})
    with pytest.raises(ModelError, match="^layers: got True, expected text in quotes.$"):
        CacheConfig(layers=True)
