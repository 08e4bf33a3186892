"""DPO, IPO, RLOO, GRPO and best-of-n through their recipes: they start where they must, learn, resume, and report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.data.formats import read_demonstrations
from wuya.errors import ConfigError
from wuya.files import read_jsonl
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes import best_of_n, dpo, grpo
from wuya.recipes.best_of_n import BestOfNConfig
from wuya.recipes.dpo import DPOConfig
from wuya.recipes.grpo import GRPOConfig
from wuya.rlhf.ppo_metrics import GROUP_METRICS, PPO_METRICS
from wuya.rlhf.preference_metrics import DIRECT_METRICS, PAIR_METRICS
from wuya.tokenizer.bpe import Tokenizer
from wuya.training.metrics import METRICS

FUNCTIONS = """
def fewer_t(prompts, completions):
    return [-float(sum(letter in "thesa" for letter in text)) for text in completions]
"""


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


@pytest.fixture
def folder(corpus: Path, tiny_model: dict[str, int], tokenizer: Tokenizer) -> Path:
    """An untrained SFT model, prompts, rankings of three answers (`the mat` best) and a reward function."""
    torch.manual_seed(0)
    base = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 64}))
    save_checkpoint(corpus / "sft", base, tokenizer, recipe="test")
    rows = [{"id": f"p{i}", "prompt": f"the cat {'sat ' * (i % 4)}{i}"} for i in range(24)]
    (corpus / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"text": "the mat"}, {"text": "the log"}, {"text": "a song to the sun", "finished": False}]
    for name, part in (("rankings", rows[:16]), ("heldout", rows[16:])):
        ranked = [{**row, "candidates": answers, "ranks": [1, 2, 2], "labeler": "ann"} for row in part]
        (corpus / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ranked))
    (corpus / "my.py").write_text(FUNCTIONS)
    return corpus


@pytest.fixture
def make_dpo(folder: Path) -> Callable[..., DPOConfig]:
    def config(out: str = "dpo", **changes: Any) -> DPOConfig:
        fields: dict[str, Any] = {
            "model": folder / "sft", "rankings": folder / "rankings.jsonl", "out": folder / out, "batch_size": 4,
            "heldout_rankings": (folder / "heldout.jsonl",), "learning_rate": 3e-3, "warmup_steps": 0, "num_epochs": 3,
            "device": "cpu", "dtype": "float32", **changes,
        }  # fmt: skip
        return DPOConfig(**fields)

    return config


@pytest.fixture
def make_grpo(folder: Path) -> Callable[..., GRPOConfig]:
    def config(out: str = "grpo", **changes: Any) -> GRPOConfig:
        fields: dict[str, Any] = {
            "policy": folder / "sft", "reward": f"{folder / 'my.py'}:fewer_t", "prompts": folder / "prompts.jsonl",
            "out": folder / out, "num_updates": 3, "rollout_batch_size": 16, "minibatch_size": 8, "group_size": 4,
            "max_tokens": 6, "learning_rate": 1e-3, "warmup_updates": 1, "final_kl_prompts": 16,
            "show_samples_every": 0, "device": "cpu", "dtype": "float32", **changes,
        }  # fmt: skip
        return GRPOConfig(**fields)

    return config


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(out / "metrics.jsonl")]


def same_bits(a: Path, b: Path) -> bool:
    first, second = (load_checkpoint(path)[0].state_dict() for path in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("loss", "start"), [("dpo", 0.693147), ("ipo", 25.0)])
def test_dpo_and_ipo_start_at_a_margin_of_zero_and_learn_the_ranking(
    make_dpo: Callable[..., DPOConfig], loss: str, start: float
) -> None:
    config = make_dpo(loss=loss)
    dpo.run(config)
    rows = rows_of(config.out)
    assert rows[0]["loss"] == pytest.approx(start, rel=1e-4) and abs(rows[0]["objective/margin"]) < 1e-4
    assert rows[-1]["accuracy"] == 1.0 and rows[-1]["objective/margin"] > 1.0 and rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["pairs"] == 8  # the tie is no pair
    assert rows[0]["lr"] == pytest.approx(config.learning_rate)
    assert {name for row in rows for name in row} - {"step", "time"} <= {*METRICS, *PAIR_METRICS, *DIRECT_METRICS}
    report = json.loads((config.out / "report.json").read_text())
    assert next(iter(report.values()))["accuracy"]["mean"] == 1.0


def test_dpo_resumes_bit_for_bit_and_microbatches_change_nothing(
    make_dpo: Callable[..., DPOConfig], folder: Path
) -> None:
    dpo.run(make_dpo("straight"))
    dpo.run(make_dpo("stopped", save_every=5, keep_last_n=0))
    last = sorted((folder / "stopped" / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    dpo.run(make_dpo("stopped", save_every=5, keep_last_n=0, resume=True))
    assert same_bits(folder / "straight", folder / "stopped")
    dpo.run(make_dpo("small", microbatch_tokens=40))
    pairs = zip(rows_of(folder / "straight"), rows_of(folder / "small"), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], abs=1e-5) for a, b in pairs)


def test_dpo_with_adapters_learns_and_saves_a_merged_model(make_dpo: Callable[..., DPOConfig], folder: Path) -> None:
    config = make_dpo(lora_rank=4, learning_rate=2e-2)
    dpo.run(config)
    assert rows_of(config.out)[-1]["objective/margin"] > 0.5
    assert load_checkpoint(config.out)[0].state_dict().keys() == load_checkpoint(folder / "sft")[0].state_dict().keys()


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dr_grpo", "dapo"])
def test_groups_start_at_kl_zero_and_earn_the_reward(
    make_grpo: Callable[..., GRPOConfig], folder: Path, algorithm: str
) -> None:
    config = make_grpo(
        algorithm=algorithm, num_updates=12, rollout_batch_size=64, minibatch_size=64, kl_coef=0.0, learning_rate=2e-2,
        missing_eos_penalty=1e-3, show_samples_every=6,
    )  # fmt: skip
    grpo.run(config)
    rows = rows_of(config.out)
    assert abs(rows[0]["objective/kl"]) < 1e-4 and rows[0]["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert rows[-1]["objective/scores"] > 0.5 * rows[0]["objective/scores"]
    assert rows[-1]["lr"] == pytest.approx(config.learning_rate)
    assert {name for row in rows for name in row} - {"step", "time", "alarms"} <= {
        *METRICS,
        *PPO_METRICS,
        *GROUP_METRICS,
    }
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["algorithm"] == algorithm and summary["n"] == 16 and summary["kl"]["per_response"] > 0
    assert len(list(read_jsonl(config.out / "samples.jsonl"))) == 6


def test_grpo_resumes_bit_for_bit_with_adapters_and_an_average(
    make_grpo: Callable[..., GRPOConfig], folder: Path
) -> None:
    changes: dict[str, Any] = {"lora_rank": 4, "ema_decay": 0.5, "learning_rate": 1e-2}
    grpo.run(make_grpo("straight", **changes))
    grpo.run(make_grpo("stopped", save_every=2, keep_last_n=0, **changes))
    shutil.rmtree(folder / "stopped" / "checkpoints" / "step_000003")
    grpo.run(make_grpo("stopped", save_every=2, keep_last_n=0, resume=True, **changes))
    assert same_bits(folder / "straight", folder / "stopped") and not same_bits(folder / "straight", folder / "sft")


def test_it_stops_early_when_kl_is_above_its_limit(make_grpo: Callable[..., GRPOConfig]) -> None:
    config = make_grpo(max_kl=1e-3, num_updates=6, learning_rate=2e-2)
    grpo.run(config)
    assert len(rows_of(config.out)) < 6


def test_groups_without_a_difference_are_replaced_and_counted(
    make_grpo: Callable[..., GRPOConfig], folder: Path
) -> None:
    """A reward that half of the prompts never earn: their groups score 0 four times."""
    (folder / "half.py").write_text(
        "def half(prompts, completions):\n"
        "    earned = [float('sat' in prompt) for prompt in prompts]\n"
        "    return [-one * (sum(map(ord, text)) % 7) for one, text in zip(earned, completions)]\n"
    )
    changes: dict[str, Any] = {
        "reward": f"{folder / 'half.py'}:half", "missing_eos_penalty": 1e-6, "max_resampling": 8, "algorithm": "dapo"
    }  # fmt: skip
    config = make_grpo(**changes)
    grpo.run(config)
    rows = rows_of(config.out)
    assert any(row["rollout/equal_groups"] > 0 for row in rows)
    assert sum(row["rollout/resampled_groups"] for row in rows) > 0
    assert all(row["rollout/filled_groups"] == 0 for row in rows)
    kept = make_grpo("kept", **changes | {"max_resampling": 0})
    grpo.run(kept)
    assert rows_of(kept.out)[0]["objective/scores"] == rows[0]["objective/scores"]  # of the policy, not of a selection


def test_best_of_n_keeps_the_answer_the_reward_likes_best(folder: Path) -> None:
    config = BestOfNConfig(
        candidates=folder / "rankings.jsonl", model=folder / "sft", reward=f"{folder / 'my.py'}:fewer_t",
        out=folder / "best", device="cpu",
    )  # fmt: skip
    best_of_n.run(config)
    chosen = {row.completion for row in read_demonstrations(folder / "best" / "demonstrations.jsonl")}
    assert chosen == {"the log"}  # fewest of the letters t, h, e, s, a
    summary = json.loads((folder / "best" / "summary.json").read_text())
    assert summary["n"] == 3 and summary["score_best"] > summary["score_mean"]
    assert summary["kl_of_best_of_n"] == pytest.approx(0.4319, abs=1e-4)


def test_best_of_n_never_teaches_an_answer_that_did_not_end(folder: Path) -> None:
    """A demonstration ends with an end token, so a cut-off answer would teach to stop in the middle."""
    never = {"text": "oo oo oo", "finished": False}
    rows = [
        {"id": "all", "prompt": "the cat", "candidates": [never, {"text": "oo", "finished": False}]},
        {"id": "one", "prompt": "the dog", "candidates": [never, {"text": "o o"}]},
    ]
    (folder / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best_of_n.run(BestOfNConfig(candidates=folder / "mixed.jsonl", model=folder / "sft", device="cpu",
                                reward=f"{folder / 'my.py'}:fewer_t", out=folder / "best"))  # fmt: skip
    chosen = [row.completion for row in read_demonstrations(folder / "best" / "demonstrations.jsonl")]
    assert chosen == ["o o"]
    assert json.loads((folder / "best" / "summary.json").read_text())["best_unfinished"] == 1


def test_best_of_n_leaves_out_what_the_reward_model_cannot_read(
    folder: Path, tiny_model: dict[str, int], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    short = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 28}))
    save_checkpoint(folder / "short_rm", ScalarModel(short), tokenizer, recipe="test")
    answers = [{"text": "the mat"}, {"text": "the log"}]
    rows = [{"id": n, "prompt": text, "candidates": answers} for n, text in (("a", "the cat"), ("b", "song " * 20))]
    (folder / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best_of_n.run(BestOfNConfig(candidates=folder / "mixed.jsonl", model=folder / "sft", device="cpu",
                                reward=str(folder / "short_rm"), out=folder / "best"))  # fmt: skip
    assert len(list(read_demonstrations(folder / "best" / "demonstrations.jsonl"))) == 1
    assert "1 prompts are left out" in capsys.readouterr().err


def test_a_group_of_one_is_refused(make_grpo: Callable[..., GRPOConfig]) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        make_grpo(group_size=1)
