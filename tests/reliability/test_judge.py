"""A judge's host that is hostile, broken or slow: the key stays here, and a gap is all that it costs."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
import tracemalloc
from contextlib import contextmanager

import pytest

from probekit.behaviours import Behaviours, Judge

KEY = "sk-s3cret/+=key"
ROW = [("Who is Bohr?", "I do not know.")]


@contextmanager
def host(answer):
    """A server that lets `answer` write to every connection; yields its address and the requests' heads."""
    heads, over = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve():
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(10)
                    head = connection.recv(1 << 16)
                    while b"\r\n\r\n" not in head:
                        head += connection.recv(1 << 16)
                    heads.append(head.decode("latin-1"))
                    try:
                        answer(connection, over)
                    except OSError:
                        pass  # the judge has hung up

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", heads
        finally:
            over.set()
            thread.join()


def replies(body: bytes, status="200 OK", *more):
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more])
    return lambda connection, over: connection.sendall(head.encode() + b"\r\n\r\n" + body)


@pytest.fixture
def ask(monkeypatch):
    """A function that asks a host about one row; returns the category, the judge and the seconds."""
    monkeypatch.setenv("PROBEKIT_JUDGE_KEY", KEY)

    def ask(url, **options):
        options = {"attempts": 1, "timeout": 5.0, **options}
        judge = Judge(Behaviours.load("sentiment"), url, "m", **options)
        began = time.monotonic()
        (category,) = judge.judge(ROW)
        return category, judge, time.monotonic() - began

    return ask


def says(content):
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def test_a_plain_answer_is_read(ask):
    with host(replies(says("positive"))) as (url, heads):
        assert ask(url)[0] == "positive"
    assert f"Authorization: Bearer {KEY}" in heads[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_key_stays(ask, status):
    with host(replies(says("positive"))) as (other, strangers):
        with host(replies(b"", f"{status} Go", f"Location: {other}/v1")) as (url, _):
            category, judge, _ = ask(url)
    assert (category, strangers) == (None, [])
    assert str(status) in judge.problem


def test_headers_that_drip_end_at_the_deadline(ask):
    def drip(connection, over):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.1):
            connection.sendall(b"X")

    with host(drip) as (url, _):
        category, judge, seconds = ask(url, timeout=0.6)
        assert category is None
        assert 0.5 < seconds < 4
        assert "timed out" in judge.problem


def test_answers_that_only_ask_to_wait_end_at_the_deadline(ask):
    def wait(connection, over):
        while not over.wait(0.1):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with host(wait) as (url, _):
        category, judge, seconds = ask(url, timeout=0.6)
        assert (category, seconds < 4) == (None, True)
        assert "timed out" in judge.problem


def test_an_answer_without_end_takes_no_memory(ask):
    def pour(connection, over):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            connection.sendall(b" " * (1 << 20))

    with host(pour) as (url, _):
        tracemalloc.start()
        category, judge, _ = ask(url, timeout=60.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert category is None
    assert "larger than" in judge.problem
    assert (
        peak < 8 << 20
    )  # the bound is 1 MiB, held twice where the parts are joined, and the sender's


ODD = {
    "deep": b"[" * 100_000,
    "deep object": b'{"choices":' * 50_000,
    "not utf-8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "html": b"<html><body>502</body></html>",
    "empty": b"",
    "null": b"null",
    "number": b"1" * 9_000,
    "text": b'"choices"',
    "choices a number": b'{"choices": 3}',
    "choices an object": b'{"choices": {"0": 1}}',
    "content null": b'{"choices": [{"message": {"content": null}}]}',
    "content an object": says({"positive": 1}),
    "content a list": says(["positive"]),
    "content true": says(True),
    "lone surrogate": b'{"choices": [{"message": {"content": "\\ud800 x"}}]}',
    "infinity": b'{"choices": [{"message": {"content": Infinity}}]}',
    "bom": b"\xef\xbb\xbf{}",
    "controls": says("\x1b]0;owned\x07\x1b[2J\x9b31m \u202e"),
}


@pytest.mark.parametrize("name", ODD)
def test_any_answer_at_all_is_a_gap(ask, name):
    with host(replies(ODD[name])) as (url, _):
        category, judge, _ = ask(url)
    assert category is None
    assert judge.failed == 1
    assert judge.problem.isprintable()
    judge.problem.encode("utf-8")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/9.9 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 500 \x1b[2J" + KEY.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"",
    ],
)
def test_what_is_not_http_is_a_gap(ask, raw):
    with host(lambda connection, over: connection.sendall(raw)) as (url, _):
        category, judge, _ = ask(url)
    assert category is None
    assert judge.problem.isprintable()
    assert KEY not in judge.problem


def test_the_key_is_cut_out_of_what_is_kept(ask):
    with host(replies(says(f"your key is {KEY}, {'x' * 40}"))) as (url, _):
        _, judge, _ = ask(url)
    assert "your key is ***" in judge.problem
    with host(replies(says("x" * 55 + KEY))) as (url, _):  # not half of it either
        _, judge, _ = ask(url)
    assert KEY[:3] not in judge.problem


@pytest.mark.parametrize("where", ["user:{}@", "{}@", "?key={}", "?a=b&api_key={}"])
def test_a_key_in_the_address_is_sent_and_not_kept(ask, monkeypatch, where):
    monkeypatch.delenv("PROBEKIT_JUDGE_KEY")
    secret = "s3cret"

    def answer(connection, over):
        replies(b"", f"500 {heads[-1].split()[1]}")(connection, over)

    with host(answer) as (url, heads):
        before, after = (where.format(secret), "") if "@" in where else ("", where.format(secret))
        _, judge, _ = ask(f"{url}/v1{after}".replace("//", f"//{before}", 1))
        assert judge.url == f"{url}/v1/chat/completions"
        assert secret not in f"{judge!r} {judge.problem}"
        first = heads[0].splitlines()[0]
        if after:
            assert first == f"POST /v1/chat/completions{after} HTTP/1.1"
        else:
            login = base64.b64encode(before[:-1].encode()).decode()
            assert f"Authorization: Basic {login}" in heads[0]
            assert secret not in first


def test_a_key_that_is_no_header_is_a_gap_without_the_key(ask, monkeypatch):
    monkeypatch.setenv("PROBEKIT_JUDGE_KEY", "first\nsecond")
    with host(replies(says("positive"))) as (url, _):
        category, judge, _ = ask(url)
    assert category is None
    assert not {"first", "second"} & set(
        judge.problem.replace("\\n", " ").replace("'", " ").split()
    )
    assert "first" not in judge.problem
