"""Rollouts hold what the models say about exactly the tokens that were sampled."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.inference.naive import VOCAB, full_logprobs, random_prompts
from tests.rlhf.ppo_toys import sequence_logprobs
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel
from wuya.rlhf.rollouts import Rollouts, sample_rollouts

EOS = 3


def score_by_length(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([100.0 * len(p) + len(c) for p, c in zip(prompts, completions, strict=True)])


def rollouts_of(
    model: GPT, *, temperature: float = 1.0, keep: bool = True, microbatch_tokens: int = 64, num_samples: int = 1
) -> Rollouts:
    torch.manual_seed(0)
    value_model = ScalarModel(copy.deepcopy(model))
    value_model.bias.fill_(0.5)
    return sample_rollouts(
        Engine(model, seed=1),
        random_prompts(12 // num_samples, longest=9),
        sampling=SamplingParams(max_tokens=7, temperature=temperature, stop_token_ids=(EOS,), seed=5),
        policy=model,
        reference=model,
        value_model=value_model,
        score=score_by_length,
        pad_id=0,
        microbatch_tokens=microbatch_tokens,
        keep_sampled_logprobs=keep,
        num_samples=num_samples,
    )


@pytest.mark.parametrize(("temperature", "num_samples"), [(1.0, 1), (0.7, 1), (0.7, 3)])
def test_logprobs_are_those_of_a_full_forward_at_the_sampling_temperature(
    model: GPT, temperature: float, num_samples: int
) -> None:
    rollouts = rollouts_of(model, temperature=temperature, num_samples=num_samples)
    for row in range(12):
        prompt, completion = rollouts.prompt(row), rollouts.completion(row)
        expected = full_logprobs(model, prompt, tuple(completion), temperature)
        expected = expected[torch.arange(len(completion)), torch.tensor(completion)]
        inside = rollouts.mask_BT[row] > 0
        assert int(inside.sum()) == len(completion) == int(rollouts.completion_lengths_B[row])
        torch.testing.assert_close(rollouts.old_logprobs_BT[row, inside], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(rollouts.ref_logprobs_BT[row, inside], expected, atol=1e-4, rtol=1e-4)
        assert (rollouts.old_logprobs_BT[row, ~inside] == 0).all() and (rollouts.old_values_BT[row, ~inside] == 0).all()
        assert bool(rollouts.has_eos_B[row]) == (completion[-1] == EOS) and EOS not in completion[:-1]
    assert rollouts.kl_B.abs().max() < 1e-3
    assert set(rollouts.has_eos_B.tolist()) == {True, False}  # the test sees both ends


def test_recomputed_logprobs_and_any_microbatches_give_the_same(model: GPT) -> None:
    kept, recomputed = rollouts_of(model), rollouts_of(model, keep=False, microbatch_tokens=10_000)
    assert torch.equal(kept.ids_BT, recomputed.ids_BT)
    torch.testing.assert_close(kept.old_logprobs_BT, recomputed.old_logprobs_BT, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept.old_values_BT, recomputed.old_values_BT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_values_are_those_before_each_token_less_the_bias(model: GPT, num_samples: int) -> None:
    rollouts = rollouts_of(model, num_samples=num_samples)
    torch.manual_seed(0)
    value_model = ScalarModel(copy.deepcopy(model))
    with torch.no_grad():
        values_BT = value_model.values(rollouts.ids_BT)[:, :-1] - 0.5
    inside = rollouts.mask_BT > 0
    torch.testing.assert_close(rollouts.old_values_BT[inside], values_BT[inside], atol=1e-4, rtol=1e-4)


def test_scores_belong_to_their_rows(model: GPT) -> None:
    rollouts = rollouts_of(model)
    expected = 100.0 * rollouts.prompt_lengths_B + rollouts.completion_lengths_B
    assert torch.equal(rollouts.scores_B, expected)


def test_one_sequence_per_row_predicts_every_token_but_the_first(model: GPT) -> None:
    ids_BT = torch.randint(0, VOCAB, (2, 6))
    expected = model.logits(model(ids_BT))[:, :-1].log_softmax(-1).gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(sequence_logprobs(model, ids_BT, torch.ones(2, 5)), expected, atol=1e-5, rtol=1e-4)
