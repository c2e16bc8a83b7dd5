"""One POST to a host that need not be well-meaning: no redirect, one deadline, a bound on the answer."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

LARGEST = 1 << 20
"""Bytes of an answer; a category takes a few hundred."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key would go to whatever host it names."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - urllib's own
        """Follow nothing."""


class _Watched(urllib.request.HTTPHandler):
    """Opens connections and keeps them, so that they can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[http.client.HTTPConnection] = []

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open `http://`."""
        return self.do_open(self._keep(http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open `https://`."""
        return self.do_open(self._keep(http.client.HTTPSConnection), req)

    def _keep(self, kind: Callable[..., http.client.HTTPConnection]) -> Callable[..., Any]:
        def make(host: str, **options: Any) -> http.client.HTTPConnection:  # noqa: ANN401
            self.opened.append(kind(host, **options))
            return self.opened[-1]

        return make

    def cut(self) -> None:
        """Shut what is open, so that a read of it ends."""
        for connection in self.opened:
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout: float, largest: int = LARGEST
) -> bytes:
    """Send a body and return the answer's.

    Parameters
    ----------
    url, body, headers
        The request.
    timeout
        Seconds from the look-up of the host to the last byte. A socket's own timeout is for each read,
        so a host that sends a byte now and then would never be left.
    largest
        Bytes of an answer at most.

    Raises
    ------
    OSError, HTTPException, ValueError
        When it does not come: refused, redirected, late, too large, or not HTTP.
    """
    watched, ends = _Watched(), time.monotonic() + timeout
    opener = urllib.request.build_opener(_NoRedirect, watched)
    got: list[bytes | BaseException] = []

    def work() -> None:
        try:
            request = urllib.request.Request(url, body, dict(headers))
            with opener.open(request, timeout=timeout) as answer:
                got.append(_bounded(answer, ends, largest))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            got.append(error)

    # A daemon: a look-up of a host's name cannot be cut, and nobody waits for it.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        watched.cut()
        raise TimeoutError(f"timed out: no whole answer in {timeout:g} s")
    if isinstance(got[0], BaseException):
        raise got[0]
    return got[0]


def _bounded(answer: http.client.HTTPResponse, ends: float, largest: int) -> bytes:
    parts, size = [], 0
    while part := answer.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > largest:
            raise ValueError(f"the answer is larger than {largest} bytes")
        if time.monotonic() > ends:
            raise TimeoutError("timed out in the middle of the answer")
    return b"".join(parts)
