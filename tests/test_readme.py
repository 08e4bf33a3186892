"""The README is what a person sees first: its paths exist, its table names every step."""

import re
from pathlib import Path

import pytest

from wuya import cli

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_readme_shows_the_two_commands_and_every_step(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text
    for name in cli.VERBS:
        assert f"`wuya {name}`" in text or f"wuya {name} " in text, f"`wuya {name}` is missing"


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_files_named_in_readme_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:wuya|configs|docs|scripts|tests)/[\w./-]+)`", text))
    named |= {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    assert len(named) > 10
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, missing


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_tree_in_readme_is_the_tree(path: Path) -> None:
    block = next(
        b for b in re.findall(r"```text\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S) if "wuya/" in b
    )
    shown = set(re.findall(r"^  ([a-z_]+(?:/|\.py))", block, flags=re.M))
    there = {item.name + "/" for item in (ROOT / "wuya").iterdir() if item.is_dir() and item.name != "__pycache__"}
    assert {name for name in shown if name.endswith("/")} == there
    assert all((ROOT / "wuya" / name).exists() for name in shown)


def test_both_readmes_have_the_same_commands() -> None:
    blocks = [re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S) for path in READMES]
    plain = [[re.sub(r"\s+#.*", "", block) for block in part] for part in blocks]
    assert plain[0] == plain[1]
