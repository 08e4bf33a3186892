"""Imports flow one way: each layer may import itself and the layers before it, in the order of the data."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "wuya"

BASE = {"errors", "files", "console", "records", "config", "environment"}
TENSORS = BASE | {"tokenizer", "data", "models", "losses", "checkpoints", "planning", "training", "inference", "rlhf"}
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "files": {"errors"},
    "console": {"errors", "files"},
    "records": set(),
    "config": {"errors", "files", "console", "records"},
    "environment": {"errors", "files", "console"},
    "allocator": set(),
    "out_of_memory": {"errors"},
    "streams": set(),
    "tokenizer": BASE,
    "data": BASE | {"tokenizer"},
    "models": BASE | {"tokenizer"},
    "losses": set(),  # pure functions of tensors: nothing of ours, not even records
    "checkpoints": BASE | {"tokenizer", "models"},
    "planning": BASE | {"tokenizer", "models"},
    "training": TENSORS - {"training", "inference", "rlhf"},
    "inference": TENSORS - {"inference", "rlhf"},
    "rlhf": TENSORS - {"rlhf"},
    "database": BASE,
    "feedback": BASE | {"tokenizer", "data", "database"},  # people, not tensors: never torch
    "evals": TENSORS | {"feedback"},
    "recipes": TENSORS | {"feedback", "evals", "out_of_memory"},
    "demo": TENSORS | {"feedback", "evals", "recipes"},
    "web": TENSORS | {"database", "feedback", "evals"},
    "verbs": set(),
    "next_commands": {"console"},
    "cli": BASE
    | {
        "next_commands",
        "verbs",
        "allocator",
        "out_of_memory",
        "streams",
    },  # recipes by name only, when their verb is called
    "completion": BASE | {"cli", "verbs"},
    "__main__": {"cli"},
}

MAY_IMPORT_RECIPES = {"recipes/loop.py"}
"""It strings the steps into rounds through their files; no other recipe imports a recipe."""

FILES = sorted(ROOT.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "wuya" else {module}
    return found


def test_every_layer_is_in_the_table() -> None:
    assert {layer(path) for path in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    own = layer(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("wuya.")}
    ours -= {"__version__", "__file__"}
    allowed = ALLOWED[own] | ({own} if own != "recipes" else set())
    if str(path.relative_to(ROOT)) in MAY_IMPORT_RECIPES:
        allowed = allowed | {"recipes"}
    assert ours <= allowed, f"`{own}` may not import {sorted(ours - allowed)}"


@pytest.mark.parametrize(
    "folder", sorted(p for p in ROOT.rglob("*") if p.is_dir() and any(p.glob("*.py"))), ids=lambda p: p.name
)
def test_every_folder_is_a_package_with_a_docstring(folder: Path) -> None:
    path = folder / "__init__.py"
    assert path.exists(), f"{folder} lacks __init__.py: it would not be installed"
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"say in {path} what the folder is for"


def test_feedback_never_loads_torch_not_even_through_others() -> None:
    modules = [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES if layer(path) == "feedback"
    ]
    modules = [name.removesuffix(".__init__") for name in modules if ".migrations." not in name]  # Alembic runs those
    script = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 0


def test_losses_import_only_torch_the_standard_library_and_each_other() -> None:
    outside = {"torch", "math", "typing", "collections", "dataclasses"}
    for path in (ROOT / "losses").rglob("*.py"):
        names = {name for name in imports(path) if not name.startswith("wuya.losses.")}
        assert {name.split(".")[0] for name in names} <= outside, path
