"""A report as plain text: what a reader reads and what the figures draw, to compare and review.

`check(html, name)` compares with `golden/NAME.txt`; run the tests with `GOLDEN=write` in the
environment to write the files again, and read the difference before it is committed.
"""

from __future__ import annotations

import base64
import json
import os
import struct
from html.parser import HTMLParser
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
BLOCKS = set(
    "p h1 h2 h3 h4 li tr caption figcaption summary dt dd pre footer section table div".split()
)
KEPT = ("name", "x", "y", "z", "text", "customdata")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.figures: dict[str, dict] = {}
        self._script: str | None = None
        self._skip = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self._skip = tag in ("style", "script")
        if tag == "script":
            self._script = found.get("data-for")
        if tag in BLOCKS:
            self.lines.append("")
        if tag in ("td", "th"):
            self.lines[-1] += " | "

    def handle_endtag(self, tag: str) -> None:
        self._skip, self._script = False, None
        if tag in BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if self._script:
            self.figures[self._script] = json.loads(data)
        elif not self._skip:
            self.lines[-1] += data


def parse(html: str) -> _Text:
    """Return a page's `lines` of text and its `figures` by their ids, as plotly's JSON."""
    parser = _Text()
    parser.feed(html)
    return parser


def page_text(html: str) -> str:
    """Return the visible text, a block a line, and every figure's traces with rounded numbers."""
    parser = parse(html)
    lines = [" ".join(line.split()) for line in parser.lines]
    text = [line for line in lines if line]
    for name, figure in parser.figures.items():
        layout = figure["layout"]
        text.append(f"# {name}: {layout['title']['text']}")
        text += [f"label {item['text']}" for item in layout.get("annotations", [])]
        for trace in figure["data"]:
            values = {key: rounded(trace[key]) for key in KEPT if trace.get(key) is not None}
            text.append(json.dumps({"type": trace.get("type"), **values}, ensure_ascii=False))
    return "\n".join(text) + "\n"


def rounded(value: object) -> object:
    """Return numbers to four figures, arrays as lists."""
    if isinstance(value, dict) and "bdata" in value:
        kind = {"f8": "d", "f4": "f", "i4": "i", "i1": "b", "i2": "h"}[value["dtype"]]
        data = base64.b64decode(value["bdata"])
        return rounded(list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data)))
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def check(html: str, name: str) -> None:
    """Compare a page with its golden text."""
    path = FOLDER / f"{name}.txt"
    text = page_text(html)
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path}: the page differs, see the docstring"
