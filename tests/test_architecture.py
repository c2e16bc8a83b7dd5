"""The shape of the code: imports point one way, no prints, sizes, documented public names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "probekit"
FILES = sorted(ROOT.rglob("*.py"))
LEVEL = {
    "errors": 0, "lazy": 0, "settings": 1, "container": 1, "provenance": 1, "partial": 1, "results": 2,
    "data": 2, "behaviours": 3, "models": 3, "activations": 4, "probes": 5, "steering": 6, "rl": 6,
    "analyses": 6, "reports": 6, "studies": 7, "cli": 8, "__init__": 9, "__main__": 9,
}  # fmt: skip


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_the_rules(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    if path != ROOT / "__init__.py":
        assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("probekit."):
            target = node.module.split(".")[1]
            assert LEVEL[target] <= LEVEL[room(path)], f"line {node.lineno}: {target} is above"
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{node.name} is long"
            if not node.name.startswith("_") and "backends/base" not in str(path):
                hidden = any(
                    node in ast.walk(outer)
                    for outer in ast.walk(tree)
                    if isinstance(outer, ast.FunctionDef) and outer is not node
                )
                assert hidden or ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            raise AssertionError(f"line {node.lineno}: print")
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name.split(".")[0] for alias in node.names} | {
                (getattr(node, "module", "") or "").split(".")[0]
            }
            assert not names & {"pickle", "joblib", "dill"}


ARRAY = re.compile(r"\b(NDArray|Tensor|Array|Vector)\b")
SHAPE = re.compile(r"\bshapes?\b|\((?:\.\.\.|[\w.]+(?: ?[*+/-] ?\w+)*)(?:,\s*[\w.+*/ -]*)+\)")
"""The word, or a shape such as (n,), (n_rows, d_model) or (..., n)."""
MATHS = ("activations", "analyses", "models", "probes", "results", "rl", "steering")


@pytest.mark.parametrize("name", MATHS)
def test_a_public_function_with_arrays_says_their_shapes(name):
    for path in sorted((ROOT / name).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for owner in (tree, *(node for node in classes if not node.name.startswith("_"))):
            for node in owner.body:
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                    continue
                hints = [arg.annotation for arg in (*node.args.args, *node.args.kwonlyargs)]
                hints = [ast.unparse(hint) for hint in (*hints, node.returns) if hint is not None]
                # What a Callable takes is its own affair.
                if any(ARRAY.search(hint.partition("Callable[")[0]) for hint in hints):
                    where = f"{path.relative_to(ROOT)}: {node.name} says no shape"
                    assert SHAPE.search(ast.get_docstring(node) or ""), where


def test_imports_go_in_no_circle():
    """Those inside functions count too; `if TYPE_CHECKING` and packages' lazy names do not."""
    names = {path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES}
    wanted: dict[str, set[str]] = {}
    for path, name in names.items():
        if path.name == "__init__.py":
            continue
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("probekit"):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        wanted[name] = (found & set(names.values())) - {name}
    while leaves := [name for name, needs in wanted.items() if not needs & wanted.keys()]:
        for name in leaves:
            del wanted[name]
    assert not wanted, sorted(wanted)
