"""An evaluation of models too small to be good: every figure is there, and those known beforehand are right."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from wuya.data.formats import write_demonstrations, write_prompts
from wuya.errors import ConfigError
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import make_labelers
from wuya.models.checkpoint import save_checkpoint
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes import evaluate
from wuya.recipes.evaluate import EvaluateConfig
from wuya.records import Demonstration, Message, Prompt
from wuya.tokenizer.bpe import Tokenizer

SIZES = {"num_layers": 1, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
ODD_NAME = "<script>alert(1)</script>"
NUM_PROMPTS = 10


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> EvaluateConfig:
    """Untrained models: `same` is the SFT model, the oddly named policy another one."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("base", "sft", "other", "judge")):
        torch.manual_seed(seed)
        save_checkpoint(folder / name, _model(tokenizer), tokenizer, recipe="test")
    save_checkpoint(folder / "reward", ScalarModel(_model(tokenizer)), tokenizer, recipe="test")
    prompts = [Prompt(f"p{i}", (Message("user", f"the cat sat on the log {i}"),)) for i in range(NUM_PROMPTS)]
    write_prompts(folder / "prompts.jsonl", prompts)
    write_demonstrations(folder / "replies.jsonl", [Demonstration(p, f"the bird {i}") for i, p in enumerate(prompts)])
    (folder / "texts.txt").write_text("the cat sat on the mat\fthe dog sat on the log", encoding="utf-8")
    replies = [(prompts[0].messages, "a song"), (prompts[0].messages, "the dog sang to the sun?")]
    make_labelers(Normaliser.fit(replies)).save(folder / "labelers.json")
    return EvaluateConfig(
        out=folder / "evaluation",
        base=folder / "base",
        shots=folder / "replies.jsonl",
        sft=folder / "sft",
        policies={"same": folder / "sft", ODD_NAME: folder / "other"},
        tax_only={"also_sft": folder / "sft"},
        prompts=folder / "prompts.jsonl",
        texts=folder / "texts.txt",
        labelers=folder / "labelers.json",
        reward_model=str(folder / "reward"),
        judge=folder / "judge",
        judge_turns=folder / "replies.jsonl",
        num_prompts=NUM_PROMPTS,
        max_tokens=8,
    )


@pytest.fixture(scope="module")
def report(config: EvaluateConfig) -> dict[str, Any]:
    return dict(json.loads(evaluate.run(config).read_text(encoding="utf-8")))


def _model(tokenizer: Tokenizer) -> GPT:
    return GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64, **SIZES))


def test_a_policy_that_is_the_sft_model_differs_from_it_in_nothing(report: dict[str, Any]) -> None:
    rate = report["win_rate"]["same_vs_sft"]
    assert rate["low"] <= 0.5 <= rate["high"] and rate["n"] == NUM_PROMPTS
    assert report["kl"]["same"]["per_response"] == pytest.approx(0.0, abs=1e-6)
    assert report["tax"]["same"]["mean"] == report["tax"]["also_sft"]["mean"] == 0.0
    assert report["diversity"]["same"] == report["diversity"]["sft"]
    worse = [row["mean"] for row in report["outside_judges"]["same_worse_than_sft"].values()]
    assert worse == pytest.approx([0.0, 0.0], abs=1e-6)  # they lie elsewhere in a row


def test_another_policy_differs(report: dict[str, Any]) -> None:
    assert report["kl"][ODD_NAME]["per_response"] > 0.0
    assert report["tax"][ODD_NAME]["mean"] != 0.0


def test_best_of_n_scores_at_least_what_sft_scores(report: dict[str, Any]) -> None:
    assert report["scores"]["best_of_n"]["proxy"] >= report["scores"]["sft"]["proxy"]
    assert report["kl"]["best_of_n"]["per_token"] is None  # only the whole answer's is known: log n - (n - 1) / n
    assert report["kl"]["best_of_n"]["per_response"] == pytest.approx(0.636, abs=1e-3)
    assert "best_of_4_vs_sft" in report["win_rate"]


def test_every_model_has_every_figure(report: dict[str, Any], config: EvaluateConfig) -> None:
    asked = {"base", "fewshot_base", "sft", "best_of_n", *config.policies}
    for figure in ("diversity", "finished", "scores"):
        assert set(report[figure]) == asked
    for figure in ("bits_per_byte", "real_turn"):
        assert set(report["outside_judges"][figure]) == asked
    assert set(report["bits_per_byte"]) == {"base", "sft", *config.policies, *config.tax_only}
    assert set(report["checkpoints"]) == {"base", "sft", *config.policies, *config.tax_only}
    assert report["votes_by"] == "held-out simulated labelers"
    rows = (config.out / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == NUM_PROMPTS and set(json.loads(rows[0])["answers"]) == asked


def test_the_page_names_every_model_and_runs_nothing(report: dict[str, Any], config: EvaluateConfig) -> None:
    page = (config.out / "report.html").read_text(encoding="utf-8")
    for name in ("base", "fewshot_base", "sft", "best_of_n", "same", "also_sft", "&lt;script&gt;alert(1)"):
        assert name in page
    assert "<script" not in page


def test_settings_that_cannot_be_evaluated_are_refused(config: EvaluateConfig) -> None:
    with pytest.raises(ConfigError, match="nobody to vote"):
        replace(config, labelers=None, reward_model="")
    with pytest.raises(ConfigError, match="shots"):
        replace(config, shots=None)
    with pytest.raises(ConfigError, match="judge_turns"):
        replace(config, judge_turns=None)
    with pytest.raises(ConfigError, match="another row"):
        replace(config, policies={"sft": config.sft})
