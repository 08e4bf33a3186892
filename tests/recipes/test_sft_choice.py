"""The epoch whose held-out answers a reward likes best ships, is kept, and is the same after a stop."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.test_sft import Make, make, same_bits
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.errors import ConfigError, DataError
from wuya.files import read_jsonl
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes.sft import run
from wuya.tokenizer.bpe import Tokenizer

__all__ = ["make"]  # the fixture


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


def choosing(corpus: Path, **changes: Any) -> dict[str, Any]:
    """Six epochs of four steps, and a reward that dislikes what the demonstrations say: an early epoch is its best."""
    rows = [
        {"messages": [{"role": "user", "content": f"a {word}"}, {"role": "assistant", "content": "the mat"}]}
        for word in ("bird", "song", "sun", "log", "dog")
    ]
    (corpus / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (corpus / "my.py").write_text(
        "def no_t(prompts, completions):\n"
        "    return [-9.0 - text.count('the') - len(text) / 9 for text in completions]\n"
    )
    return {
        "validation_demonstrations": corpus / "heldout.jsonl", "choose_by": f"{corpus / 'my.py'}:no_t", "epochs": 6,
        "batch_size": 1, "microbatch_size": 1, "context_length": 32, "sample_tokens": 12, "learning_rate": 0.02,
        "save_every": 3, **changes,
    }  # fmt: skip


def scores(out: Path) -> dict[int, float]:
    return {row["step"]: row["eval/score"] for _, row in read_jsonl(out / "metrics.jsonl") if "eval/score" in row}


def test_the_best_epoch_by_the_reward_ships_and_is_kept(make: Make, corpus: Path) -> None:
    config = make(**choosing(corpus, keep_last_n=1))
    final = run(config)
    found = scores(config.out)
    best = max(found, key=lambda step: (found[step], -step))
    last = max(found)
    assert len(found) == 6 and best < last, "the reward was to prefer an early epoch"
    assert same_bits(final, config.out / "checkpoints" / f"step_{best:06d}")
    assert not same_bits(final, config.out / "checkpoints" / f"step_{last:06d}")
    assert {path.name for path in (config.out / "checkpoints").iterdir()} == {f"step_{best:06d}", f"step_{last:06d}"}
    choice = json.loads((config.out / "summary.json").read_text())["choice"]
    assert choice["chosen"]["step"] == best and "my.py:no_t" in choice["rule"]
    assert {"eval/score_low", "eval/length", "eval/finished", "eval/distinct_2"} <= set(choice["chosen"])
    assert [row for _, row in read_jsonl(config.out / "samples.jsonl") if row.get("held_out")]


def test_choosing_changes_no_weight_and_resumes_with_the_same_choice(make: Make, corpus: Path) -> None:
    changes = choosing(corpus, dropout=0.1, keep_last_n=0)
    run(make("straight", **changes))
    run(make("unwatched", **{**changes, "choose_by": ""}))
    last = f"checkpoints/step_{max(scores(corpus / 'straight')):06d}"
    assert same_bits(corpus / "straight" / last, corpus / "unwatched" / last)
    run(make("stopped", **changes))
    for folder in sorted((corpus / "stopped" / "checkpoints").iterdir())[-4:]:
        shutil.rmtree(folder)
    run(make("stopped", **changes, resume=True))
    assert scores(corpus / "straight") == scores(corpus / "stopped")
    assert same_bits(corpus / "straight" / "model", corpus / "stopped" / "model")


def test_prompts_that_are_learned_from_cannot_choose(make: Make, corpus: Path) -> None:
    with pytest.raises(DataError, match="that are learned from"):
        run(make(**choosing(corpus, validation_demonstrations=corpus / "demonstrations.jsonl")))
    with pytest.raises(ConfigError, match="held-out prompts"):
        make(**choosing(corpus, validation_demonstrations=None))
    with pytest.raises(DataError, match="leaves room"):
        run(make("b", **choosing(corpus, sample_tokens=64)))


def test_a_reward_model_with_a_shorter_context_reads_every_answer(
    make: Make, corpus: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The policy reads 64 tokens, the reward model 32: prompts that leave it no room are left out, or the run stops."""
    short = GPT(preset("tiny", num_layers=1, model_dim=32, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16,
                       vocab_size=tokenizer.vocab_size, context_length=32))  # fmt: skip
    save_checkpoint(corpus / "rm", ScalarModel(short), tokenizer, recipe="test")
    changes = choosing(corpus, choose_by=str(corpus / "rm"), epochs=1)
    config = make("fits", **changes)
    run(config)
    assert len(scores(config.out)) == 1
    long = {"messages": [{"role": "user", "content": "the bird " * 20}, {"role": "assistant", "content": "the mat"}]}
    with (corpus / "heldout.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    capsys.readouterr()
    run(make("one_left_out", **changes))
    assert "1 of 6 validation prompts are left out of the choice" in capsys.readouterr().err
    with pytest.raises(DataError, match="leaves room"):
        run(make("too_long", **{**changes, "sample_tokens": 31}))
