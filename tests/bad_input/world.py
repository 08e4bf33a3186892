"""Whole, valid input of every kind, tiny; each test breaks one thing and runs a command that must refuse it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from wuya import cli
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import make_labelers
from wuya.models.gpt import GPT
from wuya.models.presets import modern
from wuya.models.reward_model import ScalarModel
from wuya.records import Message
from wuya.tokenizer.bpe import train_tokenizer

TEXT = "The crow drops a stone into the jar. The water rises, and the crow drinks. Hello, how are you today? "
PROMPT = [{"role": "user", "content": "Hello, how are you?"}]
RANKING = {
    "prompt": PROMPT,
    "candidates": [{"text": "I am fine."}, {"text": "Stone."}, {"text": "Good, and you?"}],
    "ranks": [2, 3, 1],
    "labeler": "a",
}
Refused = Callable[..., str]


def chat(*contents: str) -> dict[str, Any]:
    """A row of demonstrations: user, assistant, user, ..."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]}


@dataclass(frozen=True)
class World:
    """A folder of input."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def rows(self, name: str, *rows: Any) -> Path:
        """A JSON-lines file; text rows are written as they are."""
        path = self.folder / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path


def make_world(folder: Path) -> World:
    """Corpus, shards, checkpoints, demonstrations, prompts, completions, rankings, labelers."""
    world = World(folder)
    (folder / "corpus.txt").write_text("\f".join(f"{TEXT * 3} Number {n} is here." for n in range(60)))
    tokenizer = train_tokenizer([TEXT], vocab_size=300)
    tokenizer.save(folder / "tokenizer")
    torch.manual_seed(0)
    size = {"num_layers": 1, "model_dim": 32, "context_length": 64, "head_dim": 16}
    model = GPT(modern(vocab_size=tokenizer.vocab_size, **size))
    save_checkpoint(folder / "base", model, tokenizer, recipe="pretrain")
    save_checkpoint(folder / "reward", ScalarModel(model), tokenizer, recipe="reward")
    other = train_tokenizer([TEXT + "zebra quartz jumping vex'd foxes "], vocab_size=290)
    save_checkpoint(folder / "other", GPT(modern(vocab_size=other.vocab_size, **size)), other, recipe="pretrain")
    world.rows("demonstrations.jsonl", *(chat(f"Hello {n}", "I am fine.") for n in range(8)))
    world.rows("prompts.jsonl", *({"prompt": f"Hello {n}, how are you?"} for n in range(8)))
    world.rows("rankings.jsonl", *({**RANKING, "prompt": f"Hello {n}?"} for n in range(4)))
    answers = RANKING["candidates"]
    world.rows("answers.jsonl", *({"prompt": f"Hello {n}?", "candidates": answers} for n in range(4)))
    asked = (Message("user", "Hello, how are you?"),)
    make_labelers(Normaliser.fit([(asked, "I am fine."), (asked, "Good, and you?")])).save(folder / "labelers.json")
    assert cli.main([*"prepare --validation_fraction 0.1 --workers 1 --inputs".split(), str(folder / "corpus.txt"),
                     "--tokenizer", str(folder / "tokenizer"), "--out", str(folder / "shards")]) == 0  # fmt: skip
    return world


def names(folder: Path) -> set[str]:
    """Everything in a folder, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def replaced(command: str, **fields: object) -> list[str]:
    """A command line with some flags changed."""
    words = command.split()
    for name, value in fields.items():
        flag = f"--{name}"
        if flag in words:
            words[words.index(flag) + 1] = str(value)
        else:
            words += [flag, str(value)]
    return words


# ---- ways in which a checkpoint is broken: break_it(world, name of its folder)
def _truncated(world: World, name: str) -> None:
    path = world / name / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(world: World, name: str) -> None:
    (world / name / "model.safetensors").write_bytes(b"\x80\x04garbage" * 100)


def _no_weights(world: World, name: str) -> None:
    (world / name / "model.safetensors").unlink()


def _foreign_class(world: World, name: str) -> None:
    path = world / name / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    path.write_text(json.dumps(config))


def _foreign_weights(world: World, name: str) -> None:
    from safetensors.torch import save_file

    save_file({"encoder.block.0": torch.zeros(2, 2)}, world / name / "model.safetensors")


def _pickle(world: World, name: str) -> None:
    (world / name / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, world / name / "pytorch_model.bin")


def _broken_json(world: World, name: str) -> None:
    (world / name / "config.json").write_text('{"model_type": ')


def _other_vocabulary(world: World, name: str) -> None:
    shutil.copy(world / "other" / "tokenizer.json", world / name / "tokenizer.json")


def _empty_folder(world: World, name: str) -> None:
    shutil.rmtree(world / name)
    (world / name).mkdir()


def _missing(world: World, name: str) -> None:
    shutil.rmtree(world / name)


BROKEN = [
    pytest.param(break_it, says, id=break_it.__name__.strip("_"))
    for break_it, says in (
        (_truncated, "truncated|incomplete|damaged"),
        (_garbage, "safetensors"),
        (_no_weights, r"model\.safetensors"),
        (_foreign_class, "[Mm]amba"),
        (_foreign_weights, "missing|lacks|weights|disagree"),
        (_pickle, "pickle"),
        (_broken_json, r"config\.json"),
        (_other_vocabulary, "vocabulary|tokens"),
        (_empty_folder, "base"),
        (_missing, "base"),
    )
]
"""(what breaks a checkpoint, what the message says)."""
