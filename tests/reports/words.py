"""Texts that the made-up runs of every report are filled with, and rows of their files."""

from __future__ import annotations

import json
from pathlib import Path

HOSTILE = (
    "<script>document.title='owned'</script> & \"quoted\" </script><img src=x onerror=alert(1)>"
)
WORDS = (
    "I think that the person you name did work on this, though I can not say in which year the "
    "paper was published; it may be that I confuse her with someone else, so please check it"
).split()


def jsonl(path: Path) -> list[dict]:
    """Return the rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
