"""README and docs are run, in order, in one folder; nothing they say may fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    return re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.real_model
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run(page, tmp_path, real_model):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in blocks(page):
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stderr}"


def anchors(page):
    """Return what a link to the page may name after `#`: its headings, as GitHub spells them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            path = page.parent / file if file else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def test_the_command_reference_is_what_the_help_says():
    # In a process of its own: a command that was run alone keeps its own help option.
    code = "from tests.make_cli_reference import reference; print(reference(), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert (ROOT / "docs" / "cli.md").read_text() == made.stdout.decode()


def test_the_measures_are_what_the_package_says():
    from tests.make_measures_reference import reference

    assert (ROOT / "docs" / "measures.md").read_text() == reference()


def test_the_script_of_the_readme_is_twelve_lines():
    (script,) = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    lines = [line for line in script.splitlines() if line.strip()]
    assert len(lines) <= 12 and max(map(len, lines)) <= 100
    for name in (
        "load_model(",
        "tokenizer=tok",
        "fit_sweep(",
        ".figure()",
        "steered(",
        ".generate(",
    ):
        assert name in script
