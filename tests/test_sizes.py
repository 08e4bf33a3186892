"""Files stay short enough to read in one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HARD_STOP = 400
FILES = sorted(path for room in ("wuya", "scripts", "experiments") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_have_at_most_400_lines_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= HARD_STOP, "split it by idea"
    assert ast.get_docstring(ast.parse(text)), "a module opens with a docstring"


@pytest.mark.parametrize("path", sorted((ROOT / "wuya" / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_run_has_at_most_120_lines(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            assert (node.end_lineno or 0) - node.lineno < 120, f"{path.name}: run has {node.end_lineno} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_is_ascii(path: Path) -> None:
    """Escapes for what isn't, so that any terminal and editor shows the code; data and docs may hold any script."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        assert line.isascii(), f"{path}:{number}: {line.strip()}"


def test_cli_is_a_table_not_a_program() -> None:
    assert len((ROOT / "wuya" / "cli.py").read_text(encoding="utf-8").splitlines()) < 150


def test_readme_has_at_most_200_lines() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 200


def test_make_targets_have_at_most_three_lines() -> None:
    lines = 0
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        lines = lines + 1 if line.startswith("\t") else 0
        assert lines <= 3, line
