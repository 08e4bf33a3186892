"""One row that the chat template refuses is a bad row, named and counted, in every recipe that reads rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes import best_of_n, dpo, evaluate, reward_model, sample_completions, sft
from wuya.rlhf.prompts import load_prompt_ids
from wuya.tokenizer.bpe import Tokenizer

TURNS = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('take turns') }}{% endif %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
)
GOOD = [{"role": "user", "content": "the cat"}]
BAD = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: dict[str, int], tokenizer: Tokenizer) -> Path:
    torch.manual_seed(0)
    turns = tokenizer.with_template(TURNS)
    model = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 64}))
    save_checkpoint(tmp_path / "model", model, turns)
    save_checkpoint(tmp_path / "reward", ScalarModel(model), turns)
    files: dict[str, Callable[[Any], dict[str, Any]]] = {
        "demonstrations": lambda chat: {"messages": [*chat, {"role": "assistant", "content": "the mat"}]},
        "pairs": lambda chat: {"prompt": chat, "chosen": "the mat", "rejected": "no"},
        "prompts": lambda chat: {"prompt": chat},
        "answers": lambda chat: {"prompt": chat, "candidates": ["the mat", "no"]},
    }
    for name, row in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row(chat)) + "\n" for chat in (GOOD, BAD)))
    return tmp_path


def run_sft(folder: Path) -> None:
    files = {"base": folder / "model", "demonstrations": folder / "demonstrations.jsonl", "out": folder / "out"}
    sft.run(sft.SFTConfig(**files, epochs=1, num_samples=0, save_every=0, device="cpu"))


def run_dpo(folder: Path) -> None:
    files = {"model": folder / "model", "rankings": folder / "pairs.jsonl", "out": folder / "out"}
    dpo.run(dpo.DPOConfig(**files, num_epochs=1, device="cpu"))


def run_reward(folder: Path) -> None:
    files = {"model": folder / "model", "rankings": folder / "pairs.jsonl", "out": folder / "out"}
    reward_model.run(reward_model.RewardModelConfig(**files, num_epochs=1, device="cpu"))


def run_sample(folder: Path) -> None:
    files = {"checkpoint": folder / "model", "prompts": folder / "prompts.jsonl", "out": folder / "out"}
    sample_completions.run(sample_completions.SampleConfig(**files, k=2, max_tokens=4, device="cpu"))


def run_best_of_n(folder: Path) -> None:
    files = {"model": folder / "model", "candidates": folder / "answers.jsonl", "out": folder / "out"}
    best_of_n.run(best_of_n.BestOfNConfig(**files, reward=str(folder / "reward"), device="cpu"))


def run_evaluate(folder: Path) -> None:
    files = {"sft": folder / "model", "prompts": folder / "prompts.jsonl", "out": folder / "out"}
    settings: dict[str, Any] = {"reward_model": str(folder / "reward"), "policies": {"other": folder / "model"}}
    evaluate.run(evaluate.EvaluateConfig(**files, **settings, num_prompts=2, max_tokens=4, best_of=1, device="cpu"))


def run_prompts_of_ppo_and_grpo(folder: Path) -> None:
    tokenizer = load_checkpoint(folder / "model")[1]
    load_prompt_ids(
        folder / "prompts.jsonl", tokenizer, max_prompt_tokens=32, max_tokens=8, context_length=64
    )  # fmt: skip


@pytest.mark.parametrize(
    "recipe", [run_sft, run_dpo, run_reward, run_sample, run_best_of_n, run_evaluate, run_prompts_of_ppo_and_grpo]
)
def test_it_is_named_and_the_others_are_used(
    recipe: Callable[[Path], None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(folder)
    shown = capsys.readouterr().err
    assert "1 bad row was skipped" in shown
    assert "refuses these messages (found: take turns)" in shown
    assert recipe is run_sample or ".jsonl:2: " in shown
