"""A hint is a line to paste: every `wuya VERB --flag` in a message names a command and its settings as they are."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from wuya.cli import VERBS
from wuya.config import field_names

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"`wuya ([a-z]+)((?: [^`]*)?)`")


def texts(file: Path) -> list[tuple[int, str]]:
    """String literals with their lines; a placeholder of an f-string becomes X."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values]
            found.append((node.lineno, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((node.lineno, node.value))
    return found


def commands() -> list[tuple[str, str, str]]:
    rows = []
    for file in sorted((ROOT / "wuya").rglob("*.py")):
        for line, text in texts(file):
            rows += [(f"{file.relative_to(ROOT)}:{line}", verb, rest) for verb, rest in COMMAND.findall(text)]
    return rows


def test_there_are_hints() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize("verb", sorted({verb for _, verb, _ in commands()}))
def test_commands_and_flags_of_hints_exist(verb: str) -> None:
    places = [(where, rest) for where, name, rest in commands() if name == verb]
    assert verb in VERBS, places
    module = importlib.import_module(VERBS[verb].module)
    known = {*field_names(getattr(module, VERBS[verb].config_class)), "help", "config", "print_config"}
    unknown = [
        (where, flag)
        for where, rest in places
        for flag in re.findall(r"--([a-zA-Z_]+)", rest)
        if flag not in known and flag.removeprefix("no_") not in known
    ]
    assert not unknown
