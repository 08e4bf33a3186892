"""Episodes: completions as sampled, and beside each token what policy, reference and value model say of it.

Shapes: B episodes, T positions. Position t stands for predicting token t + 1 (losses/ppo.py), so ids_BT has one column
more than the other tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.data.batches import pad_right
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.protocols import LanguageModel, TokenValues
from wuya.rlhf.answer_rows import answer_rows
from wuya.rlhf.model_outputs import completion_logprobs, completion_values
from wuya.rlhf.rewards import max_length_of

Score = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]
"""(prompt ids, completion ids as sampled) -> one float32 score an episode, [B]; see rlhf/rewards.py."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One batch of episodes, rows right-padded. Everything is constant: no gradient flows into a rollout."""

    ids_BT: Tensor
    """int64 [B, T + 1]: prompt, completion as sampled, padding."""
    mask_BT: Tensor
    """1.0 at t where token t + 1 belongs to the completion (its end token included)."""
    old_logprobs_BT: Tensor
    """nats, under the policy that sampled, at its temperature; 0 where mask is 0, like the next two."""
    ref_logprobs_BT: Tensor
    """nats, under the reference at the same temperature."""
    old_values_BT: Tensor
    """Value of the state before token t + 1 when the rollout was made, in units of the score."""
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
        return (self.old_logprobs_BT - self.ref_logprobs_BT).sum(dim=1)

    def completion(self, row: int) -> list[int]:
        """Token ids of one completion, as sampled."""
        ids: list[int] = self.ids_BT[row, self.prompt_lengths_B[row] : self.lengths_B[row]].tolist()
        return ids

    def prompt(self, row: int) -> list[int]:
        """Token ids of one prompt."""
        ids: list[int] = self.ids_BT[row, : self.prompt_lengths_B[row]].tolist()
        return ids


def sample_rollouts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingParams,
    num_samples: int = 1,
    seeds: Sequence[int] | None = None,
    policy: LanguageModel,
    reference: LanguageModel,
    value_model: TokenValues,
    score: Score,
    pad_id: int = 0,
    microbatch_tokens: int = 8192,
    keep_sampled_logprobs: bool = True,
    device: torch.device | str = "cpu",
) -> Rollouts:
    """Sample completions and score them; those of one prompt are neighbours.

    Args:
        engine: generates with the policy's weights, `num_samples` completions of each prompt.
        prompts: token ids, the generation prompt at their end.
        sampling: the temperature also divides the logits of `policy` and `reference` here. Truncation (top-k, top-p)
            makes the sampler differ from the softmax that PPO differentiates; use it only if you know why.
        seeds: of every completion, see `Engine.generate`; drawn from `sampling.seed` if absent.
        policy, reference, value_model: with dropout off; run without gradient.
        microbatch_tokens: positions, padding included, of one forward pass; a prompt is read once for its completions.
        keep_sampled_logprobs: use the log-probs that came with the tokens. Exact in fp32 without truncation, and saves
            the forward pass that otherwise computes them again.
    """
    samples = engine.generate(prompts, sampling, num_samples=num_samples, seeds=seeds)
    generations = [generation for group in samples for generation in group]
    prompts = [prompt for prompt in prompts for _ in range(num_samples)]
    completions = [list(generation.token_ids) for generation in generations]
    ids_BT, lengths_B = pad_right([[*p, *c] for p, c in zip(prompts, completions, strict=True)], pad_id)
    prompt_lengths_B, positions_T = torch.tensor([len(p) for p in prompts]), torch.arange(1, ids_BT.shape[1])
    mask_BT = ((positions_T >= prompt_lengths_B[:, None]) & (positions_T < lengths_B[:, None])).float().to(device)
    sampled_C = torch.tensor([logprob for g in generations for logprob in g.logprobs], device=device)
    old_logprobs_BT = torch.zeros_like(mask_BT).masked_scatter(mask_BT > 0, sampled_C)
    ref_logprobs_BT, old_values_BT = torch.zeros_like(mask_BT), torch.zeros_like(mask_BT)
    context_length = engine.model.config.context_length
    max_length = min(context_length, max_length_of(score) or context_length)  # the value model starts as the reward's
    with torch.no_grad():
        for rows in answer_rows(prompts, completions, max_length=max_length, max_tokens=microbatch_tokens):
            index_B = rows.answer_B.to(device)
            mask = mask_BT[index_B]
            if sampling.truncates or not keep_sampled_logprobs:
                old_C = completion_logprobs(policy, rows, device=device, temperature=sampling.temperature)
                old_logprobs_BT[index_B] = rows.put(old_C, mask)
            ref_C = completion_logprobs(reference, rows, device=device, temperature=sampling.temperature)
            ref_logprobs_BT[index_B] = rows.put(ref_C, mask)
            old_values_BT[index_B] = rows.put(completion_values(value_model, rows, device=device), mask)
        scores_B = score(prompts, completions)
    return Rollouts(
        ids_BT=ids_BT.to(device),
        mask_BT=mask_BT,
        old_logprobs_BT=old_logprobs_BT,
        ref_logprobs_BT=ref_logprobs_BT,
        old_values_BT=old_values_BT,
        scores_B=scores_B.to(device=device, dtype=torch.float32),
        has_eos_B=torch.tensor([g.finish_reason == "stop" for g in generations], device=device),
        prompt_lengths_B=prompt_lengths_B.to(device),
        completion_lengths_B=(lengths_B - prompt_lengths_B).to(device),
    )
