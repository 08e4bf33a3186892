"""The classifier of real turns finds a planted relation of reply and prompt, and nothing where there is none."""

import numpy as np
import pytest
import torch

from wuya.evals.real_turn import RealTurnJudge
from wuya.models.gpt import GPT
from wuya.models.presets import preset

VOCABULARY = 60
PAIRS = 400
Rows = list[list[int]]


@pytest.fixture(scope="module")
def model() -> GPT:
    """Untrained, with tied embeddings: the token after w is a little more often w again."""
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
    return GPT(preset("tiny", vocab_size=VOCABULARY, context_length=16, **sizes)).eval()


def pairs(*, copied: bool) -> tuple[Rows, Rows]:
    """Prompts of four words; a reply of two, whose first is the prompt's last word or any word."""
    rng = np.random.default_rng(1)
    prompts = rng.integers(3, VOCABULARY, size=(PAIRS, 4))
    replies = rng.integers(3, VOCABULARY, size=(PAIRS, 2))
    if copied:
        replies[:, 0] = prompts[:, -1]
    return prompts.tolist(), replies.tolist()


def test_replies_that_copy_a_word_are_told_from_those_of_other_prompts(model: GPT) -> None:
    prompts, replies = pairs(copied=True)
    judge = RealTurnJudge(model).fit(prompts, replies, seed=0)
    assert judge.auc > 0.8
    real = judge.probabilities(prompts, replies)
    fake = judge.probabilities(prompts, replies[1:] + replies[:1])
    assert real.shape == (PAIRS,) and real.mean() > 0.55 > 0.5 > fake.mean()


def test_random_replies_cannot_be_told_apart(model: GPT) -> None:
    assert RealTurnJudge(model).fit(*pairs(copied=False), seed=0).auc == pytest.approx(0.5, abs=0.13)  # 2.9 SE of 80


def test_a_judge_that_never_learned_says_so(model: GPT) -> None:
    with pytest.raises(AssertionError, match="fit"):
        RealTurnJudge(model).probabilities([[5]], [[6]])
