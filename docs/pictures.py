"""Draw the pictures of the docs from the runs of make demo, steer and rl: python docs/pictures.py out.

A picture is a figure of a report as SVG, drawn by the report's own plotly.js in headless Chromium.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from probekit.reports import rl as rl_report
from probekit.reports import steer_figures, sweep_figures
from probekit.results.runs import open_run

WIDTH = 680
IMAGES = Path(__file__).parent / "images"
_PAGE = """<!doctype html><meta charset="utf-8"><script>%s</script><script>
var figures = %s;
addEventListener("load", async function () {
  var drawn = {};
  for (var name in figures) {
    var f = figures[name], size = {format: "svg", width: %d, height: f.layout.height || 400};
    f.layout.width = size.width;
    drawn[name] = decodeURIComponent((await Plotly.toImage(f, size)).replace(/^[^,]*,/, ""));
  }
  var node = document.createElement("pre");
  node.id = "drawn";
  node.textContent = JSON.stringify(drawn);
  document.body.appendChild(node);
});
</script><body></body>"""


def figures(out: Path) -> dict[str, go.Figure]:
    """Return the figures that are drawn, by the name of their picture."""
    demo = sweep_figures(open_run(out / "demo" / "sweep"))
    steered = steer_figures(open_run(out / "steer" / "steered"))
    runs = {name: open_run(out / "rl" / name) for name in ("chosen", "max")}
    return {
        **{f"fit-{name}": demo[name] for name in ("controls", "heatmap", "curves", "scores")},
        **{f"fit-{name}": demo[name] for name in ("cosine", "reliability")},
        **{f"steer-{name}": steered[name] for name in ("effect", "behaviour", "damage")},
        "rl-compared": rl_report.compare_figure(
            runs,
            ["score", "wanted", "entropy"],
            title="One head, two targets",
            subtitle="score, wanted answers and entropy on 48 held-out prompts x 4",
        ),
        "rl-goodhart": rl_report.goodhart_figure(
            runs["max"],
            title="Target max over the divergence",
            subtitle="change since the first evaluation; numbers above: training steps",
        ),
    }


def draw(drawn: dict[str, go.Figure], width: int = WIDTH) -> dict[str, str]:
    """Return figures as SVG."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("pictures: found no Chromium. Install the package chromium.")
    data = json.dumps({name: json.loads(figure.to_json()) for name, figure in drawn.items()})
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        text = _PAGE % (get_plotlyjs(), data.replace("</", "<\\/"), width)
        page.write_text(text, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", f"--user-data-dir={folder}/user", "--virtual-time-budget=60000",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    found = re.search(r'<pre id="drawn">(.*?)</pre>', done.stdout.decode(), flags=re.DOTALL)
    if not found:
        sys.exit(f"pictures: the browser drew nothing: {done.stderr.decode()[-2000:]}")
    return json.loads(html.unescape(found.group(1)))


def small(svg: str) -> str:
    """Return a drawing without what a still picture does not need, and with the same names each time."""
    for number, name in enumerate(sorted(set(re.findall(r"defs-([0-9a-f]{6})", svg)))):
        svg = svg.replace(name, f"p{number}")
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    return re.sub(r' (?:class|data-[\w-]+|pointer-events|cursor)="[^"]*"', "", svg) + "\n"


def main(out: str = "out") -> None:
    """Write every picture."""
    IMAGES.mkdir(exist_ok=True)
    for name, svg in draw(figures(Path(out))).items():
        path = IMAGES / f"{name}.svg"
        path.write_text(small(svg), encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(IMAGES.parent)}  {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
