"""Open a report in headless Chromium and bring back what it drew, with the standard library only."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Runs before anything else in the page: whatever goes wrong is kept.
_COLLECT = """<script>
window.problems = [];
addEventListener("error", function (e) { problems.push("error: " + e.message); });
addEventListener("unhandledrejection", function (e) { problems.push("rejection: " + e.reason); });
addEventListener("securitypolicyviolation", function (e) { problems.push("csp: " + e.blockedURI); });
["error", "warn"].forEach(function (level) {
  console[level] = function () { problems.push(level + ": " + [].join.call(arguments, " ")); };
});
</script>"""

# Runs when everything is drawn: what is on the page, as JSON in an element of its own.
_REPORT = """<script>
function rectangles(gd) {
  var found = [];
  gd.querySelectorAll("text").forEach(function (node) {
    var r = node.getBoundingClientRect(), box = gd.getBoundingClientRect();
    if (!node.textContent.trim() || !r.width || node.closest(".hoverlayer")) { return; }
    found.push([node.textContent, r.left - box.left, r.top - box.top, r.right - box.left,
      r.bottom - box.top]);
  });
  return found;
}
function look(gd) {
  function count(selector) { return gd.querySelectorAll(selector).length; }
  return {id: gd.id, height: gd.clientHeight, svgs: count(".main-svg"),
    svgWidth: gd._fullLayout.width, types: gd.data.map(function (t) { return t.type || "scatter"; }),
    scatter: count(".scatterlayer .trace"), images: count(".heatmaplayer image"), texts: rectangles(gd)};
}
addEventListener("load", function () {
  document.querySelectorAll("details.fold").forEach(function (fold) { fold.open = true; });
});
addEventListener("load", function () { setTimeout(async function () {
  var plots = [].slice.call(document.querySelectorAll(".plot")), found = {};
  found.title = document.title;
  found.figures = plots.map(look);
  found.scroll = document.documentElement.scrollWidth;
  found.inner = document.documentElement.clientWidth;
  found.links = [].map.call(document.querySelectorAll("[href], [src]"), function (n) {
    return String(n.getAttribute("href") || n.getAttribute("src")); });
  found.resources = performance.getEntriesByType("resource").map(function (e) { return e.name; });
  found.png = (await Plotly.toImage(plots[0], {format: "png"})).slice(0, 22);
  dispatchEvent(new Event("beforeprint"));
  found.printed = plots.map(look);
  dispatchEvent(new Event("afterprint"));
  found.after = plots.map(function (gd) { return gd._fullLayout.width; });
  found.problems = problems;
  var node = document.createElement("pre");
  node.id = "found";
  node.style.display = "none";
  node.textContent = JSON.stringify(found);
  document.body.appendChild(node);
  parent.postMessage(node.textContent, "*");
}, 500); });
</script>"""

# Around the page where the screen is narrower than a window of the browser can be.
_FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
addEventListener("message", function (e) {
  if (!/^{"title"/.test(e.data) || document.getElementById("found")) { return; }
  var node = document.createElement("pre");
  node.id = "found";
  node.style.display = "none";
  node.textContent = e.data;
  document.body.appendChild(node);
});
</script><iframe src="watched.html" style="border:0;width:WIDTHpx;height:1990px"></iframe>"""
LEAST = 500
"""Width of the narrowest window of a browser without a screen."""


def chromium() -> str:
    """Return the browser; without one skip the test, or fail it where CI is set."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    reason = "no Chromium found: install the package chromium to open reports in a browser"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def open_report(
    report: Path, folder: Path, *, width: int, offline: bool = True, picture: bool = False
) -> tuple[dict, list[str]]:
    """Return what a copy of `report` tells that it drew, and the console's lines.

    No host is resolved where it is `offline`; with a `picture` it is drawn into `page.png`.
    """
    page = folder / "watched.html"
    text = report.read_text(encoding="utf-8")
    text = text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{_COLLECT}', 1)
    # The page's policy names its own scripts; the copy's names the one that is put at its end too.
    digest = base64.b64encode(hashlib.sha256(_REPORT[8:-9].encode()).digest()).decode()
    text = text.replace("script-src 'sha256", f"script-src 'sha256-{digest}' 'sha256", 1)
    head, tail = text.rsplit("</body>", 1)
    page.write_text(f"{head}{_REPORT}</body>{tail}", encoding="utf-8")
    if width < LEAST:
        page = folder / "frame.html"
        page.write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--no-first-run", f"--user-data-dir={folder / 'user'}",
        *(["--host-resolver-rules=MAP * ~NOTFOUND"] if offline else []),
        *([f"--screenshot={folder / 'page.png'}"] if picture else []),
        f"--window-size={max(width, LEAST)},2000",
        "--virtual-time-budget=15000", "--enable-logging=stderr", "--v=0", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    dom = done.stdout.decode("utf-8", "replace")
    log = done.stderr.decode("utf-8", "replace")
    match = re.search(r'<pre id="found"[^>]*>(.*?)</pre>', dom, flags=re.DOTALL)
    assert match, f"the page did not report back (exit {done.returncode}): {log[-2000:]}"
    return json.loads(unescape(match.group(1))), [x for x in log.splitlines() if "CONSOLE" in x]


def collisions(texts: list[list]) -> list[tuple[str, str]]:
    """Return pairs of texts whose boxes overlap by more than their line spacing."""
    found = []
    for index, (one, left, top, right, bottom) in enumerate(texts):
        for other, other_left, other_top, other_right, other_bottom in texts[index + 1 :]:
            across = min(right, other_right) - max(left, other_left)
            down = min(bottom, other_bottom) - max(top, other_top)
            # Boxes hold a line's leading, which is empty: a few pixels of it may overlap.
            if across > 1.5 and down > 4:
                found.append((one, other))
    return found


def check_drawn(report: Path, folder: Path, *, width: int) -> dict:
    """Open a report and hold every figure to the rules; return what the browser found.

    Nothing goes wrong and nothing is loaded; every figure of the page is drawn, on the screen and in
    print, and no text lies over another or outside of its figure.
    """
    found, console = open_report(report, folder, width=width)
    assert found["problems"] == console == found["resources"] == []
    drawn = [figure["id"] for figure in found["figures"]]
    assert drawn == re.findall(r'data-for="([^"]+)"', report.read_text(encoding="utf-8"))
    assert found["scroll"] <= found["inner"]
    assert found["png"] == "data:image/png;base64,"
    assert found["after"] == [figure["svgWidth"] for figure in found["figures"]]
    for figure in [*found["figures"], *found["printed"]]:
        types = figure["types"]
        assert figure["svgs"] >= 2, figure["id"]
        assert figure["scatter"] == types.count("scatter"), figure["id"]
        assert figure["images"] == types.count("heatmap"), figure["id"]
        assert collisions(figure["texts"]) == [], figure["id"]
        for text, left, top, right, bottom in figure["texts"]:
            inside = left >= -1 and top >= -1 and bottom <= figure["height"] + 1
            assert inside and right <= figure["svgWidth"] + 1, (figure["id"], text)
    assert all(figure["svgWidth"] <= 680 for figure in found["printed"])
    return found
