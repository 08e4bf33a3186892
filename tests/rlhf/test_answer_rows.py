"""A prompt read once for all its answers gives what one sequence an answer gives."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wuya.evals.real_turn import answer_states
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.rlhf.answer_rows import answer_rows
from wuya.rlhf.model_outputs import answer_scores
from wuya.rlhf.pair_gradients import answer_logprobs

A, B, C = [1, 2, 3], [11, 12, 13, 14, 15, 16], [25]
PROMPTS = [A, B, A, A, C, B, C]
ANSWERS = [[4, 5, 6, 7], [17, 18, 19], [8], [9, 10], [26, 27], [20, 21, 22, 23, 24], [28, 29]]


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


def one_by_one(model: GPT, scorer: ScalarModel) -> tuple[Tensor, Tensor]:
    """Score and log-prob of each answer, every sequence alone."""
    scores, logprobs = [], []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids_1T = torch.tensor([prompt + answer])
        hidden_TD = model(ids_1T)[0]
        scores.append(scorer.head(hidden_TD[-1])[0] - scorer.bias)
        logprobs_TV = model.logits(hidden_TD[len(prompt) - 1 : -1]).log_softmax(-1)
        logprobs.append(logprobs_TV.gather(-1, ids_1T[0, len(prompt) :, None]).sum())
    return torch.stack(scores), torch.stack(logprobs)


@pytest.mark.parametrize("context", [16, 11])  # 11: the answers of one prompt need several rows
def test_scores_log_probs_and_gradients_are_those_of_one_sequence_an_answer(model: GPT, context: int) -> None:
    scorer = ScalarModel(model)
    scorer.bias.fill_(0.5)
    [rows] = answer_rows(PROMPTS, ANSWERS, max_length=context)
    together = rows.in_order(answer_scores(scorer, rows)), rows.in_order(answer_logprobs(model, rows))
    alone = one_by_one(model, scorer)
    found = []
    for scores_B, logprobs_B in (together, alone):
        scorer.zero_grad()
        ((scores_B + 0.1 * logprobs_B) * torch.arange(1, 8)).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.clone() for p in scorer.parameters() if p.grad is not None]
        found.append((scores_B.detach(), logprobs_B.detach(), gradients))
    torch.testing.assert_close(found[0][:2], found[1][:2], atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


def test_parts_hold_every_answer_once(model: GPT) -> None:
    scorer = ScalarModel(model)
    [whole] = answer_rows(PROMPTS, ANSWERS, max_length=16)
    scores_B = torch.zeros(7)
    parts = answer_rows(PROMPTS, ANSWERS, max_length=16, max_tokens=12)
    for rows in parts:
        scores_B[rows.answer_B] = answer_scores(scorer, rows).detach()
    assert len(parts) > 1
    torch.testing.assert_close(scores_B, whole.in_order(answer_scores(scorer, whole)).detach(), atol=1e-5, rtol=1e-4)


def test_another_answer_beside_it_changes_nothing(model: GPT) -> None:
    scorer = ScalarModel(model)
    [before] = answer_rows([A, A, A], [[4, 5], [6, 7], [8]], max_length=16)
    [after] = answer_rows([A, A, A], [[4, 5], [30, 31], [8]], max_length=16)
    difference = (answer_scores(scorer, before) - answer_scores(scorer, after)).detach().abs()
    assert float(difference[[0, 2]].max()) < 1e-5 and difference[1].item() > 1e-3


def test_a_prompt_is_read_once_where_its_answers_fit(model: GPT) -> None:
    [rows] = answer_rows(PROMPTS, ANSWERS, max_length=16)
    assert rows.ids_NT.shape == (3, 14)
    assert rows.ids_NT[0, :10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert rows.positions_NT[0, :10].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 3, 4]
    assert rows.answer_B.tolist() == [0, 2, 3, 1, 5, 4, 6]
    assert [a.shape[0] for a in (rows.ids_NT, answer_rows(PROMPTS, ANSWERS, max_length=8)[0].ids_NT)] == [3, 5]
    tokens, states_CD, logprobs_C = answer_states(model, rows)
    assert tokens.id_C.tolist() == [token for b in rows.answer_B.tolist() for token in ANSWERS[b]]
    assert len(states_CD) == len(logprobs_C) == sum(map(len, ANSWERS))


def test_an_answer_without_tokens_is_scored_at_the_end_of_its_prompt(model: GPT) -> None:
    """Whatever lies beside it: behind a shared prompt it must not get the score of the answer before it."""
    scorer = ScalarModel(model)

    def scores(prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
        [rows] = answer_rows(prompts, answers, max_length=16)
        return rows.in_order(answer_scores(scorer, rows)).tolist()

    alone, neighbour = scores([A], [[]]), scores([A], [[4, 5]])
    assert abs(alone[0] - neighbour[0]) > 0.01
    assert scores([A, A, A], [[4, 5], [], [6]])[:2] == pytest.approx([neighbour[0], alone[0]], abs=1e-4)
    [rows] = answer_rows([A, A, A], [[4, 5], [], [6]], max_length=16)
    assert rows.tokens().id_C.tolist() == [4, 5, 6] and rows.tokens().owner_C.tolist() == [0, 0, 2]
    assert answer_logprobs(model, rows)[1] == 0
