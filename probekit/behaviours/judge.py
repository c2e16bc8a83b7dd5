"""An optional judge: a language model behind an OpenAI-compatible endpoint names the category."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from probekit.behaviours.definitions import Behaviours
from probekit.behaviours.endpoint import post
from probekit.errors import BehaviourError
from probekit.foreign import public, shown, without_keys

INSTRUCTION = (
    "You sort replies of an assistant into categories. Read the question and the reply, then answer "
    "with the name of exactly one category and nothing else.\n\nCategories:\n{categories}\n\n"
    "If several fit, the first of them in this list counts."
)

LONGEST = 200
"""Characters that are kept of what went wrong."""


@dataclass
class Judge:
    """Asks `url` for a category of each completion; a failure leaves a gap, never an exception.

    After `give_up_after` failures in a row nothing more is asked in that call of `judge`; the next
    call tries once more. So a dead or slow endpoint costs a few timeouts, not the run.
    """

    behaviours: Behaviours
    url: str
    """Base address such as `http://localhost:8000/v1`, or the whole `.../chat/completions`.

    What may be a key in it (user, password, query) is sent, and taken out of this field.
    """
    model: str
    key_variable: str = "PROBEKIT_JUDGE_KEY"
    """Environment variable with the key; no key is sent when it is not set."""
    timeout: float = 30.0
    """Seconds to wait for one answer, from the look-up of the host to the last byte received."""
    attempts: int = 2
    give_up_after: int = 5
    threads: int = 4
    asked: int = 0
    answered: int = 0
    problem: str | None = None
    """The last thing that went wrong, in words."""
    _in_a_row: int = 0
    _target: str = field(default="", repr=False)
    _login: str = field(default="", repr=False)
    _keys: list[str] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        plain = public(self.url)
        if not re.fullmatch(r"https?://[^/\s]+[^\s]*", self.url) or shown(self.url) != self.url:
            raise BehaviourError(
                f"judge {plain!r}: is not an address. Expected http://HOST:PORT/v1 or https://."
            )
        if not 0 < self.timeout < float("inf"):
            raise BehaviourError(f"judge timeout {self.timeout}: expected seconds above 0.")
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        path = parts.path.rstrip("/")
        path += "" if path.endswith("/chat/completions") else "/chat/completions"
        self._target = urlunsplit((parts.scheme, host, path, parts.query, ""))
        self._login = base64.b64encode(unquote(user).encode()).decode() if user else ""
        query = [value for _, value in parse_qsl(parts.query)]
        self._keys = [parts.query, *query, user, *user.split(":"), self._login]
        self.url = public(self._target)

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
            # Those after HTTPException: an answer that is not what the interface promises.
            except (
                OSError,
                HTTPException,
                ValueError,
                LookupError,
                TypeError,
                RecursionError,
            ) as e:
                problem = f"{type(e).__name__}: {self._kept(str(e))}"
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
        if self._login:
            headers["Authorization"] = f"Basic {self._login}"
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        reply = json.loads(
            post(self._target, json.dumps(body).encode(), headers, timeout=self.timeout)
        )
        text = reply["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise ValueError("the answer's content is no text")
        found = self._category(text)
        if found is None:
            said = self._kept(text, 60)
            self.problem = f"the judge answered {said!r}, which is no category"
        return found

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()

    def _kept(self, text: str, limit: int = LONGEST) -> str:
        """Return what is kept of a text from elsewhere: no key, nothing unseen, no more than a line."""
        keys = [self._key(), *self._keys]
        forms = [form for key in keys for form in (key, unquote(key), quote(key), repr(key)[1:-1])]
        return " ".join(shown(without_keys(text, *forms)).split())[:limit]

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
