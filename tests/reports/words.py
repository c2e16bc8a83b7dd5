"""What the made-up runs of every report share: texts, intervals, rows, and what a reader reads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from probekit.container import write_json
from tests.reports.golden import page_text, parse

HOSTILE = (
    "<script>document.title='owned'</script> & \"quoted\" </script><img src=x onerror=alert(1)>"
)
WORDS = (
    "I think that the person you name did work on this, though I can not say in which year the "
    "paper was published; it may be that I confuse her with someone else, so please check it"
).split()


def ends(value: float, below: float = 0.05, above: float | None = None) -> dict[str, float]:
    """Return an interval as JSON has it."""
    return {
        "value": value,
        "low": value - below,
        "high": value + (below if above is None else above),
    }


def jsonl(path: Path) -> list[dict]:
    """Return the rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write rows as jsonl, without a seal or a check."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def edited(path: Path) -> Iterator[dict]:
    """Yield the object of a JSON file, and write what became of it."""
    value = json.loads(path.read_text(encoding="utf-8"))
    yield value
    write_json(path, value)


def plain(page: Path) -> str:
    """Return what a reader reads on a page and in its figures, a block a line, with plain spaces."""
    return page_text(page.read_text(encoding="utf-8")).replace("\N{NO-BREAK SPACE}", " ")


def flat(page: Path) -> str:
    """Return what a reader reads on a page, on one line, no cell set apart."""
    text = " ".join(parse(page.read_text(encoding="utf-8")).lines)
    return " ".join(text.replace("|", " ").split())


def figures_of(page: Path) -> dict:
    """Return the figures of a page by their ids."""
    return parse(page.read_text(encoding="utf-8")).figures
