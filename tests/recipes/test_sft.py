"""Fine-tuning learns the answers and only the answers; packing, stops and microbatches change nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.errors import ConfigError, DataError
from wuya.files import read_jsonl
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.recipes.sft import SFTConfig, run
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

Make = Callable[..., SFTConfig]


@pytest.fixture
def make(corpus: Path, tiny_model: dict[str, int], tokenizer: Tokenizer) -> Make:
    """A config for a run of a second, in `corpus / out`."""
    torch.manual_seed(0)
    base = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 64}))
    save_checkpoint(corpus / "base", base, tokenizer, recipe="test")

    def config(out: str = "sft", **changes: Any) -> SFTConfig:
        fields: dict[str, Any] = {
            "base": corpus / "base", "demonstrations": corpus / "demonstrations.jsonl", "out": corpus / out,
            "epochs": 3, "batch_size": 4, "microbatch_size": 4, "learning_rate": 0.01, "log_every": 1, "save_every": 3,
            "num_samples": 0, "device": "cpu", **changes,
        }  # fmt: skip
        return SFTConfig(**fields)

    return config


def column(out: Path, name: str) -> list[float]:
    return [row[name] for _, row in read_jsonl(out / "metrics.jsonl") if name in row]


def same_bits(a: Path, b: Path) -> bool:
    model_a, model_b = load_checkpoint(a)[0], load_checkpoint(b)[0]
    return all(torch.equal(p, q) for p, q in zip(model_a.parameters(), model_b.parameters(), strict=True))


def test_it_learns_to_give_the_demonstrated_answers(
    make: Make, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(
        epochs=30, num_samples=2, validation_demonstrations=corpus / "demonstrations.jsonl", validate_every=0,
        optimizer="muon", learning_rate=0.05, adam_learning_rate=0.03, batch_size=8, microbatch_size=8,
    )  # fmt: skip
    final = run(config)
    assert column(config.out, "loss")[-1] < 0.3
    assert column(config.out, "lr")[0] == pytest.approx(0.05)  # the rate, not a multiplier
    assert column(config.out, "validation/loss")[-1] < 0.3
    model, tokenizer = load_checkpoint(final)
    prompt = encode_prompt(tokenizer, [Message("user", "the bird")])
    [[answer]] = Engine(model, tokenizer).generate([prompt], SamplingParams(max_tokens=16, temperature=0.0))
    assert tokenizer.decode(answer.token_ids, skip_special=True) == "the song" and answer.finish_reason == "stop"
    assert "[[the mat<|im_end|>" in capsys.readouterr().err  # the example with its mask
    assert next(read_jsonl(config.out / "samples.jsonl"))[1]["demonstration"] == "the mat"


def test_packed_rows_give_the_loss_of_the_chats_one_by_one(make: Make, corpus: Path) -> None:
    """No cross-talk: the same first loss whether 4 or 1 chats share a row."""
    run(make("packed", batch_size=16, microbatch_size=16, epochs=1))
    run(make("single", batch_size=16, microbatch_size=16, epochs=1, context_length=27))
    assert column(corpus / "single", "target_tokens") == [pytest.approx(column(corpus / "packed", "target_tokens")[0])]
    assert column(corpus / "single", "loss")[0] == pytest.approx(column(corpus / "packed", "loss")[0], rel=1e-5)


def test_one_microbatch_equals_many(make: Make, corpus: Path) -> None:
    run(make("whole"))
    run(make("cut", microbatch_size=1))
    assert column(corpus / "cut", "loss") == pytest.approx(
        column(corpus / "whole", "loss"), rel=1e-3
    )  # AdamW divides tiny gradients by tiny moments


def test_stop_and_resume_equals_a_straight_run_bit_for_bit(make: Make, corpus: Path) -> None:
    """With dropout, so that the state of the random generator counts."""
    run(make("straight", dropout=0.2))
    run(make("stopped", dropout=0.2, keep_last_n=0))
    last = sorted((corpus / "stopped" / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    run(make("stopped", dropout=0.2, keep_last_n=0, resume=True))
    assert same_bits(corpus / "straight", corpus / "stopped")
    assert column(corpus / "stopped", "loss") == column(corpus / "straight", "loss")
    assert load_checkpoint(corpus / "straight")[0].config.dropout == 0.0


def test_a_share_of_pretraining_text_is_learned_too(make: Make, corpus: Path) -> None:
    run(make(epochs=6, ptx_share=0.5, ptx_data=corpus / "train"))
    assert column(corpus / "sft", "ptx/loss")[-1] < column(corpus / "sft", "ptx/loss")[0] - 1.0
    with pytest.raises(ConfigError, match="pre-training text"):
        make(ptx_share=0.5)


def test_a_token_budget_sets_the_number_of_steps(make: Make, corpus: Path) -> None:
    run(make(num_tokens=400))
    tokens = column(corpus / "sft", "tokens")
    assert tokens[-2] < 400 <= tokens[-1] + 64


def test_long_demonstrations_are_dropped_and_named_and_empty_files_refused(
    make: Make, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corpus / "demonstrations.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "long " * 100}]}
    path.write_text(json.dumps(row) + "\n" + path.read_text() + "not json\n")
    run(make(epochs=1))
    shown = capsys.readouterr().err
    assert "1 of 17 demonstrations are longer than 64 tokens" in shown and "demonstrations.jsonl:18" in shown
    path.write_text("\n")
    with pytest.raises(DataError, match="no usable demonstrations"):
        run(make("other"))


def test_lora_trains_adapters_resumes_and_saves_an_ordinary_model(make: Make, corpus: Path) -> None:
    changes: dict[str, Any] = {"lora_rank": 4, "learning_rate": 0.05, "epochs": 5, "save_every": 4, "keep_last_n": 0}
    run(make("straight", **changes))
    assert column(corpus / "straight", "loss")[-1] < column(corpus / "straight", "loss")[0] - 0.2
    model, _ = load_checkpoint(corpus / "straight")
    assert not any("lora" in name for name, _ in model.named_parameters())
    run(make("stopped", **changes))
    shutil.rmtree(sorted((corpus / "stopped" / "checkpoints").iterdir())[-1])
    run(make("stopped", resume=True, **changes))
    assert same_bits(corpus / "straight", corpus / "stopped")
