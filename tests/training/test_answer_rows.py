"""A prompt read once for all its answers gives what one sequence an answer gives."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wuya.data.batches import pad_right
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.records import Message, Prompt
from wuya.training.answer_rows import answer_logprobs, answer_rows, answer_scores, row_plan
from wuya.training.ranked_prompts import RankedPrompt


def element(prompt: list[int], answers: list[list[int]]) -> RankedPrompt:
    return RankedPrompt(
        Prompt("p", (Message("user", "x"),)), sequences=[prompt + a for a in answers], prompt_length=len(prompt)
    )


PROMPTS = [
    element([1, 2, 3], [[4, 5, 6, 7], [8], [9, 10]]),
    element([11, 12, 13, 14, 15, 16], [[17, 18, 19], [20, 21, 22, 23, 24]]),
    element([25], [[26, 27], [28, 29]]),
]


@pytest.fixture(params=["demo", "gpt1"])
def model(request: pytest.FixtureRequest) -> GPT:
    torch.manual_seed(0)
    config = replace(
        preset(request.param), vocab_size=32, num_layers=2, model_dim=32, num_heads=2, num_kv_heads=2, head_dim=16,
        mlp_dim=48, context_length=16, dropout=0.0,
    )  # fmt: skip
    gpt = GPT(config)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(4)  # so that what is looked at matters
    return gpt


def one_by_one(model: GPT, prompts: list[RankedPrompt]) -> tuple[Tensor, Tensor]:
    """Hidden state at the last token, and the sum of log-probs of the answer, of each sequence alone."""
    states, logprobs = [], []
    for prompt in prompts:
        for sequence in prompt.sequences:
            ids_1T, _ = pad_right([sequence], pad_id=0)
            hidden_TD = model(ids_1T)[0]
            states.append(hidden_TD[-1])
            start = prompt.prompt_length
            logprobs_TV = model.logits(hidden_TD[start - 1 : -1]).log_softmax(-1)
            logprobs.append(logprobs_TV.gather(-1, ids_1T[0, start:, None]).sum())
    return torch.stack(states), torch.stack(logprobs)


@pytest.mark.parametrize("context", [16, 8])
def test_scores_and_their_gradients_are_those_of_one_sequence_an_answer(model: GPT, context: int) -> None:
    model.config = replace(model.config, context_length=context)  # 8: answers of one prompt need several rows
    prompts = PROMPTS if context == 16 else [PROMPTS[0], PROMPTS[2]]
    scorer = ScalarModel(model)
    scorer.bias.fill_(0.5)
    gradients = []
    for scores_B in (
        answer_scores(scorer, prompts),
        scorer.head(one_by_one(model, prompts)[0]).squeeze(-1) - scorer.bias,
    ):
        scorer.zero_grad()
        (scores_B * torch.arange(1, len(scores_B) + 1)).sum().backward()
        gradients.append((scores_B.detach(), [p.grad.clone() for p in scorer.parameters() if p.grad is not None]))
    (ours_B, ours), (alone_B, alone) = gradients
    torch.testing.assert_close(ours_B, alone_B, atol=2e-5, rtol=1e-4)
    for a, b in zip(ours, alone, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


def test_log_probs_are_those_of_one_sequence_an_answer(model: GPT) -> None:
    torch.testing.assert_close(answer_logprobs(model, PROMPTS), one_by_one(model, PROMPTS)[1], atol=1e-4, rtol=1e-4)


def test_another_answer_beside_it_changes_nothing(model: GPT) -> None:
    scorer = ScalarModel(model)
    other = element([1, 2, 3], [[4, 5, 6, 7], [30, 31, 30, 31], [9, 10]])
    before, after = answer_scores(scorer, PROMPTS[:1]), answer_scores(scorer, [other])
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]])
    assert abs((before - after)[1].item()) > 1e-3


def test_a_prompt_is_read_once_where_its_answers_fit() -> None:
    rows = answer_rows(PROMPTS, 16)
    assert rows.ids_NT.shape == (3, 14) and int((rows.segments_NT >= -2).sum()) == 42
    assert rows.ids_NT[0, :10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert rows.positions_NT[0, :10].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 3, 4]
    assert rows.last_B.tolist() == [6, 7, 9, 8, 13, 2, 4]
    assert [prompt.length for prompt in PROMPTS] == [10, 14, 5]
    assert row_plan(PROMPTS[0], 16) == [[0, 1, 2]] and row_plan(PROMPTS[0], 8) == [[0, 1], [2]]
