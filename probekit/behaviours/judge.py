"""An optional judge: a language model behind an OpenAI-compatible endpoint names the category."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from probekit.behaviours.definitions import Behaviours
from probekit.errors import BehaviourError

INSTRUCTION = (
    "You sort replies of an assistant into categories. Read the question and the reply, then answer "
    "with the name of exactly one category and nothing else.\n\nCategories:\n{categories}\n\n"
    "If several fit, the first of them in this list counts."
)


@dataclass
class Judge:
    """Asks `url` for a category of each completion; a failure leaves a gap, never an exception.

    After `give_up_after` failures in a row nothing more is asked in that call of `judge`; the next
    call tries once more. So a dead or slow endpoint costs a few timeouts, not the run.
    """

    behaviours: Behaviours
    url: str
    """Base address such as `http://localhost:8000/v1`, or the whole `.../chat/completions`."""
    model: str
    key_variable: str = "PROBEKIT_JUDGE_KEY"
    """Environment variable with the key; no key is sent when it is not set."""
    timeout: float = 30.0
    """Seconds to wait for one answer, from the first byte sent to the last received."""
    attempts: int = 2
    give_up_after: int = 5
    threads: int = 4
    asked: int = 0
    answered: int = 0
    problem: str | None = None
    """The last thing that went wrong, in words."""
    _in_a_row: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/\s]+", self.url):
            raise BehaviourError(
                f"judge {self.url!r}: is not an address. Expected http://HOST:PORT/v1 or https://."
            )
        if not 0 < self.timeout < float("inf"):
            raise BehaviourError(f"judge timeout {self.timeout}: expected seconds above 0.")
        if not self.url.rstrip("/").endswith("/chat/completions"):
            self.url = self.url.rstrip("/") + "/chat/completions"

    @property
    def failed(self) -> int:
        """Completions that got no category."""
        return self.asked - self.answered

    def judge(self, rows: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return a category, or None, for each (prompt, completion)."""
        self._in_a_row = min(self._in_a_row, self.give_up_after - 1)
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._one, rows))

    def _one(self, row: tuple[str, str]) -> str | None:
        with self._lock:
            self.asked += 1
            if self._in_a_row >= self.give_up_after:
                return None
        found, problem = None, None
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(1.0, self.timeout))  # a busy endpoint is given a moment
            try:
                found, problem = self._ask(*row), None
                break
            # ValueError and the like: an answer that is not what the interface promises.
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if problem else 0
            self.problem = problem or self.problem
            self.answered += found is not None
        return found

    def _ask(self, prompt: str, completion: str) -> str | None:
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": 16,
            "messages": [
                {"role": "system", "content": self._instruction()},
                {"role": "user", "content": f"Question:\n{prompt}\n\nReply:\n{completion}"},
            ],
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                reply = json.loads(self._read(answer))
        except urllib.error.HTTPError as error:
            error.close()
            raise
        text = str(reply["choices"][0]["message"]["content"])
        found = self._category(text)
        if found is None:
            self.problem = f"the judge answered {text[:60]!r}, which is no category"
        return found

    def _read(self, answer: Any) -> bytes:  # noqa: ANN401 - an HTTPResponse
        """Return the body. The socket's timeout is for each read: a dripping answer needs another."""
        deadline, parts = time.monotonic() + self.timeout, []
        while part := answer.read1(1 << 16):
            parts.append(part)
            if time.monotonic() > deadline:
                raise TimeoutError("timed out in the middle of the answer")
        return b"".join(parts)

    def _instruction(self) -> str:
        rows = [(c.name, c.description) for c in self.behaviours.categories]
        rows.append((self.behaviours.default, "none of the others"))
        lines = "\n".join(f"- {name}: {words}" for name, words in rows)
        return INSTRUCTION.format(categories=lines)

    def _category(self, text: str) -> str | None:
        """Return the category that the answer names; None when it names none, or several."""
        known = {name.casefold(): name for name in self.behaviours.names}
        bare = text.strip().strip(".\"'`*").casefold()
        if bare in known:
            return known[bare]
        named = [name for low, name in known.items() if re.search(rf"\b{re.escape(low)}\b", bare)]
        return named[0] if len(named) == 1 else None
