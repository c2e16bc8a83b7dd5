# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Steer and read
#
# A direction that predicts need not cause. Here a direction of praise and blame is added while the model writes; then the
# model, unsteered, reads what was written, and a random direction of the same size does the same. About a minute on two cores.
#
# `probekit steer` does this with more prompts, all controls and intervals: [steering](../docs/steering.md).

# %%
import numpy as np

import probekit as pk
from probekit.steering.intervention import in_residual_norms

loaded = pk.load_model("smollm2-135m")
model, tok = loaded.model, loaded.tokenizer
rows = pk.read_rows("demo:sentiment", limit=160)
store = pk.cache_activations(loaded, rows, layers=[16], positions="mean")
result = pk.fit_sweep(store, kinds="mean-difference")
probe = result.probe
result

# %% [markdown]
# ## One prompt at each strength
#
# Strengths are in mean residual norms of the layer: 0.1 adds a tenth of the usual length of the residual stream.


# %%
def write(question):
    chat = [{"role": "user", "content": question}]
    ids = tok.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=24, do_sample=False)
    return tok.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


questions = ["How was the hotel?", "What do you think of the new phone?", "Tell me about the meal."]
written = {}
for coeff in (-0.15, 0.0, 0.15):
    with pk.steered(model, probe, coeff):
        written[coeff] = [write(question) for question in questions]
{coeff: texts[0] for coeff, texts in written.items()}

# %% [markdown]
# ## Read by the unsteered model
#
# The score is read in a clean pass, never in the steered one: otherwise the direction would read itself.


# %%
def read(texts):
    pairs = zip(questions, texts, strict=True)
    return probe.score_texts(
        [{"prompt": q, "completion": t or "."} for q, t in pairs], model=loaded
    )


scores = {coeff: read(texts).mean() for coeff, texts in written.items()}
scores

# %% [markdown]
# ## A control
#
# A random direction of the same norm at the same layer. It is a weak control: `probekit steer` adds directions of shuffled labels
# and placebos, which point where activations vary. Along those the score may move as far.

# %%
vector = in_residual_norms(probe, loaded)
other = vector.random_like(np.random.default_rng(0))
random_scores = {}
for coeff in (-0.15, 0.15):
    with pk.steered(model, other, coeff):
        texts = [write(question) for question in questions]
    random_scores[coeff] = read(texts).mean()
random_scores, vector.norms()

# %% [markdown]
# ## The whole thing
#
# Three prompts are no evidence. The sweep has its controls, intervals over prompts, damage and a report:

# %%
swept = pk.steer_sweep(
    loaded, result, questions, "steered-in-notebook", coeffs=[-0.1, 0.1], samples=1, max_new_tokens=12,
    random_controls=1, shuffled_controls=1, placebo_controls=0,
)  # fmt: skip
swept

# %%
swept.figure("effect")
