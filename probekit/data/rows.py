"""The row types every other room reads: one `Example` is one text the model is run on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["label", "rating", "pair"]
Side = Literal["chosen", "rejected"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One text to run through the model. A pair row gives two, `chosen` then `rejected`."""

    id: str
    """The row's id; both sides of a pair share it."""
    group: str
    """What must not straddle a split: the prompt, unless the row says otherwise."""
    prompt: tuple[Message, ...] | None = None
    """The conversation before the completion. None: `completion` is raw text, no chat template."""
    completion: str | None = None
    """The assistant's answer, or the raw text. None: the row ends with its prompt."""
    label: int | str | None = None
    score: float | None = None
    side: Side | None = None
    tags: dict[str, str] = field(default_factory=dict)
    completion_ids: tuple[int, ...] | None = None
    """Tokens that the model wrote, where the tokenizer would make others of the completion's text."""
    place: str = field(default="", compare=False)
    """File and line that the row was read from, for messages."""

    @property
    def where(self) -> str:
        """Place and id of the row, as messages begin."""
        return f"{self.place}: row {self.id}" if self.place else f"row {self.id}"
