"""Episodes as sampled, and what PPO trains on, in minibatches (optimizer steps) and microbatches (what fits in memory).

Shapes: B episodes, T positions (position t predicts token t + 1, see losses/ppo.py), N completion tokens, V vocabulary,
D model width. ids_BT has one column more than the rest: the last token is predicted but predicts nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wuya.data.batches import length_sorted_microbatches
from wuya.losses.language_model import token_logprobs


class LanguageModel(Protocol):
    """What PPO needs of a policy or a reference: a GPT, or one view of a trunk shared through adapters."""

    def __call__(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final-normed hidden states, [B, T, D], or [N, D] of the wanted positions alone; rows as `GPT` reads them."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states of any leading shape to float32 logits, [..., V]."""
        ...


class TokenValues(Protocol):
    """What PPO needs of a value or reward model: a ScalarModel, or one view of a shared trunk."""

    @property
    def bias(self) -> Tensor:
        """The re-centring."""
        ...

    def values(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """A scalar for every position, [B, T], or [N] of the wanted positions alone."""
        ...


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One batch of episodes, rows right-padded. Everything is constant: no gradient flows into a rollout."""

    ids_BT: Tensor
    """int64 [B, T + 1]: prompt, completion as sampled, padding."""
    mask_BT: Tensor
    """1.0 at t where token t + 1 belongs to the completion (its end token included)."""
    logprobs_BT: Tensor
    """nats, under the policy at the sampling temperature; 0 where mask is 0, like the next two."""
    ref_logprobs_BT: Tensor
    """nats, under the reference at the same temperature."""
    values_BT: Tensor
    """Value of the state before token t + 1, in units of the score."""
    scores_B: Tensor
    """The reward's score, before the rule for missing end tokens."""
    has_eos_B: Tensor
    """bool: the completion ended with its end token within the limit."""
    prompt_lengths_B: Tensor
    completion_lengths_B: Tensor
    """Tokens, the end token included."""

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of prompt and completion."""
        return self.prompt_lengths_B + self.completion_lengths_B

    @property
    def kl_B(self) -> Tensor:
        """k1 estimate of KL(policy || reference) of each whole completion, nats; single ones may be negative."""
        return (self.logprobs_BT - self.ref_logprobs_BT).sum(dim=1)

    def completion(self, row: int) -> list[int]:
        """Token ids of one completion, as sampled."""
        start, end = int(self.prompt_lengths_B[row]), int(self.lengths_B[row])
        ids: list[int] = self.ids_BT[row, start:end].tolist()
        return ids

    def prompt(self, row: int) -> list[int]:
        """Token ids of one prompt."""
        ids: list[int] = self.ids_BT[row, : int(self.prompt_lengths_B[row])].tolist()
        return ids


@dataclass(frozen=True, slots=True)
class PPOBatch:
    """Episodes with everything their losses need; rows are right-padded."""

    ids_BT: Tensor
    """int64 [B, T + 1]: prompt, completion, padding."""
    mask_BT: Tensor
    """1.0 where token t + 1 belongs to the completion."""
    logprobs_BT: Tensor
    """nats, under the policy that sampled ("old")."""
    values_BT: Tensor
    """Value model's output when the rollout was made ("old")."""
    advantages_BT: Tensor
    """Whitened over the whole rollout batch."""
    returns_BT: Tensor
    """Targets of the value model, not whitened."""
    lengths_B: Tensor
    """Tokens of each row without padding."""

    def rows(self, rows: Tensor) -> "PPOBatch":
        """The given rows, without columns that are padding in all of them."""
        width = int(self.lengths_B[rows].max())
        return PPOBatch(
            ids_BT=self.ids_BT[rows, :width],
            mask_BT=self.mask_BT[rows, : width - 1],
            logprobs_BT=self.logprobs_BT[rows, : width - 1],
            values_BT=self.values_BT[rows, : width - 1],
            advantages_BT=self.advantages_BT[rows, : width - 1],
            returns_BT=self.returns_BT[rows, : width - 1],
            lengths_B=self.lengths_B[rows],
        )

    def microbatches(self, max_tokens: int) -> Iterator["PPOBatch"]:
        """All rows, those of like length together, at most `max_tokens` positions (padding included) in each part."""
        for rows in length_sorted_microbatches(self.lengths_B.tolist(), max_tokens):
            yield self.rows(torch.tensor(rows, device=self.ids_BT.device))


def minibatch_rows(
    num_episodes: int, minibatch_size: int, *, seed: int, update: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[Tensor]:
    """This rank's rows of each minibatch: a fresh partition of all episodes for each (seed, update, epoch).

    Episode number g lives on rank g % world_size as its row g // world_size, so a minibatch is the same set of episodes
    for any number of processes. Nothing is kept between calls: a resumed run draws the same.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + update) * 1_009 + epoch)
    parts = torch.split(torch.randperm(num_episodes, generator=generator), minibatch_size)
    return [part[part % world_size == rank] // world_size for part in parts]


def completion_logprobs(model: LanguageModel, ids_BT: Tensor, mask_BT: Tensor, *, temperature: float) -> Tensor:
    """Log-prob of each completion token, nats, [B, T]; 0 where mask is 0. Carries the model's gradient.

    The head and the last MLP are applied to the completion's positions only.
    """
    wanted_BT = mask_BT > 0
    hidden_ND = model(ids_BT[:, :-1], wanted_BT=wanted_BT)
    logprobs_N = token_logprobs(model.logits(hidden_ND), ids_BT[:, 1:][wanted_BT], temperature=temperature)
    return torch.zeros(mask_BT.shape, device=ids_BT.device).masked_scatter(wanted_BT, logprobs_N)


def completion_values(value_model: TokenValues, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Value of the state before each completion token, in units of the re-centred score, [B, T]; 0 where masked."""
    wanted_BT = mask_BT > 0
    values_N = value_model.values(ids_BT[:, :-1], wanted_BT=wanted_BT) - value_model.bias
    return torch.zeros(mask_BT.shape, device=ids_BT.device).masked_scatter(wanted_BT, values_N)
