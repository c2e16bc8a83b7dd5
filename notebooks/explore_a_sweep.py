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
# # Explore a sweep
#
# Where does a model read praise and blame, and is it more than words? A sweep over layers and positions, its controls, the
# rows that the chosen head gets wrong, and the head on other texts. About half a minute on two cores.
#
# Words are in the [glossary](../docs/glossary.md), rules in [probes](../docs/probes.md).

# %%
import numpy as np

import probekit as pk

rows = pk.read_rows("demo:sentiment", limit=160)
loaded = pk.load_model("smollm2-135m")
store = pk.cache_activations(loaded, rows, layers=[4, 8, 12, 16, 20], positions="last,mean")
store

# %% [markdown]
# ## Fit every cell, choose one, report it once
#
# Groups (here: questions) are divided into fit, choose and report splits. The cell is chosen on the choose split and reported
# on the report split, which nothing else has read.

# %%
result = pk.fit_sweep(store)
result

# %%
table = result.to_frame()
table.sort_values("auroc", ascending=False)[
    ["layer", "position", "auroc", "auroc_low", "auroc_high"]
]

# %% [markdown]
# The best of many values flatters: these are of the choose split. The figure has the same numbers, with the chosen cell framed.

# %%
result.figure("heatmap")

# %% [markdown]
# ## Is it more than words?
#
# Every control is fitted and chosen as the probe is. Here words, spelling and length are near chance, since praise and blame come
# in other words in every row; on many data sets TF-IDF does as well as the probe, and then a large AUROC says nothing.

# %%
result.figure("controls")

# %%
{name: finding.key for name, finding in result.run.findings.items()}

# %% [markdown]
# ## Is it one direction?
#
# Cosines of the directions of every two layers: a block near 1 is one direction held over layers.

# %%
result.figure("cosine")

# %% [markdown]
# ## What does it get wrong?
#
# Held-out rows, best read first: the last ones are those to look at.

# %%
examples = result.run.examples
examples.tail(4)

# %% [markdown]
# ## Other texts
#
# The probe is a vector: it scores activations, texts and conversations. These rows are conversations, so new ones are too.

# %%
probe = result.probe
answers = ("I loved every minute of it.", "It was a waste of an evening.", "It starts at eight.")
asked = [{"prompt": "How was the concert?", "completion": answer} for answer in answers]
scores = probe.score_texts(asked, model=loaded)
assert scores[0] > scores[1], scores
dict(zip(answers, np.round(scores, 2), strict=True))

# %% [markdown]
# On labelled rows that took no part, with intervals over groups:

# %%
others = [dict(prompt=f"How was {x}?", completion=words.format(x), label=label, group=x)
          for x in ("the soup", "the trip", "the book", "the show", "the game", "the talk")
          for words, label in (("I enjoyed {} a great deal.", "positive"), ("{} let me down.", "negative"))]  # fmt: skip
judged = pk.evaluate(probe, others, model=loaded)
judged

# %% [markdown]
# Next: is the direction causal? [Steer and read](steer_and_read.py) adds it while the model writes.
