"""A page runs its own scripts only, also of a foreign run; a text never stands for a number in it."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest

from probekit.cli.report import WRITERS
from probekit.errors import ProbekitError
from probekit.results.runs import command_of
from tests.reports.browser import chromium, open_report
from tests.reports.dynamics_factory import write_dynamics
from tests.reports.factory import Made, write_fit
from tests.reports.rl_factory import MadeRL, write_rl
from tests.reports.steer_factory import MadeSteer, write_steer
from tests.reports.study_factory import RISES, MadeStudy, arm, write_study
from tests.reports.test_pages import GOLDEN, dynamics

MARKUP = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<style>body{color:red}</style>"
)
PAGES = {
    **{name: GOLDEN[name] for name in ("sweep-label", "steer", "rl", "knowledge_awareness")},
    "dynamics": lambda at: dynamics(at, "sgd"),
}
MUTANTS = 6
"""Of each kind of report: files with one number, or nothing, replaced by markup."""


def write(folder: Path, out: Path) -> Path:
    module, _, name = WRITERS[command_of(folder)].partition(":")
    return getattr(import_module(module), name)(folder, out=out, force=True)


def numbers_of(value, path=()):
    """Yield the place of every value that is no text."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from numbers_of(value[key], (*path, key))
    elif not isinstance(value, str):
        yield path


def put(value, path, new):
    value = at = copy.deepcopy(value)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return value


@pytest.mark.parametrize("name", PAGES)
def test_a_text_where_a_number_belongs_is_refused_or_shown_as_text(tmp_path, name):
    folder = PAGES[name](tmp_path).parent
    seed = random.randrange(1 << 32)
    rng, places = random.Random(seed), []
    for file in sorted(folder.rglob("*.json*")):
        raw = file.read_text(encoding="utf-8")
        if file.suffix in (".json", ".jsonl"):
            rows = (
                [json.loads(line) for line in raw.split("\n") if line]
                if file.suffix == ".jsonl"
                else [json.loads(raw)]
            )
            by_shape = {}
            for path in numbers_of(rows[0]) if rows else ():
                shape = tuple(key for key in path if not isinstance(key, int))
                by_shape[shape] = (file, raw, rows, path)
            places += by_shape.values()
    refused = 0
    for file, raw, rows, path in rng.sample(places, min(MUTANTS, len(places))):
        changed = [put(rows[0], path, MARKUP), *rows[1:]]
        file.write_text("\n".join(map(json.dumps, changed)) + "\n", encoding="utf-8")
        try:
            html = write(folder, tmp_path / "page.html").read_text(encoding="utf-8")
        except ProbekitError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            body = html.split("<body>")[1]
            assert not re.search(r"<img|<script>document|<style>body", body), (
                file.name,
                path,
                seed,
            )
        finally:
            file.write_text(raw, encoding="utf-8")
    assert refused, seed


def policy(html: str) -> dict[str, str]:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    return dict(part.strip().split(" ", 1) for part in found[1].split(";"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return dynamics(tmp_path_factory.mktemp("page"), "sgd").read_text(encoding="utf-8")


def test_the_policy_names_the_pages_own_scripts_and_nothing_else(page):
    rules = policy(page)
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for kind in ("script-src", "style-src-elem"):
        assert re.fullmatch(r"('sha256-[\w+/]{43}='\s?){2}", rules[kind]), kind
    assert not re.search(r"unsafe-eval|https?:|\*", str(rules))
    # Attributes only: plotly sets the place of what it draws by them.
    assert [kind for kind, words in rules.items() if "unsafe-inline" in words] == ["style-src-attr"]


def dump(path: Path, folder: Path) -> str:
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", f"--user-data-dir={folder / 'user'}", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=8000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.browser
def test_markup_that_came_into_a_page_all_the_same_runs_nothing(page, tmp_path):
    """Escaping keeps markup out; the policy is the second wall, tried by putting it in by hand."""
    traps = (
        "<script>document.title='owned'</script>",
        "<img src=x onerror=\"document.title='owned'\">",
        "<svg onload=\"document.title='owned'\"></svg>",
        "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe>",
        "<script src=\"data:text/javascript,document.title='owned'\"></script>",
        "<base href=https://evil.invalid/>",
        "<style>h1{display:none}</style>",
    )
    bare = tmp_path / "bare.html"
    bare.write_text(
        re.sub(r"<meta http-equiv[^>]+>", "", page).replace("<main>", "".join(traps) + "<main>")
    )
    assert "<title>owned</title>" in dump(bare, tmp_path)  # the traps work
    walled = tmp_path / "walled.html"
    walled.write_text(page.replace("<main>", "".join(traps) + "<main>"))
    dom = dump(walled, tmp_path)
    assert "<title>owned</title>" not in dom
    figures = len(re.findall(r'data-for="', page))
    assert len(re.findall(r'class="[^"]*js-plotly-plot', dom)) == figures > 0  # its own still draw


def hostile(port: int) -> str:
    """A text that tries everything: scripts, requests, links, other directions, words without end."""
    own, at = "document.title='owned'", f"http://127.0.0.1:{port}"
    return (
        f"<script>{own}</script><script src={at}/s></script></title></script></style></textarea>-->"
        f'<img src={at}/i onerror="{own}"><svg onload="{own}"></svg>'
        f"<style>@import url({at}/c);body{{background:url({at}/b)}}</style><iframe src={at}/f></iframe>"
        f'<link rel=stylesheet href={at}/l><a href="javascript:{own}" onclick="{own}">go</a> '
        f"<a href='{at}/a'>there</a> ' \" onfocus={own} "
        "{{ 7*7 }}{% raise %}{# ${7*7} #} \u202eright to left\u2066 \u2028 \u2029 \x00 \x1b[2J\ufeff"
        f"نص مكتوب من اليمين {'w' * 300} {'界' * 200} \\u003cscript>{own}</script> "
        f"%s &lt;b&gt; {at}/{'p' * 90}"
    )


def hostile_pages(at: Path, text: str) -> dict[str, Path]:
    """Reports of every kind, of runs in which everything that somebody else may choose is `text`."""
    tags = {text: (text, f"{text}2"), "lang": ("en", text[::-1])}
    other = write_rl(at / "other" / "run", MadeRL(steps=4, every=2, text=text, prompts=6, seed=3))
    return {
        "fit": write_fit(at / "fit", Made(
            "label", layers=4, n=12, texts=(text,), tags=tags, classes=(text, f"{text}!"))),
        "steer": write_steer(at / "steer", MadeSteer(text=text, prompts=4, layers=4, steered=(2,))),
        "rl": write_rl(at / "rl", MadeRL(
            steps=4, every=2, text=text, prompts=6, alarms={2: text}, behaviour=text)),
        "other": other,
        "dynamics": write_dynamics(
            at / "dynamics", "sgd", **dict.fromkeys(("site", "position", "head"), text), exact=[]),
        "study": write_study(at / "study", MadeStudy(
            text=text, layers=3, quick=True, questions=6, arms={"max": arm(RISES, text=text)})),
    }  # fmt: skip


@pytest.fixture
def listener():
    """A server of this machine, and what was asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["fit", "steer", "rl", "dynamics", "study"])
def test_a_page_of_hostile_texts_runs_nothing_asks_nothing_and_fits(tmp_path, listener, name):
    port, asked = listener
    folders = hostile_pages(tmp_path, hostile(port))
    module, _, function = WRITERS[command_of(folders[name])].partition(":")
    more = {"compare": [folders["other"]]} if name == "rl" else {}
    page = getattr(import_module(module), function)(
        folders[name], out=tmp_path / "page.html", **more
    )
    for width in (1280, 400):
        found, console = open_report(page, tmp_path, width=width, offline=False, picture=True)
        assert found["title"] != "owned"
        assert found["problems"] == console == found["resources"] == asked == []
        assert found["scroll"] <= found["inner"] <= width
        assert not [link for link in found["links"] if not re.match(r"#|[\w./-]+$", link)]
    bare = tmp_path / "bare.html"
    bare.write_text(f"<body>{hostile(port)}", encoding="utf-8")
    assert "<title>owned</title>" in dump(bare, tmp_path)  # the text would do it
