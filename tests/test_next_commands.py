"""Every command ends with the place of its result and a command that follows, as one can paste it."""

import importlib
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from wuya.cli import main
from wuya.config import parse_config
from wuya.next_commands import NEXT, say_next
from wuya.verbs import VERBS

NO_RESULT = {"demo", "assistant", "chat", "serve", "plan", "export", "env", "completion", "snapshot"}
"""They have a report of their own, go on until they are stopped, or leave something that other programs read."""


def test_every_other_verb_says_where_its_result_lies() -> None:
    assert set(NEXT) == set(VERBS) - NO_RESULT


@pytest.mark.parametrize("verb", [verb for verb in NEXT if NEXT[verb]])
def test_the_commands_that_follow_parse(verb: str) -> None:
    config = SimpleNamespace(policy="runs/a", model="runs/b", tokenizer="runs/c")
    for command in NEXT[verb]:
        name, following, *arguments = shlex.split(command.format(config=config, result="runs/x"))
        assert name == "wuya"
        config_class = getattr(importlib.import_module(VERBS[following].module), VERBS[following].config_class)
        parse_config(config_class, arguments, prog=f"wuya {following}")


def test_a_run_folder_is_named_by_its_model_once_per_run_of_several_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    say_next("dpo", SimpleNamespace(model="runs/sft"), tmp_path)
    said = capsys.readouterr().err
    assert f"result: {tmp_path / 'model'}" in said and f"`wuya chat {tmp_path / 'model'}`" in said
    monkeypatch.setenv("RANK", "1")
    say_next("dpo", SimpleNamespace(model="runs/sft"), tmp_path)
    assert capsys.readouterr().err == ""


def test_the_command_line_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 30)
    out = tmp_path / "tokenizer"
    assert main(["tokenizer", "--inputs", str(tmp_path / "text.txt"), "--vocab_size", "270", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert f"--tokenizer {out} " in said.err and "next: `wuya prepare" in said.err
    assert said.out.endswith(f"{out}\n")
