"""A template and its context to one self-contained HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from probekit.container import atomic_file
from probekit.foreign import recorded
from probekit.outputs import claim
from probekit.reports.formats import FILTERS
from probekit.results.measures import measure, measures

FOLDER = files("probekit.reports") / "templates"
MARK = b'<meta name="generator" content="probekit">'


@cache
def environment(folder: Path | None = None) -> jinja2.Environment:
    """Return the environment of every template: all text is escaped, an undefined name is an error.

    Templates in `folder` may extend and import those of probekit.
    """
    folders = [str(FOLDER), *([str(folder)] if folder else [])]
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"],
    )
    made.filters |= {**FILTERS, "figure_json": figure_json, "pretty": _pretty, "recorded": recorded}
    made.globals |= {"measure": measure, "measures": measures}
    return made


def figure_json(figure: go.Figure) -> Markup:
    """Return a figure as JSON that no text in it can break out of the script element."""
    text = json.dumps(figure.to_plotly_json(), ensure_ascii=False, allow_nan=False, default=_list)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - `<` never reaches the page raw


def said(template: str, macro: str, *arguments: object) -> str:
    """Return what a macro of a template says, on one line for a terminal."""
    words: Any = environment().get_template(template).module
    return " ".join(getattr(words, macro)(*arguments).unescape().split())


def page_path(directory: Path, out: Path | None) -> Path:
    """Return where a page is written: `out`, `report.html` in the run's directory by default."""
    return directory / "report.html" if out is None else Path(out)


def write_page(
    template: str | Path, context: Mapping[str, Any], directory: Path, out: Path | None, *, force: bool
) -> Path:  # fmt: skip
    """Render a template, a name or a file of another package, to a file, whole or not at all."""
    path = page_path(directory, out)
    with claim(path, "report", force=force, own=is_page):
        text = render(template, context)
        with atomic_file(path, replace=force) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def is_page(path: Path) -> bool:
    """Return whether a file is a page of probekit; older ones have no mark, and the name of most."""
    with path.open("rb") as file:
        return MARK in file.read(4096) or path.name == "report.html"


def render(template: str | Path, context: Mapping[str, Any]) -> str:
    """Return the page; its policy lets the browser run the page's own two scripts and load nothing.

    A page that brings a style of its own, `own_style`, has no figures and no script.
    """
    plain = context.get("own_style", "")
    scripts = [] if plain else [get_plotlyjs(), (FOLDER / "page.js").read_text(encoding="utf-8")]
    style = (FOLDER / "report.css").read_text(encoding="utf-8") + plain
    own = {
        "scripts": [Markup(text) for text in scripts],  # noqa: S704 - own files
        "hashes": _hashes(scripts) or "'none'",
        "style": Markup(style),  # noqa: S704 - own file
        # plotly adds the style of maps, which no page has, unless an element of its name is there.
        "maps": re.findall(r'getElementById\("([0-9a-f]{64})"\)', scripts[0]) if scripts else [],
        "style_hashes": _hashes([style, ""]),  # plotly makes an empty element, and adds rules to it
    }
    known = environment(template.parent if isinstance(template, Path) else None)
    return known.get_template(Path(template).name).render(**own, **context)


def _hashes(texts: Sequence[str]) -> Markup:
    """Return the sources of a policy that allow exactly these texts."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return Markup(" ").join(Markup("'sha256-{}'").format(digest) for digest in digests)


def _pretty(value: object) -> str:
    return json.dumps(recorded(value), indent=1, ensure_ascii=False, default=_list)


def _list(value: Any) -> Any:  # noqa: ANN401 - an array or a NumPy scalar
    return value.tolist()
