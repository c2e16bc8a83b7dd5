"""A capture brings along how surprising each row's name is to the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from probekit.activations.cache import cache_activations
from probekit.activations.config import CacheConfig
from probekit.activations.store import ActivationStore
from probekit.data.open import open_dataset
from probekit.models.load import load_model
from tests.tiny import save_tiny


def captured(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_model(str(save_tiny(tmp_path / "model")), dtype="float32")
    config = CacheConfig(layers="0", positions="mean")
    out = tmp_path / "acts.h5"
    cache_activations(loaded, open_dataset(str(path)), out, config=config).close()
    with ActivationStore.open(out) as store:
        return loaded, store.examples.surprisal


def test_a_name_in_a_raw_text_has_the_models_own_surprisal(tmp_path):
    texts, names = (
        ["I met Ann Lee.", "Jo van der Berg sings.", "nobody"],
        ["Ann Lee", "Jo van der Berg", ""],
    )
    rows = [
        {"text": t, "label": i % 2, "tags": {"name": n} if n else {}}
        for i, (t, n) in enumerate(zip(texts * 2, names * 2, strict=True))
    ]
    loaded, found = captured(tmp_path, rows)
    assert np.isnan(found[[2, 5]]).all() and found[:2] == pytest.approx(found[3:5])
    for text, name, value in zip(texts[:2], names, found, strict=False):
        end, start = text.index(name) + len(name), text.index(name) + len(name.split()[0])
        whole, before = (loaded.tokenizer(text[:k])["input_ids"] for k in (end, start))
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        wanted = -sum(float(logits[i - 1, whole[i]]) for i in range(len(before), len(whole)))
        assert value == pytest.approx(wanted, abs=1e-3)


def test_rows_without_a_name_have_no_such_column(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 2, "tags": {"class": "a"}} for i in range(4)]
    assert captured(tmp_path, rows)[1] is None
