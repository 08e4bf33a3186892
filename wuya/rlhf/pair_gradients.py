"""Gradients of losses on pairs: each answer of a prompt is read once and scored, every pair of the prompt compared.

What DPO, IPO, ORPO and SimPO differ in is the score of an answer and the loss of a difference of two scores.

Dimension key: B answers of some prompts laid end to end, K answers of one vote, P votes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.losses.preference import first_ranked_mean, order_credit, ranking_loss
from wuya.models.decoder import Decoder
from wuya.rlhf.answer_rows import AnswerRows
from wuya.rlhf.model_outputs import completion_logprobs
from wuya.rlhf.ranked_prompts import RankedPrompt, pair_rows, prompt_microbatches, ranked_rows, vote_tensors
from wuya.training import distributed


@dataclass(frozen=True, slots=True)
class AnswerLogprobs:
    """What a policy says of every answer of some prompts laid end to end."""

    sum_B: Tensor
    """nats, log pi(answer | prompt), end token included."""
    length_B: Tensor
    """Tokens of the answer, end token included."""

    @property
    def mean_B(self) -> Tensor:
        """nats per token."""
        return self.sum_B / self.length_B


AnswerScore = Callable[[AnswerLogprobs, Sequence[RankedPrompt]], Tensor]
"""(log-probs, the prompts whose answers they are) -> score_B, whose differences the pair loss is given."""


def answer_logprobs(model: Decoder, rows: AnswerRows) -> Tensor:
    """log pi(completion | prompt) of every completion, nats, float32 [B]. Carries gradient."""
    logprobs_C = completion_logprobs(model, rows, device=model.device)
    sums_B = torch.zeros(len(rows.answer_B), device=model.device)
    return sums_B.index_add(0, rows.tokens().owner_C.to(model.device), logprobs_C)


def ranked_logprobs(policy: Decoder, prompts: Sequence[RankedPrompt]) -> AnswerLogprobs:
    """Log-probs of every answer of the prompts laid end to end; carries gradient."""
    rows = ranked_rows(prompts, policy.config.context_length)
    lengths = [len(sequence) - prompt.prompt_length for prompt in prompts for sequence in prompt.sequences]
    return AnswerLogprobs(
        rows.in_order(answer_logprobs(policy, rows)), torch.tensor(lengths, dtype=torch.float32, device=policy.device)
    )


@torch.no_grad()
def remember_reference(policy: Decoder, prompts: Sequence[RankedPrompt], *, microbatch_tokens: int) -> None:
    """Keep each answer's log-prob under the policy of this moment, which is the reference: it never changes, so it is
    asked once and no second model is kept."""
    for part in prompt_microbatches(prompts, microbatch_tokens):
        logprobs_B = ranked_logprobs(policy, part).sum_B
        for prompt, found_K in zip(part, _by_prompt(logprobs_B, part), strict=True):
            prompt.ref_logprobs_K = found_K


def log_ratio(logprobs: AnswerLogprobs, prompts: Sequence[RankedPrompt]) -> Tensor:
    """log pi - log ref of each answer, nats: the score of DPO and IPO. Call `remember_reference` before training."""
    return logprobs.sum_B - torch.cat([_reference(prompt) for prompt in prompts])


def mean_logprob(logprobs: AnswerLogprobs, prompts: Sequence[RankedPrompt]) -> Tensor:
    """Nats per token of each answer: the score of SimPO."""
    return logprobs.mean_B


@torch.no_grad()
def implicit_rewards(
    policy: Decoder, prompts: Sequence[RankedPrompt], score: AnswerScore, *, microbatch_tokens: int
) -> list[tuple[RankedPrompt, Tensor]]:
    """Each prompt with the scores of its answers, [K]."""
    found: list[tuple[RankedPrompt, Tensor]] = []
    for part in prompt_microbatches(prompts, microbatch_tokens):
        scores_B = score(ranked_logprobs(policy, part), part)
        found += zip(part, _by_prompt(scores_B, part), strict=True)
    return found


def pair_gradients(
    policy: Decoder,
    batch: Sequence[RankedPrompt],
    *,
    score: AnswerScore,
    score_name: str,
    pair_loss: Callable[[Tensor], Tensor],
    pair_coef: float = 1.0,
    chosen_nll_coef: float = 0.0,
    microbatch_tokens: int,
) -> dict[str, float]:
    """Add the gradient of the loss of a batch, a mean over its prompts; this rank does its share of them.

    loss of a prompt = pair_coef x the mean of `pair_loss` over its pairs (ties left out, votes weigh 1 together)
        + chosen_nll_coef x the negative log-likelihood per token of the answers that a vote ranks first.

    Args:
        batch: all ranks' prompts.
        score_name: what the score is called in metrics.
        pair_loss: of the difference of two scores, better less worse; elementwise.

    Returns: means over all ranks' prompts (`loss`, `loss/chosen_nll`) and pairs (the rest), as they were before the
        step.
    """
    mine = [batch[i] for i in distributed.local_rows(len(batch))]
    totals = torch.zeros(7, dtype=torch.float64)
    for part in prompt_microbatches(mine, microbatch_tokens):
        logprobs = ranked_logprobs(policy, part)
        score_B = score(logprobs, part)
        rows_PK, ranks_PK, weights_P = (tensor.to(policy.device) for tensor in vote_tensors(part))
        pairs, _ = ranking_loss(score_B[rows_PK], ranks_PK, weights_P, pair_loss=pair_loss)
        loss, nll = pair_coef * pairs, torch.zeros((), device=policy.device)
        if chosen_nll_coef:
            nll = first_ranked_mean(-logprobs.mean_B[rows_PK], ranks_PK, weights_P)
            loss = loss + chosen_nll_coef * nll
        (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
        totals[:2] += torch.stack([loss, nll]).detach().double().cpu()
        totals[2:] += _pair_sums(score_B.detach().double().cpu(), part)
    loss_sum, nll_sum, count, right, chosen, rejected, margin = distributed.all_reduce_sum(totals).tolist()
    count = max(count, 1.0)
    metrics = {
        "loss": loss_sum / len(batch),
        "accuracy": right / count,
        "objective/margin": margin / count,
        f"objective/chosen_{score_name}": chosen / count,
        f"objective/rejected_{score_name}": rejected / count,
        "pairs": count,
        "prompts": len(batch),
    }
    return metrics | ({"loss/chosen_nll": nll_sum / len(batch)} if chosen_nll_coef else {})


def _pair_sums(score_B: Tensor, prompts: Sequence[RankedPrompt]) -> Tensor:
    """Sums over all pairs of all votes: 1, right (equal scores count as half), better score, worse score, margin."""
    better, worse = pair_rows(prompts)
    chosen, rejected = score_B[better], score_B[worse]
    margin = chosen - rejected
    return torch.stack(
        [
            torch.tensor(float(len(better))).double(),
            order_credit(margin).sum(),
            chosen.sum(),
            rejected.sum(),
            margin.sum(),
        ]
    )


def _by_prompt(values_B: Tensor, prompts: Sequence[RankedPrompt]) -> tuple[Tensor, ...]:
    return torch.split(values_B, [len(prompt.sequences) for prompt in prompts])


def _reference(prompt: RankedPrompt) -> Tensor:
    assert prompt.ref_logprobs_K is not None, "remember_reference() comes first"
    return prompt.ref_logprobs_K
