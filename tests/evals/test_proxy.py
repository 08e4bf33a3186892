"""What the reward model is asked for, and what best-of-n picks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from wuya.evals import proxy
from wuya.evals.answers import Answers
from wuya.evals.proxy import best_of_n, best_of_n_kl, proxy_scores
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.records import Candidate, Message, Prompt
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

PROMPTS = [Prompt(str(i), (Message("user", f"the cat {i}"),)) for i in range(6)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat and sang a song " * 20], vocab_size=280)


def length_reward(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    """Pays for length: just the reward that an answer which never ends games."""
    return torch.tensor([float(len(completion)) for completion in completions])


def answers(*finished: bool) -> Answers:
    candidates = [Candidate("cat", (5,) * (1 if end else 8), finished=end) for end in finished]
    return Answers("sft", candidates, [[1]] * len(candidates))


def test_an_answer_that_never_ends_scores_as_it_did_in_ppo(tokenizer: Tokenizer) -> None:
    [scores_B] = proxy_scores(length_reward, tokenizer, PROMPTS[:2], [answers(True, False)], missing_eos_penalty=1.5)
    assert scores_B.tolist() == [1.0, -1.5]  # min(8, 0) - 1.5


def test_best_of_n_never_picks_an_unfinished_answer_while_there_is_a_finished_one(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64, num_layers=1, model_dim=32,
                       mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16))  # fmt: skip
    drawn = [answers(*(i == k for i in range(6))) for k in range(6)]  # each sample finishes one prompt
    monkeypatch.setattr(proxy, "chat_samples", lambda *_args, **_settings: drawn)
    best = best_of_n(model, tokenizer, PROMPTS, length_reward, n=6, max_tokens=8, seed=0, missing_eos_penalty=1.0)
    assert all(candidate.finished for candidate in best.candidates)


def test_golden_kl_of_best_of_n() -> None:
    found = [best_of_n_kl(n) for n in (2, 4, 16, 64, 256)]
    assert found == pytest.approx([0.1931, 0.6363, 1.8351, 3.1745, 4.5491], abs=1e-4)
    assert best_of_n_kl(1) == 0.0
