"""Anything that scores (prompts, completions) can be the reward: our model, a foreign classifier, a function."""

from pathlib import Path

import pytest
import torch

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.errors import ConfigError, DataError
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.records import Message
from wuya.rlhf.rewards import load_reward, text_reward
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.system_prompt import with_system_prompt


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat"] * 20, vocab_size=280)


def scalar_model(tokenizer: Tokenizer) -> ScalarModel:
    torch.manual_seed(0)
    model = ScalarModel(GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=32)))
    model.bias.fill_(0.3)
    return model


def test_our_model_scores_the_last_kept_token(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = scalar_model(tokenizer)
    save_checkpoint(tmp_path / "rm", model, tokenizer, recipe="test")
    score = load_reward(str(tmp_path / "rm"), tokenizer)
    scores_B = score([[5, 6], [7]], [[8, 9, tokenizer.eos_id], [10]])
    with torch.no_grad():
        first = model.values(torch.tensor([[5, 6, 8, 9, tokenizer.eos_id]]))[0, 4] - 0.3
        second = model.values(torch.tensor([[7, 10]]))[0, 1] - 0.3
    torch.testing.assert_close(scores_B, torch.stack([first, second]), atol=1e-5, rtol=1e-4)


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "rm", scalar_model(tokenizer), tokenizer, recipe="test")
    other = train_tokenizer(["quite another text, with other merges"] * 20, vocab_size=280)
    with pytest.raises(ConfigError, match="different tokenizers"):
        load_reward(str(tmp_path / "rm"), other)


def test_another_chat_format_is_refused_but_not_another_spelling_of_the_same(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    save_checkpoint(tmp_path / "rm", scalar_model(tokenizer), tokenizer, recipe="test")
    respelled = tokenizer.with_template(tokenizer.chat_template + "{# a comment #}")
    load_reward(str(tmp_path / "rm"), respelled)
    other = with_system_prompt(tokenizer, "Answer in one word.")
    with pytest.raises(ConfigError, match="another format than the policy's") as refused:
        load_reward(str(tmp_path / "rm"), other)
    assert "Answer in one word." in str(refused.value)


def test_a_function_sees_texts_and_must_return_one_finite_number_each(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "my.py").write_text("def fn(prompts, completions):\n    return [len(c) for c in completions]\n")
    score = load_reward(f"{tmp_path / 'my.py'}:fn", tokenizer)
    answers = [[*tokenizer.encode("the cat"), tokenizer.eos_id], tokenizer.encode("mat")]
    assert score([[5], [5]], answers).tolist() == [7, 3]
    for wrong in (lambda p, c: [1.0], lambda p, c: [float("nan")] * len(c)):
        with pytest.raises(DataError, match="one finite number"):
            text_reward(wrong, tokenizer)([[5], [5]], answers)


def test_a_function_that_does_not_exist_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "my.py").write_text("def fn(): ...\n")
    with pytest.raises(ConfigError, match="has no function `other`"):
        load_reward(f"{tmp_path / 'my.py'}:other", tokenizer)
    with pytest.raises(ConfigError, match="is not a file"):
        load_reward(f"{tmp_path / 'none.py'}:fn", tokenizer)


def test_a_foreign_classifier_scores_texts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path / "bert")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    score = load_reward(str(tmp_path / "bert"), tokenizer)
    texts = ["the cat", "mat", "on the mat the cat sat"]
    completions = [tokenizer.encode(text) for text in texts]
    prompt = encode_prompt(tokenizer, (Message("user", "the"),))
    together = score([prompt] * 3, completions)
    alone = [float(score([prompt], [ids])[0]) for ids in completions]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    with pytest.raises(DataError, match="this prompt is none"):
        score([tokenizer.encode("the")], completions[:1])


def test_several_rewards_are_an_ensemble_whose_score_is_their_mean(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "my.py").write_text(
        "def one(p, c):\n    return [1.0] * len(c)\n\ndef four(p, c):\n    return [4.0] * len(c)\n"
    )
    score = load_reward(f"{tmp_path / 'my.py'}:one, {tmp_path / 'my.py'}:four", tokenizer)
    assert score([[5], [5]], [[6], [7]]).tolist() == [2.5, 2.5]
