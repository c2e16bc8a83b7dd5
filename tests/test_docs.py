"""README and docs are run, in order, in one folder; nothing they say may fail."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import probekit
from tests.forked import Forked

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    return re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    made = Forked(tmp_path_factory.mktemp("forked"))
    yield made
    made.stop()


@pytest.mark.real_model
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run(page, tmp_path, real_model, forked):
    path = os.pathsep.join([forked.bin, str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, text in blocks(page):
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stderr}"


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.real_model
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_a_script(notebook, tmp_path, real_model):
    code = f"import runpy, warnings; warnings.simplefilter('ignore'); runpy.run_path({str(notebook)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_in_text(notebook):
    """Cells begin as jupytext's py:percent says, and texts are comments, whose links lead somewhere."""
    head, *cells = re.split(r"^# %%", notebook.read_text(encoding="utf-8"), flags=re.M)
    assert "format_name: percent" in head and all(
        line.startswith("#") for line in head.split("\n") if line
    )
    kinds = [cell.partition("\n")[0].strip() for cell in cells]
    assert set(kinds) == {"", "[markdown]"} and kinds[0] == "[markdown]"
    for kind, cell in zip(kinds, cells, strict=True):
        body = cell.partition("\n")[2]
        if kind:
            assert all(line.startswith("#") for line in body.splitlines() if line.strip())
            for target in re.findall(r"\]\(([^)#]+)", body):
                assert (notebook.parent / target).is_file(), target
        else:
            compile(body, notebook.name, "exec")


def leaves(nav):
    """Return the pages of a part of the site's navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in leaves(part)]


def test_every_page_is_in_the_navigation_of_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    made = ["index.md", "contributing.md", *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS)]
    assert sorted(leaves(site["nav"])) == sorted([*pages, *made])
    for name in [*site["hooks"], *(f"docs/{name}" for name in site["extra_css"])]:
        assert (ROOT / name).is_file()


def test_the_api_page_has_every_public_name():
    named = re.findall(r"^::: (.+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.M)
    found = [pkgutil.resolve_name(name) for name in named]
    assert {id(getattr(probekit, name)) for name in probekit.__all__} <= {
        id(thing) for thing in found
    }
    assert all(thing.__doc__ for thing in found)


def test_pictures_are_small_and_shown():
    shown = {
        name for page in PAGES for name in re.findall(r"images/([\w-]+\.svg)", page.read_text())
    }
    there = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert shown == there.keys()
    assert max(there.values()) < 100_000 and sum(there.values()) < 500_000


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
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
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
