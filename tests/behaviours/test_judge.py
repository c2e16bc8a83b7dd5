"""The judge against a local server: good answers, bad ones, none, slow ones."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from probekit.behaviours import Behaviours, Judge
from probekit.errors import BehaviourError


@pytest.fixture
def behaviours(tmp_path):
    path = tmp_path / "b.toml"
    path.write_text(
        "[categories.hedges]\ndescription = 'does not know'\npatterns = ['know']\n"
        "[categories.answers]\ndescription = 'claims'\npatterns = ['is']\n"
    )
    return Behaviours.load(path)


class Endpoint:
    """An OpenAI-compatible server whose answers the test decides."""

    def __init__(self, answer, drip=0.0):
        self.requests = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, dict(self.headers), body))
                status, text = answer(body, len(endpoint.requests))
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    for piece in [data] if not drip else [bytes([b]) for b in data]:
                        self.wfile.write(piece)
                        time.sleep(drip)
                except OSError:
                    self.close_connection = True  # the judge has not waited

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def says(text):
    return json.dumps({"choices": [{"message": {"content": text}}]})


ROWS = [("Who is Bohr?", "I do not know."), ("Who is Bohr?", "He is a physicist.")]


def test_it_asks_with_the_categories_and_the_key(behaviours, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")

    def answer(body, n):
        reply = body["messages"][1]["content"].rpartition("Reply:\n")[2]
        return 200, says("Hedges." if "know" in reply else "answers")

    with Endpoint(answer) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m", key_variable="JUDGE_KEY")
        assert judge.judge(ROWS) == ["hedges", "answers"]
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "m"
    assert body["temperature"] == 0
    for words in ("hedges: does not know", "answers: claims", "other: none of the others"):
        assert words in body["messages"][0]["content"]
    assert (judge.asked, judge.answered, judge.failed) == (2, 2, 0)


def test_no_key_is_sent_when_there_is_none(behaviours, monkeypatch):
    monkeypatch.delenv("PROBEKIT_JUDGE_KEY", raising=False)
    with Endpoint(lambda body, n: (200, says("other"))) as endpoint:
        judge = Judge(behaviours, endpoint.url + "/chat/completions", "m")
        assert judge.judge(ROWS) == ["other", "other"]
    assert "Authorization" not in endpoint.requests[0][1]


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("answers", "answers"),
        ("**Answers**", "answers"),
        ("The category is: hedges", "hedges"),
        ("hedges or answers", None),
        ("I cannot say", None),
        ("", None),
    ],
)
def test_how_an_answer_is_read(behaviours, text, category):
    with Endpoint(lambda body, n: (200, says(text))) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m")
        assert judge.judge(ROWS[:1]) == [category]
    assert judge.failed == (category is None)
    if category is None:
        assert "is no category" in judge.problem


@pytest.mark.parametrize("reply", ["{}", "not json", '{"choices": []}', "[1]"])
def test_an_answer_of_another_shape_is_a_gap(behaviours, reply):
    with Endpoint(lambda body, n: (200, reply)) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m")
        assert judge.judge(ROWS) == [None, None]
    assert judge.failed == 2
    assert judge.problem


def test_a_failure_is_tried_again(behaviours):
    with Endpoint(lambda body, n: (503, "busy") if n == 1 else (200, says("other"))) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m", threads=1)
        assert judge.judge(ROWS) == ["other", "other"]
    assert judge.failed == 0


def test_a_dead_endpoint_costs_a_few_attempts_and_no_exception(behaviours):
    judge = Judge(behaviours, "http://127.0.0.1:9/v1", "m", threads=1)
    assert judge.judge(ROWS * 20) == [None] * 40
    assert judge.failed == 40
    assert "refused" in judge.problem.lower()


def test_a_failing_endpoint_is_given_up(behaviours):
    with Endpoint(lambda body, n: (500, "broken")) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m", threads=1, give_up_after=3)
        assert judge.judge(ROWS * 10) == [None] * 20
    assert len(endpoint.requests) == 3 * judge.attempts


def test_a_slow_endpoint_is_not_waited_for(behaviours):
    def answer(body, n):
        time.sleep(0.5)
        return 200, says("other")

    with Endpoint(answer) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m", timeout=0.05, threads=1, give_up_after=2)
        started = time.monotonic()
        assert judge.judge(ROWS * 50) == [None] * 100
        assert time.monotonic() - started < 30  # 2 rows x 2 attempts, then nothing is asked
    assert "timed out" in judge.problem


def test_a_dripping_answer_is_not_waited_for(behaviours):
    """Each byte comes in time, the whole never: the deadline is for the answer."""
    with Endpoint(lambda body, n: (200, says("other") + " " * 60), drip=0.05) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m", timeout=0.3, attempts=1)
        started = time.monotonic()
        assert judge.judge(ROWS[:1]) == [None]
        assert time.monotonic() - started < 2.5  # dripped to its end it would take 5 s
    assert "timed out" in judge.problem


def test_an_endpoint_that_recovers_is_asked_again(behaviours):
    with Endpoint(lambda body, n: (500, "no") if n <= 2 else (200, says("other"))) as endpoint:
        judge = Judge(behaviours, endpoint.url, "m", threads=1, give_up_after=2, attempts=1)
        assert judge.judge(ROWS * 3) == [None] * 6
        assert judge.judge(ROWS) == ["other", "other"]
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(behaviours, timeout):
    with pytest.raises(BehaviourError, match="judge timeout"):
        Judge(behaviours, "http://x/v1", "m", timeout=timeout)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "", "http://"])
def test_what_is_no_address_is_refused(behaviours, url):
    with pytest.raises(BehaviourError, match="is not an address"):
        Judge(behaviours, url, "m")
