"""Answers judged one by one, for KTO: from ratings or from rankings, each beside an answer to another prompt.

Dimension key: B answers.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wuya.console import warn
from wuya.data.ratings import holds_ratings, read_ratings
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.losses.direct import kto_loss, kto_reference_point
from wuya.models.decoder import Decoder
from wuya.rlhf.answer_rows import answer_rows
from wuya.rlhf.pair_gradients import answer_logprobs
from wuya.rlhf.ranked_prompts import RankedPrompt, completion_ids, load_ranked_prompts, vote_tensors
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_rating, encode_prompt
from wuya.training import distributed

Ids = tuple[int, ...]


@dataclass(slots=True)
class RatedAnswer:
    """One batch element of KTO."""

    prompt: Ids
    answer: Ids
    """End token included, if there was one."""
    desirable: bool
    weight: float = 1.0
    mismatched: Ids = ()
    """The answer to another prompt: its log-ratio after *this* prompt is part of the reference point."""
    ref_logprob: float = 0.0
    """nats, of `answer` under the reference."""
    mismatched_ref_logprob: float = 0.0
    """nats, of `mismatched` after this prompt under the reference."""


def load_rated_answers(path: Path, tokenizer: Tokenizer, *, max_length: int, seed: int) -> list[RatedAnswer]:
    """The elements of a file of ratings, rankings or pairs; what cannot be used is counted and named."""
    if holds_ratings(path):
        answers = _from_ratings(path, tokenizer, max_length=max_length)
    else:
        answers = from_rankings(load_ranked_prompts(path, tokenizer, max_length=max_length)[0])
    if not any(answer.desirable for answer in answers) or all(answer.desirable for answer in answers):
        raise DataError(
            f"`{path}` needs liked and disliked answers",
            found=f"{sum(a.desirable for a in answers)} liked of {len(answers)}",
            hint="learn from liked answers alone with `wuya sft`",
        )
    match_with_other_prompts(answers, max_length=max_length, seed=seed)
    return answers


def from_rankings(prompts: Sequence[RankedPrompt]) -> list[RatedAnswer]:
    """Every pair taken apart, as the paper does for K = 2: its better answer is desirable, its worse one is not.

    An answer in the middle of a ranking becomes one element of each kind, weighed by the pairs it wins and loses. The
    pairs of a prompt weigh 1 together, however many answers and votes there are.
    """
    answers = []
    for prompt in prompts:
        weights: defaultdict[tuple[int, bool], float] = defaultdict(float)
        for vote, weight in zip(prompt.votes, vote_tensors([prompt])[2].tolist(), strict=True):
            for better, worse in vote.pairs:
                weights[better, True] += weight / len(vote.pairs)
                weights[worse, False] += weight / len(vote.pairs)
        for (row, desirable), weight in sorted(weights.items()):
            ids = prompt.sequences[row]
            start = prompt.prompt_length
            answers.append(RatedAnswer(tuple(ids[:start]), tuple(ids[start:]), desirable, weight))
    return answers


def _from_ratings(path: Path, tokenizer: Tokenizer, *, max_length: int) -> list[RatedAnswer]:
    bad, answers, too_long = BadRows(), [], 0
    for rating in read_ratings(path, bad, partial(check_rating, tokenizer)):
        prompt = tuple(encode_prompt(tokenizer, rating.prompt))
        answer = tuple(completion_ids(rating.candidate, tokenizer, rating.prompt))
        if len(prompt) + len(answer) > max_length:
            too_long += 1
            continue
        answers.append(RatedAnswer(prompt, answer, rating.desirable, rating.weight))
    if bad.count:
        warn(bad.summary())
    if too_long:
        warn(f"`{path}`: {too_long} answers are longer than {max_length} tokens and left out")
    if not answers:
        raise DataError(f"`{path}` has no rated answer to learn from", found=bad.summary() or "no row that fits")
    return answers


def match_with_other_prompts(answers: Sequence[RatedAnswer], *, max_length: int, seed: int) -> None:
    """Give each element the answer of the next one, in a seeded order, that has another prompt and fits behind its own.

    The matches are fixed for the run, so that the reference's log-probs of them are computed once.
    """
    if len({answer.prompt for answer in answers}) < 2:
        raise DataError("KTO needs answers to at least two prompts", hint="its KL estimate mixes prompts and answers")
    order = np.random.default_rng([seed, len(answers)]).permutation(len(answers)).tolist()
    for place, own in enumerate(order):
        element = answers[own]
        others = (answers[order[(place + step) % len(order)]] for step in range(1, len(order)))
        strangers = (other.answer for other in others if other.prompt != element.prompt)
        room = max_length - len(element.prompt)
        first = next(strangers)
        fits = first if len(first) <= room else next((ids for ids in strangers if len(ids) <= room), first[:room])
        element.mismatched = fits


@torch.no_grad()
def remember_reference(policy: Decoder, answers: Sequence[RatedAnswer], *, microbatch_tokens: int) -> None:
    """Keep the log-probs of each answer and its mismatched one under the policy of this moment, the reference."""
    for name, ids in (("ref_logprob", "answer"), ("mismatched_ref_logprob", "mismatched")):
        for index_B, logprobs_B in _logprobs(policy, answers, ids, microbatch_tokens):
            for index, logprob in zip(index_B.tolist(), logprobs_B.tolist(), strict=True):
                setattr(answers[index], name, logprob)


def kto_gradients(
    policy: Decoder,
    batch: Sequence[RatedAnswer],
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
    microbatch_tokens: int,
) -> dict[str, float]:
    """Add the gradient of KTO's loss, the weighted mean over the batch's answers; this rank does its share of them.

    Returns: means over all ranks' answers, as they were before the step.
    """
    mine = [batch[i] for i in distributed.local_rows(len(batch))]
    kl = reference_point(policy, mine, microbatch_tokens=microbatch_tokens)
    total_weight = sum(answer.weight for answer in batch)
    totals = torch.zeros(6, dtype=torch.float64)
    for index_B, logprobs_B in _logprobs(policy, mine, "answer", microbatch_tokens):
        part = [mine[index] for index in index_B.tolist()]
        ref_B, weight_B = _column(part, "ref_logprob", policy), _column(part, "weight", policy)
        desirable_B = torch.tensor([answer.desirable for answer in part], device=policy.device)
        log_ratio_B = logprobs_B - ref_B
        loss_B = kto_loss(log_ratio_B, desirable_B, kl, beta=beta, desirable_weight=desirable_weight,
                          undesirable_weight=undesirable_weight)  # fmt: skip
        loss = (weight_B * loss_B).sum() / total_weight
        loss.backward()  # type: ignore[no-untyped-call]
        totals += _sums(loss.detach(), log_ratio_B.detach(), desirable_B, kl)
    loss_sum, right, liked, liked_ratio, disliked, disliked_ratio = distributed.all_reduce_sum(totals).tolist()
    liked_ratio, disliked_ratio = liked_ratio / max(liked, 1), disliked_ratio / max(disliked, 1)
    return {
        "loss": loss_sum,
        "accuracy": right / (liked + disliked),
        "objective/reference_point": float(kl),
        "objective/margin": liked_ratio - disliked_ratio,
        "objective/desirable_logratio": liked_ratio,
        "objective/undesirable_logratio": disliked_ratio,
        "desirable": liked,
        "undesirable": disliked,
    }


@torch.no_grad()
def reference_point(policy: Decoder, answers: Sequence[RatedAnswer], *, microbatch_tokens: int) -> Tensor:
    """KTO's z_0 over the elements of all ranks; `answers` are this rank's."""
    found: list[float] = []
    for index_B, logprobs_B in _logprobs(policy, answers, "mismatched", microbatch_tokens):
        part = [answers[index] for index in index_B.tolist()]
        found += (logprobs_B - _column(part, "mismatched_ref_logprob", policy)).tolist()
    shared = [value for rank in distributed.gather(found) for value in rank]  # type: ignore[attr-defined]
    return kto_reference_point(torch.tensor(shared, device=policy.device))


def _logprobs(
    policy: Decoder, answers: Sequence[RatedAnswer], name: str, microbatch_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(which answers, log-probs [B] of their `name`) part by part; a prompt is read once for its answers in a part."""
    if not answers:  # a rank without a share of a small batch
        return
    parts = answer_rows(
        [answer.prompt for answer in answers],
        [getattr(answer, name) for answer in answers],
        max_length=policy.config.context_length,
        max_tokens=microbatch_tokens,
    )
    for rows in parts:
        yield rows.answer_B, answer_logprobs(policy, rows)


def _sums(loss: Tensor, log_ratio_B: Tensor, desirable_B: Tensor, kl: Tensor) -> Tensor:
    """Loss; answers on their side of the reference point; count and log-ratio of the liked, of the disliked."""
    above_B = log_ratio_B - kl
    right = torch.where(desirable_B, above_B > 0, above_B < 0).sum() + 0.5 * (above_B == 0).sum()
    liked_B = desirable_B.double()
    found = [loss, right, liked_B.sum(), (log_ratio_B * liked_B).sum(),
             (1 - liked_B).sum(), (log_ratio_B * (1 - liked_B)).sum()]  # fmt: skip
    return torch.stack([value.double() for value in found]).cpu()


def _column(answers: Sequence[RatedAnswer], name: str, policy: Decoder) -> Tensor:
    return torch.tensor([getattr(answer, name) for answer in answers], device=policy.device)
