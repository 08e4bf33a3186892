"""Episodes for PPO: sample completions, and put beside each token what policy, reference and value model say of it.

Shapes: B episodes, T positions. Position t stands for predicting token t + 1 (losses/ppo.py), so ids_BT has one column
more than the other tensors.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wuya.inference.engine import Engine, Generation
from wuya.inference.sampling import SamplingParams
from wuya.training.answer_rows import answer_rows, answer_token_logprobs, answer_token_values
from wuya.training.ppo_batches import LanguageModel, Rollouts, TokenValues, completion_logprobs

__all__ = ["Rollouts", "Score", "sample_rollouts", "sequence_logprobs"]

Score = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]
"""(prompt ids, completion ids as sampled) -> one float32 score an episode, [B]; see inference/rewards.py."""


def sample_rollouts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingParams,
    num_samples: int = 1,
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
        engine: generates with the policy's weights.
        prompts: token ids, the generation prompt at their end.
        sampling: the temperature also divides the logits of `policy` and `reference` here. Truncation (top-k, top-p)
            makes the sampler differ from the softmax that PPO differentiates; use it only if you know why.
        num_samples: completions of each prompt.
        policy, reference, value_model: with dropout off; run without gradient.
        score: judges (prompts, completions).
        microbatch_tokens: positions, padding included, of one forward pass; rows of like length go together, and a
            prompt is read once for all its completions.
        keep_sampled_logprobs: use the log-probs that came with the tokens. Exact in fp32 without truncation, and saves
            the forward pass that otherwise computes them again.
    """
    generations = [g for samples in engine.generate(prompts, sampling, num_samples=num_samples) for g in samples]
    prompts = [prompt for prompt in prompts for _ in range(num_samples)]
    completions = [list(generation.token_ids) for generation in generations]
    with torch.no_grad():
        keep = keep_sampled_logprobs and not sampling.truncates
        rows = _right_padded(prompts, generations, pad_id=pad_id, device=device)
        ids_BT, mask_BT, logprobs_BT, prompt_lengths_B, completion_lengths_B = rows
        ref_logprobs_BT, values_BT = torch.zeros_like(mask_BT), torch.zeros_like(mask_BT)
        max_length = engine.model.config.context_length
        for part in answer_rows(prompts, completions, max_length=max_length, max_tokens=microbatch_tokens):
            index_B = part.answer_B.to(device)
            mask = mask_BT[index_B]
            if not keep:
                old_C = answer_token_logprobs(policy, part, device=device, temperature=sampling.temperature)
                logprobs_BT[index_B] = part.put(old_C, mask)
            ref_C = answer_token_logprobs(reference, part, device=device, temperature=sampling.temperature)
            ref_logprobs_BT[index_B] = part.put(ref_C, mask)
            values_BT[index_B] = part.put(answer_token_values(value_model, part, device=device), mask)
        scores_B = score(prompts, completions)
    return Rollouts(
        ids_BT=ids_BT,
        mask_BT=mask_BT,
        logprobs_BT=logprobs_BT,
        ref_logprobs_BT=ref_logprobs_BT,
        values_BT=values_BT,
        scores_B=scores_B.to(device=ids_BT.device, dtype=torch.float32),
        has_eos_B=torch.tensor([g.finish_reason == "stop" for g in generations], device=ids_BT.device),
        prompt_lengths_B=prompt_lengths_B,
        completion_lengths_B=completion_lengths_B,
    )


def sequence_logprobs(model: LanguageModel, ids_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-prob of every token but the first, nats, [B, T]; carries gradient. Padding gets a number too: mask it."""
    return completion_logprobs(model, ids_BT, torch.ones(ids_BT[:, 1:].shape), temperature=temperature)


def _right_padded(
    prompts: Sequence[Sequence[int]], generations: Sequence[Generation], *, pad_id: int, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids, mask, sampled log-probs, prompt lengths, completion lengths."""
    lengths = [len(prompt) + len(g.token_ids) for prompt, g in zip(prompts, generations, strict=True)]
    ids_BT = torch.full((len(prompts), max(lengths)), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros(len(prompts), max(lengths) - 1)
    logprobs_BT = torch.zeros_like(mask_BT)
    for row, (prompt, generation, length) in enumerate(zip(prompts, generations, lengths, strict=True)):
        ids_BT[row, :length] = torch.tensor([*prompt, *generation.token_ids])
        mask_BT[row, len(prompt) - 1 : length - 1] = 1.0
        logprobs_BT[row, len(prompt) - 1 : length - 1] = torch.tensor(generation.logprobs)
    prompt_lengths_B = torch.tensor([len(prompt) for prompt in prompts])
    completion_lengths_B = torch.tensor([len(g.token_ids) for g in generations])
    return (
        ids_BT.to(device),
        mask_BT.to(device),
        logprobs_BT.to(device),
        prompt_lengths_B.to(device),
        completion_lengths_B.to(device),
    )
