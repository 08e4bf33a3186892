"""The commands of docs/guides/step_by_step.md, run in order on a made-up language: the whole loop by hand."""

import glob
import io
import json
import random
import re
import shlex
import sys
from pathlib import Path

import pytest

from wuya import cli

ROOT = Path(__file__).parents[1]
SYLLABLES = "ka to mi ra no shi ru be lo da wen fu".split()
WORDS = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in ("", "n", "s")]


def sentence(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length)).capitalize() + "."


def write_data(folder: Path) -> None:
    rng = random.Random(0)
    documents = [" ".join(sentence(rng, rng.randrange(5, 12)) for _ in range(8)) for _ in range(200)]
    (folder / "corpus.txt").write_text("\f".join(documents))
    chats = [
        {
            "messages": [
                {"role": "user", "content": sentence(rng, 4)},
                {"role": "assistant", "content": sentence(rng, 4)},
            ]
        }
        for _ in range(32)
    ]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": sentence(rng, 5)}) + "\n" for _ in range(24)))


def guide_commands() -> list[list[str]]:
    text = (ROOT / "docs" / "guides" / "step_by_step.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def expanded(words: list[str]) -> list[str]:
    """What a shell does with `*`."""
    return [match for word in words for match in (glob.glob(word) if "*" in word else [word])]


def test_the_step_by_step_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = guide_commands()
    assert len(commands) >= 11
    for command in commands:
        assert command[0] == "wuya"
        answers = "2>1=4>3\n" * 20 if "terminal" in command else ""
        monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
        code = cli.main(expanded(command[1:]))
        output = capsys.readouterr()
        assert code == 0, f"{shlex.join(command)}\n{output.err}"
        assert "Traceback" not in output.err
    assert (tmp_path / "runs" / "evaluation" / "report.html").stat().st_size > 1000
    assert (tmp_path / "my-model" / "model.safetensors").exists()
