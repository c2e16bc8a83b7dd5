"""`train_policy`: the embedded loop from a script, with model, probes and prompts in memory or by name."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probekit.activations.layers import parse_layers
from probekit.behaviours import Behaviours
from probekit.probes.folder import Fit, fit_folder
from probekit.probes.result import SweepResult
from probekit.results.rl import RLRun
from probekit.rl.config import RLConfig
from probekit.rl.policy import model_to_train
from probekit.rl.run import train_run
from probekit.rl.train import Log
from probekit.settings import joined


def train_policy(
    model: Any,  # noqa: ANN401 - any model
    probe: Fit | Sequence[Fit],
    prompts: Any,  # noqa: ANN401 - any source of prompts
    out: str | Path,
    config: RLConfig | None = None,
    *,
    tokenizer: Any = None,  # noqa: ANN401 - a transformers tokenizer
    behaviours: Behaviours | str | None = None,
    behaviour: str | Sequence[str] = (),
    held_out: Any = None,  # noqa: ANN401 - any source of prompts
    toward: str | None = None,
    ensemble_layers: Any = None,  # noqa: ANN401 - text with commas, or a list
    store: str | Path | None = None,
    allow_code: bool = False,
    resume: bool = False,
    force: bool = False,
    log: Log = lambda row: None,
    **settings: Any,  # noqa: ANN401 - keys of RLConfig
) -> RLRun:
    """Train a copy of a model with a probe as its reward, see whether behaviour follows, and write it all.

    Does what `probekit rl` does, report included. A model in memory stays as it is.

    Parameters
    ----------
    model, tokenizer
        What `load_model` takes.
    probe
        Directory of a fit, what `fit_sweep` returns, or a `Probe`; several make an ensemble.
    prompts, held_out
        What `open_prompts` takes: to train on, and to evaluate on instead of a quarter of them.
    out
        Directory of the run.
    config
        Settings; its keys are taken by name too, as in `steps=30`.
    behaviours, behaviour
        Behaviours, or the name or file of some; the categories that should become more frequent.
    toward, ensemble_layers, store, allow_code, resume, force
        As the options of `probekit rl`.
    log
        Receives every row of metrics and every evaluation.

    Raises
    ------
    ProbekitError
        When model, probe and prompts do not fit each other, or `out` exists.

    Examples
    --------
    >>> from probekit.rl import train_policy
    >>> run = train_policy("smollm2-135m", "sweep", ["How was it?", "And you?", "Why?", "Who?"], "policy",
    ...     steps=1, prompts_per_step=1, group=2, max_new_tokens=3, eval_prompts=1, best_of=0,
    ...     placebo_heads=0)
    >>> sorted(set(run.metrics_frame()["step"]))
    [0, 1]
    """
    from probekit.reports import write_rl_report

    if "prompts_per_step" in settings:  # the option's name; `prompts` are the prompts here
        settings["prompts"] = settings.pop("prompts_per_step")
    config = RLConfig.of_keys(config, settings)
    if isinstance(behaviours, str):
        behaviours = Behaviours.load(behaviours, allow_code=allow_code)
    loaded = model_to_train(model, tokenizer)
    fits: list[Any] = list(probe) if isinstance(probe, (list, tuple)) else [probe]
    if fits and isinstance(fits[0], SweepResult) and fits[0].path and fits[0].path.is_file():
        store = store or fits[0].path  # a temporary one may be gone
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(fit_folder(fit)) for fit in fits]
        layers = loaded.model.config.get_text_config().num_hidden_layers
        named = None if ensemble_layers is None else str(joined(ensemble_layers))
        train_run(
            loaded, folders, prompts, out, config,
            behaviours=behaviours, behaviour=behaviour, held_out=held_out, toward=toward, store=store,
            ensemble_layers=parse_layers(named, layers) if named else (), allow_code=allow_code,
            resume=resume, force=force, log=log,
            finish=lambda folder: write_rl_report(folder, force=True),
        )  # fmt: skip
    return RLRun.open(Path(out))
