"""Probes as a reward function of TRL's trainers, for people with a training script of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2.exceptions import TemplateError

from probekit.data.rows import Example, Message
from probekit.errors import DataError, ModelError
from probekit.models.blocks import BlockNames, block_list, block_names
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel, load_model
from probekit.models.sampling import Completion, stop_ids
from probekit.probes.folder import steerable
from probekit.probes.probe import Probe
from probekit.probes.scoring import Scorer
from probekit.rl.frozen import FrozenReader
from probekit.rl.reward import Array, Ensemble, rewards
from probekit.rl.target import TARGETS, Target, distance_to_chosen


class Scored(NamedTuple):
    """One call's completions, in the order they came."""

    total: Array
    """Rewards, shape (n,)."""
    score: Array
    """Score of the ensemble before the target, shape (n,); NaN where a head cannot read."""


class Rows:
    """Makes rows to read of prompts and the token ids that a trainer's policy wrote.

    Parameters
    ----------
    loaded
        Its tokenizer and its end-of-turn tokens.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._turn, self._stops = loaded.turn, set(stop_ids(loaded))

    def row(self, prompt: Rendered, written: Sequence[int]) -> tuple[Rendered, bool]:
        """Return prompt and completion as one row, closed where it was cut, and whether it was not.

        Parameters
        ----------
        prompt
            The rendered prompt.
        written
            Token ids of the completion, with the end-of-turn token where there is one.
        """
        ids = np.asarray(written, dtype=np.int32).reshape(-1)
        ended = bool(len(ids)) and int(ids[-1]) in self._stops
        done = Completion(0, 0, ids, np.empty(0, dtype=np.float32), finished=ended)
        return done.rendered(prompt, self._turn), ended


class ProbeReward:
    """Heads on a frozen model as a reward function with TRL's interface; see `trl_reward`.

    Parameters
    ----------
    reader
        Reads with the heads, on a model that nobody trains.
    ensemble
        The heads as one score.
    target
        From score to reward; its tag is a dataset column.
    name
        What TRL's log calls the reward.
    template
        Arguments of the chat template that the trainer gives it too, `tools` among them.
    """

    def __init__(
        self,
        reader: FrozenReader,
        ensemble: Ensemble,
        target: Target,
        *,
        name: str = "probe_reward",
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self.__name__, self._template = name, dict(template or {})
        self.reader, self.ensemble, self.target = reader, ensemble, target
        self.last: Scored | None = None
        """What the last call returned, before and after the target."""
        self._rows_of = Rows(reader.loaded)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,  # noqa: ANN401 - TRL passes every dataset column
    ) -> list[float]:
        """Return one reward a completion.

        Parameters
        ----------
        prompts
            As in the dataset: messages with `role` and `content`, or plain text.
        completions
            Their text or messages; only looked at for answers of tools, which the policy did not write.
        completion_ids
            Token ids, with the end-of-turn token where there is one.
        columns
            The other dataset columns, and TRL's `log_metric`.

        Raises
        ------
        ProbekitError
            Without token ids or the target's column, when no completion can be read, or when the
            model that is read has become one that learns.
        """
        if completion_ids is None:
            raise ModelError(
                f"{self.__name__}: got no completion_ids, expected the token ids of every "
                "completion, as TRL 1.16 and newer pass them."
            )
        if any(weight.requires_grad for weight in self.reader.loaded.model.parameters()):
            raise ModelError(
                f"{self.__name__}: the model that the probe reads has trainable weights, so it is "
                "not frozen. Give trl_reward a model of its own, not the one the trainer trains."
            )
        values = self._values(columns, len(prompts))
        _refuse_tools(completions, self.__name__)
        rows = self._rows(prompts, completion_ids)
        scores = self.reader.read(rows, [len(ids) for ids in completion_ids]).scores
        self.last = Scored(*rewards(scores, self.ensemble, self.target, values))
        self._report(columns.get("log_metric"), values)
        return [float(value) for value in self.last.total]

    def _rows(
        self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]
    ) -> list[Rendered]:
        tokenizer = self.reader.loaded.tokenizer
        rendered: dict[str, Rendered] = {}  # the samples of a prompt come one after another
        for prompt in prompts:
            key = repr(prompt)
            if key not in rendered:
                rendered[key] = prompt_row(prompt, tokenizer, **self._template)
        return [
            self._rows_of.row(rendered[repr(prompt)], written)[0]
            for prompt, written in zip(prompts, completion_ids, strict=True)
        ]

    def _values(self, columns: dict[str, Any], n: int) -> list[str]:
        tag = self.target.tag
        if tag is None:
            return [""] * n
        if tag not in columns:
            raise DataError(
                f"target tag {tag!r}: the training data has no such column. Add it, or "
                "leave the tag out."
            )
        return ["" if value is None else str(value) for value in columns[tag]]

    def _report(self, log_metric: Any, values: Sequence[str]) -> None:  # noqa: ANN401 - TRL's
        if log_metric is None or self.last is None:
            return
        scores = self.last.score[np.isfinite(self.last.score)]
        log_metric(f"{self.__name__}/score", float(scores.mean()))
        log_metric(f"{self.__name__}/score_sd", float(scores.std()))
        log_metric(f"{self.__name__}/unreadable", 1.0 - len(scores) / len(self.last.score))
        distance = distance_to_chosen(
            self.last.score, self.ensemble.distributions, tag=self.target.tag, values=values
        )
        if distance is not None:
            log_metric(f"{self.__name__}/distance_to_chosen", distance)


def trl_reward(
    probes: str | Path | Probe | Sequence[str | Path | Probe],
    model: str | LoadedModel | None = None,
    *,
    target: str = "max",
    target_tag: str | None = None,
    ensemble_penalty: float = 0.0,
    batch_tokens: int = 4096,
    name: str = "probe_reward",
    tools: Sequence[Any] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> ProbeReward:
    """Return heads on a frozen model as a reward function for TRL's GRPOTrainer or RLOOTrainer.

    The prompt is rendered as everywhere in probekit, with one BOS at most; the completion's own
    token ids follow, never its text tokenised again; a completion that the length limit cut is
    closed as the chat template would. The pass stops at the deepest head. The rewards are those
    of `probekit rl`: a completion that cannot be read gets the lowest of its call.

    A target that looks at the distribution (`chosen`) sees the completions of one call. TRL calls
    once a generation batch with what the local process wrote, so with several processes each
    matches the distribution on its own.

    Parameters
    ----------
    probes
        Directories written by `probekit fit`, or probes; several make an ensemble.
    model
        The model they were fitted on: a name or folder as `load_model` takes it, or a loaded model
        that nobody trains. None loads a copy of the one the first probe was fitted on.
    target
        `max`, `clip`, `gaussian`, `kde` or `chosen`.
    target_tag
        Dataset column; aim at the chosen scores of each of its values.
    ensemble_penalty
        lambda of mean - lambda * std over several heads.
    batch_tokens
        Padded tokens of a forward pass.
    name
        What TRL's log calls the reward; two rewards need two names.
    tools, chat_template_kwargs
        What the trainer was given under these names, so that the prompt is read as the policy saw it.

    Returns
    -------
    ProbeReward
        Takes `prompts`, `completions`, `completion_ids` and dataset columns by keyword and returns
        a list of floats.

    Raises
    ------
    ProbekitError
        When probes, target and model do not fit each other.

    Examples
    --------
    >>> from probekit.rl import trl_reward
    >>> reward = trl_reward("sweep", target="max")
    >>> prompts = [[{"role": "user", "content": "How was the film?"}]] * 2
    >>> rewards = reward(prompts, completion_ids=[[70, 71, 72], [73, 74, 75]])
    >>> [type(value).__name__ for value in rewards]
    ['float', 'float']
    """
    if target not in TARGETS:
        raise ModelError(f"target {target!r}: unknown. Expected {', '.join(TARGETS)}.")
    several: list[Any] = [*probes] if isinstance(probes, (list, tuple)) else [probes]
    heads = [p if isinstance(p, Probe) else Probe.load(p) for p in map(steerable, several)]
    if not heads:
        raise DataError("probes: there are none. Expected one at least.")
    ensemble = Ensemble(heads, ensemble_penalty)
    aim = Target(target, ensemble.distributions, tag=target_tag)
    loaded = model if isinstance(model, LoadedModel) else _load(model, heads[0])
    for head in heads:
        Scorer(head, loaded, batch_tokens=batch_tokens)  # proves that it is their model
    if loaded is not model:
        _drop_blocks(loaded, heads)
    reader = FrozenReader(loaded, heads, batch_tokens=batch_tokens)
    template = {**(chat_template_kwargs or {}), **({"tools": list(tools)} if tools else {})}
    return ProbeReward(reader, ensemble, aim, name=name, template=template)


def _refuse_tools(completions: Sequence[Any], name: str) -> None:
    for completion in completions:
        turns = completion if isinstance(completion, list) else []
        if len(turns) > 1 or any(isinstance(t, dict) and t.get("tool_calls") for t in turns):
            raise DataError(
                f"{name}: a completion calls tools, so that the policy did not write all of its tokens. "
                "Expected completions of one answer; train without tools."
            )


def prompt_row(prompt: Any, tokenizer: Any, **template: Any) -> Rendered:  # noqa: ANN401 - as in a TRL dataset
    """Return the tokens of a prompt as TRL's trainers feed it to the policy, with one BOS at most.

    Parameters
    ----------
    prompt
        Messages with `role` and `content`, rendered with the chat template; or plain text, with the
        tokenizer's own special tokens.
    tokenizer
        Tokenizer of the frozen model.
    template
        Arguments of the chat template, such as `tools`.

    Raises
    ------
    DataError
        When it is neither.
    """
    if isinstance(prompt, str):
        # Text that went through a template has its BOS in it.
        written = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
        encoded = tokenizer(prompt, add_special_tokens=not written, verbose=False)["input_ids"]
        ids = np.asarray(encoded, dtype=np.int32)
        return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)
    for turn in prompt:
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise DataError(
                f"prompt: has a turn {str(turn)[:80]!r}. Expected a role and a content that are "
                "text; images cannot be read."
            )
    plain = all(turn.keys() <= {"role", "content"} for turn in prompt) and not template
    if plain or not tokenizer.chat_template:
        turns = tuple(Message(turn["role"], turn["content"]) for turn in prompt)
        return render(Example("prompt", "prompt", turns), tokenizer)
    try:
        ids = tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, return_dict=False, **template
        )
    except (TemplateError, TypeError) as error:
        raise DataError(f"prompt: the model's chat template refuses it ({error}).") from error
    ids = np.asarray(ids, dtype=np.int32)
    return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)


def _load(spec: str | None, head: Probe) -> LoadedModel:
    provenance = head.provenance
    return load_model(
        spec or str(provenance.get("model")),
        dtype=str(provenance.get("forward_dtype", "auto")),
        revision=provenance.get("revision") if spec is None else None,
        template_date=provenance.get("template_date"),
    )


def _drop_blocks(loaded: LoadedModel, heads: Sequence[Probe]) -> None:
    """Free the blocks behind the deepest head of a model that nothing else uses."""
    blocks = heads[0].provenance.get("settings", {}).get("blocks")
    names = block_names(loaded.model, BlockNames.parse(blocks) if blocks else None)
    every: Any = block_list(loaded.model, names)
    del every[max(head.layer for head in heads) + 1 :]
