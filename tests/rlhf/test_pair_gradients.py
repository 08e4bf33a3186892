"""Gradients of preference losses against the same losses written out, an answer and a pair at a time."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.inference.naive import sharp_model
from tests.recipes.processes import two_ranks
from wuya.errors import DataError
from wuya.losses.direct import dpo_loss, log_odds, odds_ratio_loss, simpo_loss
from wuya.losses.preference import first_ranked_mean
from wuya.models.gpt import GPT
from wuya.records import Candidate, Message, Prompt
from wuya.rlhf.pair_gradients import log_ratio, mean_logprob, pair_gradients, remember_reference
from wuya.rlhf.ranked_prompts import RankedPrompt, Vote
from wuya.rlhf.rated_answers import (
    RatedAnswer,
    from_rankings,
    kto_gradients,
    match_with_other_prompts,
    reference_point,
)
from wuya.rlhf.rated_answers import remember_reference as remember_ratings
from wuya.training import distributed


def element(name: str, prompt: list[int], answers: list[list[int]], *votes: Vote) -> RankedPrompt:
    candidates = [Candidate(str(ids)) for ids in answers]
    sequences = [prompt + ids for ids in answers]
    return RankedPrompt(Prompt(name, (Message("user", name),)), candidates, sequences, list(votes), len(prompt))


def ranked() -> list[RankedPrompt]:
    """A pair; three answers with a tie at the top; two votes that disagree, one of half the weight."""
    return [
        element("a", [3, 4, 5], [[7, 8], [9]], Vote((0, 1), (1, 2), "ann")),
        element("b", [6], [[7], [8, 9, 10], [11, 3]], Vote((0, 1, 2), (1, 1, 2), "ann")),
        element("c", [5, 4], [[7, 7], [12]], Vote((0, 1), (1, 2), "ann"), Vote((0, 1), (2, 1), "bob", 0.5)),
    ]


def logprob(model: GPT, prompt: tuple[int, ...] | list[int], answer: tuple[int, ...] | list[int]) -> Tensor:
    """log pi(answer | prompt) by one plain forward pass."""
    ids = torch.tensor([[*prompt, *answer]])
    logprobs = model.logits(model(ids[:, :-1])).log_softmax(-1)[0]
    return sum((logprobs[len(prompt) + i - 1, token] for i, token in enumerate(answer)), torch.zeros(()))


def gradient(model: GPT) -> Tensor:
    found = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )
    model.zero_grad()
    return found.clone()


def written_out(
    model: GPT, prompts: list[RankedPrompt], score: Callable[[Tensor, int, Tensor], Tensor],
    pair_loss: Callable[[Tensor], Tensor], *, pair_coef: float, nll_coef: float,
) -> Tensor:  # fmt: skip
    """The loss by its definition: prompts, votes, pairs, answers one by one."""
    total = torch.zeros(())
    for prompt in prompts:
        start, sequences = prompt.prompt_length, prompt.sequences
        logprobs = [logprob(model, ids[:start], ids[start:]) for ids in sequences]
        refs = prompt.ref_logprobs_K if prompt.ref_logprobs_K is not None else torch.zeros(len(sequences))
        scores = [score(lp, len(ids) - start, ref) for lp, ids, ref in zip(logprobs, sequences, refs, strict=True)]
        votes_weigh = max(1.0, sum(vote.weight for vote in prompt.votes))
        for vote in prompt.votes:
            pairs = [pair_loss(scores[a] - scores[b]) for a, b in vote.pairs]
            best = [row for row, rank in zip(vote.rows, vote.ranks, strict=True) if rank == 1]
            nll = sum(-logprobs[row] / (len(sequences[row]) - start) for row in best) / len(best)
            total = total + vote.weight / votes_weigh * (pair_coef * sum(pairs) / len(pairs) + nll_coef * nll)
    return total / len(prompts)


METHODS: dict[str, tuple[Any, Any, Any, float, float]] = {
    "dpo": (log_ratio, lambda lp, n, ref: lp - ref, partial(dpo_loss, beta=0.5, label_smoothing=0.1), 1.0, 0.2),
    "simpo": (mean_logprob, lambda lp, n, ref: lp / n, partial(simpo_loss, beta=2.0, target_margin=0.5), 1.0, 0.0),
    "orpo": (lambda lp, prompts: log_odds(lp.mean_B), lambda lp, n, ref: log_odds(lp / n), odds_ratio_loss, 0.3, 1.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("microbatch_tokens", [8, 1000])
def test_gradients_are_those_of_the_definition(method: str, microbatch_tokens: int) -> None:
    score, naive_score, pair_loss, pair_coef, nll_coef = METHODS[method]
    model, prompts = sharp_model(seed=1), ranked()
    remember_reference(sharp_model(seed=2), prompts, microbatch_tokens=1000)
    model.zero_grad()
    wanted = written_out(model, prompts, naive_score, pair_loss, pair_coef=pair_coef, nll_coef=nll_coef)
    wanted.backward()
    wanted_gradient = gradient(model)
    metrics = pair_gradients(
        model, prompts, score=score, score_name="x", pair_loss=pair_loss, pair_coef=pair_coef,
        chosen_nll_coef=nll_coef, microbatch_tokens=microbatch_tokens,
    )  # fmt: skip
    assert metrics["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    torch.testing.assert_close(gradient(model), wanted_gradient, rtol=1e-3, atol=1e-5)
    assert metrics["pairs"] == 5 and metrics["prompts"] == 3


def test_equal_scores_are_half_right() -> None:
    """At the first step of DPO every log-ratio is 0; counting them as wrong made the curve start at 0."""
    model, prompts = sharp_model(), ranked()
    for prompt in prompts:
        prompt.ref_logprobs_K = torch.zeros(len(prompt.sequences))
    metrics = pair_gradients(
        model, prompts, score=lambda lp, _: 0.0 * lp.sum_B, score_name="x",
        pair_loss=partial(dpo_loss, beta=0.1), microbatch_tokens=100,
    )  # fmt: skip
    assert metrics["accuracy"] == 0.5 and metrics["loss"] == pytest.approx(math.log(2) * (1 + 1 + 1) / 3)


def test_first_ranked_mean_by_hand() -> None:
    values_PK, ranks_PK = torch.tensor([[1.0, 3.0, 9.0], [5.0, 2.0, 7.0]]), torch.tensor([[1, 1, 2], [2, 1, 0]])
    assert float(first_ranked_mean(values_PK, ranks_PK, torch.tensor([1.0, 0.5]))) == 2.0 + 0.5 * 2.0


def test_a_ranking_taken_apart_weighs_one_a_prompt_and_side() -> None:
    """Ranks 1, 2, 3 make three pairs: the best wins two, the middle one wins and loses one."""
    [three, pair] = [
        element("b", [6], [[7], [8], [9]], Vote((0, 1, 2), (1, 2, 3), "ann")),
        element("c", [5], [[7], [8]], Vote((0, 1), (1, 2), "ann"), Vote((0, 1), (2, 1), "bob")),
    ]
    found = {(a.prompt, a.answer, a.desirable): a.weight for a in from_rankings([three, pair])}
    of_three = {key[1:]: weight for key, weight in found.items() if key[0] == (6,)}
    assert of_three == pytest.approx(
        {((7,), True): 2 / 3, ((8,), True): 1 / 3, ((8,), False): 1 / 3, ((9,), False): 2 / 3}
    )
    assert {weight for key, weight in found.items() if key[0] == (5,)} == {0.5}  # the votes disagree


def rated() -> list[RatedAnswer]:
    answers = [
        RatedAnswer((3, 4), (7, 8), True), RatedAnswer((3, 4), (9,), False, 0.5), RatedAnswer((5,), (7, 8, 9), False),
        RatedAnswer((6, 6), (10,), True, 2.0),
    ]  # fmt: skip
    match_with_other_prompts(answers, max_length=16, seed=0)
    return answers


def kto(model: GPT, answers: list[RatedAnswer], microbatch_tokens: int = 1000) -> dict[str, float]:
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    return kto_gradients(model, answers, beta=0.3, **weights, microbatch_tokens=microbatch_tokens)


def test_mismatched_answers_belong_to_other_prompts_and_fit() -> None:
    answers = rated()
    for own in answers:
        owners = [other for other in answers if other.answer == own.mismatched]
        assert owners and all(other.prompt != own.prompt for other in owners)
    match_with_other_prompts(answers, max_length=3, seed=0)
    assert all(len(own.prompt) + len(own.mismatched) <= 3 for own in answers)
    with pytest.raises(DataError, match="two prompts"):
        match_with_other_prompts(answers[:2], max_length=16, seed=0)


@pytest.mark.parametrize("microbatch_tokens", [8, 1000])
def test_kto_is_its_definition_written_out(microbatch_tokens: int) -> None:
    model, reference, answers = sharp_model(seed=1), sharp_model(seed=2), rated()
    remember_ratings(reference, answers, microbatch_tokens=microbatch_tokens)
    with torch.no_grad():
        shifted = [logprob(model, a.prompt, a.mismatched) - logprob(reference, a.prompt, a.mismatched) for a in answers]
    z_0 = max(0.0, sum(float(x) for x in shifted) / 4)
    wanted = torch.zeros(())
    for own in answers:
        h = logprob(model, own.prompt, own.answer) - logprob(reference, own.prompt, own.answer).detach()
        value = 1.5 * F.sigmoid(0.3 * (h - z_0)) if own.desirable else 0.5 * F.sigmoid(0.3 * (z_0 - h))
        wanted = wanted + own.weight * ((1.5 if own.desirable else 0.5) - value) / 4.5
    model.zero_grad()
    wanted.backward()
    wanted_gradient = gradient(model)
    metrics = kto(model, answers, microbatch_tokens)
    assert metrics["objective/reference_point"] == pytest.approx(z_0, abs=1e-4)
    assert metrics["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    torch.testing.assert_close(gradient(model), wanted_gradient, rtol=1e-3, atol=1e-5)
    assert metrics["desirable"] == metrics["undesirable"] == 2


def test_kto_starts_at_a_reference_point_of_zero_and_half_of_each_weight() -> None:
    model, answers = sharp_model(seed=1), rated()
    remember_ratings(model, answers, microbatch_tokens=1000)
    assert float(reference_point(model, answers, microbatch_tokens=1000)) < 1e-5
    assert kto(model, answers)["loss"] == pytest.approx((1.5 * 3 + 0.5 * 1.5) / 2 / 4.5, abs=1e-5)


def both_gradients() -> dict[str, Any]:
    """One step's metrics and gradient of SimPO with an SFT share, and of KTO, on this rank's share."""
    found: dict[str, Any] = {}
    model, answers = sharp_model(seed=1), rated()
    remember_ratings(sharp_model(seed=2), answers, microbatch_tokens=1000)
    for name, step in {
        "kto": lambda: kto(model, answers),
        "pairs": lambda: pair_gradients(
            model, ranked(), score=mean_logprob, score_name="x", chosen_nll_coef=0.5, microbatch_tokens=1000,
            pair_loss=partial(simpo_loss, beta=2.0, target_margin=0.5),
        ),
    }.items():  # fmt: skip
        metrics = step()
        distributed.reduce_gradients(model.parameters())
        found[name] = {"metrics": metrics, "gradient": gradient(model)}
    return found


def test_two_processes_have_the_gradient_and_metrics_of_one(tmp_path: Path) -> None:

    def work(rank: int) -> None:
        distributed.init("cpu")
        torch.save(both_gradients(), tmp_path / f"{rank}.pt")
        distributed.shutdown()

    assert two_ranks(work) == [0, 0]
    alone = both_gradients()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=1e-4, atol=1e-5)
