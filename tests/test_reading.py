"""The reading path stays short: the lists in docs/reading.md are counted, and every file that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
PATH = re.findall(r"^\d+\. `([^`]+)`:", TEXT, flags=re.MULTILINE)
PPO_STEP = re.findall(r"`([^`]+\.py)`", TEXT.split("## Files of one PPO step")[1].split("They call")[0])


def num_lines(files: list[str]) -> int:
    return sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files)


def test_every_file_it_names_exists() -> None:
    for name in re.findall(r"`((?:wuya|tests)/[^`]+)`", TEXT):
        assert (ROOT / name).is_file(), name


def test_the_path_has_at_most_twelve_files_and_2500_lines() -> None:
    assert re.findall(r"^(\d+)\. `", TEXT, flags=re.MULTILINE) == [str(number + 1) for number in range(len(PATH))]
    assert PATH[0] == "wuya/tokenizer/bpe.py" and PATH[-1] == "wuya/feedback/exports.py"
    assert 8 <= len(PATH) == len(set(PATH)) <= 12
    assert num_lines(PATH) <= 2500, f"{num_lines(PATH)} lines: shorten a file, or draw a better path"


def test_a_ppo_step_takes_at_most_six_files_and_900_lines() -> None:
    assert {"wuya/recipes/ppo.py", "wuya/losses/ppo.py"} <= set(PPO_STEP) <= set(PATH)
    assert len(PPO_STEP) == len(set(PPO_STEP)) <= 6
    assert num_lines(PPO_STEP) <= 900, f"{num_lines(PPO_STEP)} lines: move scaffolding out of these files"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/README.md"])
def test_readers_are_sent_there(name: str) -> None:
    assert "reading.md)" in (ROOT / name).read_text(encoding="utf-8")
