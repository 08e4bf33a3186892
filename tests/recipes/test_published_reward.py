"""Recipes with a published reward model: its own tokenizer and template, asked about messages as given."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.recipes.recipe_list import RECIPES, write_inputs
from wuya.data.formats import read_demonstrations
from wuya.feedback.importers import read_answers
from wuya.recipes import best_of_n, evaluate, mix_candidates
from wuya.tokenizer.bpe import train_tokenizer

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes' inputs, a DeBERTa that scores, and answers to choose from."""
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    tokenizer = train_tokenizer(["quite another text, with merges of its own"] * 20, vocab_size=290)
    torch.manual_seed(0)
    config = transformers.DebertaV2Config(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=128, num_labels=1, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    model = transformers.DebertaV2ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    with torch.no_grad():
        model.classifier.bias.fill_(-1.5)  # the rule for missing ends takes positive scores for 0
    model.save_pretrained(folder / "deberta")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save(folder / "deberta")
    return folder


@torch.no_grad()
def oracle(folder: Path, prompt: str, answer: str) -> float:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return float(model(tokenizer.apply_chat_template(chat, return_dict=False, return_tensors="pt")).logits[0, 0])


def test_best_of_n_and_mix_choose_as_it_scores(inputs: Path, tmp_path: Path) -> None:
    reward: dict[str, Any] = {"reward": str(inputs / "deberta"), "model": inputs / "sft", "device": "cpu"}
    best_of_n.run(best_of_n.BestOfNConfig(candidates=inputs / "rankings.jsonl", out=tmp_path / "best", keep_share=1.0,
                                          **reward))  # fmt: skip
    answers = {prompt.messages: [c.text for c in group] for prompt, group in read_answers(inputs / "rankings.jsonl")}
    chosen = list(read_demonstrations(tmp_path / "best" / "demonstrations.jsonl"))
    assert len(chosen) == len(answers)
    for row in chosen[:3]:
        asked = row.prompt.messages
        assert row.completion == max(
            answers[asked], key=lambda text: oracle(inputs / "deberta", asked[0].content, text)
        )
    path = mix_candidates.run(mix_candidates.MixConfig(
        sources={str(inputs / "rankings.jsonl"): 2}, out=tmp_path / "mix", **reward
    ))  # fmt: skip
    assert len(list(read_answers(path))) == len(answers)


def test_evaluation_reports_its_scores(inputs: Path, tmp_path: Path) -> None:
    out = evaluate.run(evaluate.EvaluateConfig(
        out=tmp_path / "evaluation", sft=inputs / "sft", policies={"same": inputs / "sft"}, num_prompts=4, max_tokens=6,
        prompts=inputs / "prompts.jsonl", reward_model=str(inputs / "deberta"), device="cpu", dtype="float32",
    ))  # fmt: skip
    rows = [json.loads(line) for line in (out.parent / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        expected = oracle(inputs / "deberta", row["prompt"][0]["content"], row["answers"]["sft"])
        unfinished = min(expected, 0.0) - 1.0  # the rule for answers without an end, as in PPO
        assert row["scores"]["sft"] in (pytest.approx(expected, abs=2e-3), pytest.approx(unfinished, abs=2e-3))


@pytest.mark.parametrize("name", ["ppo-ptx", "grpo", "rloo-lora"])
def test_policies_train_against_it(name: str, inputs: Path, tmp_path: Path) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.id == name)
    rows = recipe.run(inputs, tmp_path / "run", reward=str(inputs / "deberta"))
    assert any("objective/scores" in row or "objective/score" in row for row in rows)
