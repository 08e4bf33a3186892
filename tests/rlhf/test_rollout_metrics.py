"""Answers keep the ids that were sampled, and the share whose text would give other ids is logged."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from wuya.rlhf.episodes import EpisodeSource
from wuya.rlhf.rollout_metrics import rollout_metrics
from wuya.rlhf.rollouts import Rollouts
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat. " * 50], vocab_size=290)


def rollouts_of(prompt: list[int], completions: list[list[int]], eos_id: int) -> Rollouts:
    B, longest = len(completions), len(prompt) + max(len(ids) for ids in completions)
    ids_BT, mask_BT = torch.zeros(B, longest, dtype=torch.int64), torch.zeros(B, longest - 1)
    for row, ids in enumerate(completions):
        ids_BT[row, : len(prompt) + len(ids)] = torch.tensor([*prompt, *ids])
        mask_BT[row, len(prompt) - 1 : len(prompt) + len(ids) - 1] = 1.0
    zeros = torch.zeros_like(mask_BT)
    return Rollouts(
        ids_BT=ids_BT, mask_BT=mask_BT, old_logprobs_BT=zeros, ref_logprobs_BT=zeros, old_values_BT=zeros,
        scores_B=torch.zeros(B), has_eos_B=torch.tensor([ids[-1] == eos_id for ids in completions]),
        prompt_lengths_B=torch.full((B,), len(prompt)), completion_lengths_B=torch.tensor([*map(len, completions)]),
    )  # fmt: skip


def test_the_share_that_reencodes_differently_is_logged(tokenizer: Tokenizer) -> None:
    usual = tokenizer.encode("the cat sat")
    letters = [tokenizer.encode(letter)[0] for letter in "the cat"]  # the same text in pieces that encode would merge
    assert tokenizer.decode(letters) == "the cat" and len(tokenizer.encode("the cat")) < len(letters)
    source = cast(EpisodeSource, SimpleNamespace(tokenizer=tokenizer))
    completions = [[*usual, tokenizer.eos_id], letters, usual, [*letters, tokenizer.eos_id]]
    rollouts = rollouts_of(tokenizer.encode("on the mat"), completions, tokenizer.eos_id)
    assert [rollouts.completion(row) for row in range(4)] == completions, "what PPO learns from is what was sampled"
    metrics = rollout_metrics(
        rollouts,
        final_scores_B=rollouts.scores_B,
        returns_BT=torch.zeros_like(rollouts.mask_BT),
        kl_coef=0.1,
        reencodes=lambda ids: EpisodeSource.reencodes(source, ids),
    )
    assert metrics["objective/reencoded_share"] == 0.5
    assert metrics["objective/eos_share"] == 0.5 and metrics["objective/identical_share"] == 0
