"""What mkdocs does not do by itself: pages of files that lie beside docs/ (see mkdocs.yml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - mkdocs's own
    """Add the pages of files outside of docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        text = re.sub(r"`docs/([\w-]+\.md)`", r"[`docs/\1`](\1)", text)
        text = re.sub(r"\]\(notebooks/(\w+)\.py\)", r"](notebooks/\1.md)", text)
        files.append(File.generated(config, page, content=_linked(text)))
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=_notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:  # noqa: ANN401 - mkdocs's own
    """Turn links to files outside of docs/ into links to their pages."""
    if page.file.generated_by:
        return markdown
    text = re.sub(r"\]\(\.\./notebooks/(\w+)\.py\)", r"](notebooks/\1.md)", markdown)
    return _linked(text.replace("](../README.md", "](index.md"))


def _linked(text: str) -> str:
    for name, page in PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text


def _notebook(path: Path) -> str:
    """Return a notebook in jupytext's py:percent as a page: texts, and code between fences."""
    import jupytext

    cells = jupytext.read(path).cells
    texts = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in cells
    ]
    text = "\n\n".join(texts).replace("](../docs/", "](../")
    return re.sub(r"\]\((\w+)\.py\)", r"](\1.md)", text) + "\n"
