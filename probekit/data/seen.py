"""What `check` remembers of the rows it passed: hashes, lengths and openings, no text."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict

from probekit.data.rows import Example

LEAK_WORDS = 5
"""Answers shorter than this ("Yes.", "(B)") recur under many prompts and give nothing away."""
OPENING_WORDS = (3, 1)
OPENING_CHARACTERS = 60
TAG_CHARACTERS = 80


class Lengths:
    """Lengths of the texts of one class, one side, or all rows."""

    def __init__(self) -> None:
        self.words, self.characters = array("I"), array("I")

    def add(self, text: str) -> None:
        """Take in one text."""
        self.words.append(len(text.split()))
        self.characters.append(len(text))


class Seen:
    """Accumulates over the examples of a data set."""

    def __init__(self) -> None:
        self.all = Lengths()
        self.parts: defaultdict[str, Lengths] = defaultdict(Lengths)
        """By class, or by side."""
        self.openings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How often a class or a side begins with some words."""
        self.scores = array("d")
        self.classes: Counter[str] = Counter()
        self.tags: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.duplicates = self.conflicts = self.same_sides = self.without_prompt = 0
        self.first_conflict = self.first_same = ""
        """Where the first of them stands."""
        self.leaking_prompts: set[bytes] = set()
        self.leaking_texts: set[bytes] = set()
        self._targets: dict[bytes, str] = {}
        self._prompt_group: dict[bytes, bytes] = {}
        self._text_group: dict[bytes, bytes] = {}
        self._chosen = ""

    def add(self, example: Example, place: str) -> None:
        """Take in one example; the sides of a pair must follow one another."""
        # As for groups, white space around a text makes no other of it.
        turns = [(turn.role, turn.content.strip()) for turn in example.prompt or ()]
        prompt = "\x1f".join(f"{role}\x1e{content}" for role, content in turns if content)
        text = example.completion or ""
        shown = text if example.completion is not None else example.prompt[-1].content  # type: ignore[index]
        self.all.add(shown)
        part = example.side if example.label is None else str(example.label)
        if part is not None:
            self.parts[part].add(shown)
            starts = (" ".join(shown.casefold().split(maxsplit=n)[:n]) for n in OPENING_WORDS)
            # A text of one word has one opening.
            self.openings[part].update({start[:OPENING_CHARACTERS] for start in starts})
        self._leak(prompt, text, example)
        if example.side == "chosen":
            self._chosen = text
            return
        target = str(example.label if example.score is None else example.score)
        if example.side == "rejected":
            if text == self._chosen:
                self.same_sides += 1
                self.first_same = self.first_same or place
            # The same two answers in the other order are the same texts with another target.
            sides = [self._chosen.strip(), text.strip()]
            target = str(sides[0] < sides[1])
            text = "\x1d".join(sorted(sides))
        self._row(f"{prompt}\x1d{text.strip()}", target, example, place)

    def _row(self, content: str, target: str, example: Example, place: str) -> None:
        """Count what belongs to a row once."""
        self.without_prompt += example.prompt is None
        for tag, value in example.tags.items():
            self.tags[tag][_brief(value)] += 1
        if example.label is not None:
            self.classes[str(example.label)] += 1
        if example.score is not None:
            self.scores.append(example.score)
        key = _hash(content)
        if key in self._targets:
            self.duplicates += 1
            if self._targets[key] != target:
                self.conflicts += 1
                self.first_conflict = self.first_conflict or place
        else:
            self._targets[key] = target

    def _leak(self, prompt: str, text: str, example: Example) -> None:
        group = _hash(example.group)
        if prompt:
            key = _hash(prompt)
            if self._prompt_group.setdefault(key, group) != group:
                self.leaking_prompts.add(key)
        if text and (not prompt or len(text.split()) >= LEAK_WORDS):
            key = _hash(text.strip())
            if self._text_group.setdefault(key, group) != group:
                self.leaking_texts.add(key)


def _brief(value: str) -> str:
    """Return a tag's value as it is printed and counted; a long one by its start and its hash."""
    return value if len(value) <= TAG_CHARACTERS else f"{value[:40]}... {_hash(value).hex()}"


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=12).digest()
