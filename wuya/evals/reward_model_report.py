"""How good a reward model is on rankings it has not seen: accuracy, agreement and ceiling, calibration, length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wuya.console import table
from wuya.data.messages import prompt_key
from wuya.evals.bootstrap import Interval, sums_interval
from wuya.evals.calibration import Calibration, PairVote, calibrate, correlation
from wuya.feedback.agreement import agreement_ceiling, agreement_counts, ceiling_of, pairwise_agreement
from wuya.losses.preference import order_credit
from wuya.models.reward_model import ScalarModel
from wuya.records import Ranking
from wuya.rlhf.ranked_prompts import RankedPrompt
from wuya.rlhf.rewards import score_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelReport:
    """Figures of one reward model on one set of rankings."""

    num_prompts: int
    num_votes: int
    """Single opinions on pairs, ties left out."""
    calibration: Calibration
    accuracy_by_labeler: dict[str, float]
    agreement: float
    """Share of the same pairs that two labelers order alike; NaN where nobody ranked a prompt twice."""
    ceiling: float
    """Best possible accuracy on a single vote at that agreement, for independent noise; NaN if unknown."""
    accuracy_less_agreement: Interval | None
    """Accuracy less agreement on the same prompts, resampled together: at 0 the model is as good as one labeler."""
    accuracy_less_ceiling: Interval | None
    """Accuracy less the ceiling, resampled together: above 0 the model has seen the answers."""
    length_correlation: float
    """Pearson correlation of score and length, both less their prompt's mean."""
    vote_length_correlation: float
    """The same of the labelers' own wins, so that one sees what the model adds."""
    scores: list[dict[str, object]]
    """One row an answer: prompt_id, text, score."""

    def to_dict(self) -> dict[str, object]:
        """For JSON; without the scores, which fill a file of their own."""
        return {
            "num_prompts": self.num_prompts,
            "num_votes": self.num_votes,
            **self.calibration.to_dict(),
            "accuracy_by_labeler": self.accuracy_by_labeler,
            "agreement": self.agreement,
            "ceiling": self.ceiling,
            "accuracy_less_agreement": _dict(self.accuracy_less_agreement),
            "accuracy_less_ceiling": _dict(self.accuracy_less_ceiling),
            "length_correlation": self.length_correlation,
            "vote_length_correlation": self.vote_length_correlation,
        }

    def table(self, title: str) -> str:
        """For the terminal."""
        row = {
            "prompts": self.num_prompts,
            "votes": self.num_votes,
            "accuracy": str(self.calibration.accuracy),
            "agreement": f"{self.agreement:.3f}",
            "ceiling": f"{self.ceiling:.3f}",
            "ECE": f"{self.calibration.ece:.3f}",
            "Brier": f"{self.calibration.brier:.3f}",
            "length r": f"{self.length_correlation:+.2f}",
        }
        return table([row], title=title)


def judge_reward_model(
    model: ScalarModel,
    prompts: Sequence[RankedPrompt],
    rankings: Sequence[Ranking],
    *,
    microbatch_tokens: int = 8192,
    seed: int = 0,
) -> RewardModelReport:
    """Score every answer once and compare with every vote.

    Args:
        prompts: batch elements made of `rankings`, of prompts the model was not trained on.
        seed: of the bootstrap over prompts.
    """
    places = [(prompt.prompt_length, sequence) for prompt in prompts for sequence in prompt.sequences]
    scores_B = score_answers(
        model, [sequence[:start] for start, sequence in places], [sequence[start:] for start, sequence in places],
        max_length=model.trunk.config.context_length, microbatch_tokens=microbatch_tokens,
    )  # fmt: skip
    flat = iter(scores_B.tolist())
    scores = [[next(flat) for _ in prompt.sequences] for prompt in prompts]
    votes: list[PairVote] = []
    by_labeler: dict[str, list[float]] = {}
    wins = [[0.0] * len(prompt.sequences) for prompt in prompts]
    for prompt, own, won in zip(prompts, scores, wins, strict=True):
        for vote in prompt.votes:
            for better, worse in vote.pairs:
                votes.append(PairVote(prompt_key(prompt.prompt), own[better], own[worse]))
                by_labeler.setdefault(vote.labeler, []).append(own[better] - own[worse])
                won[better] += 1
                won[worse] -= 1
    lengths = [[float(len(sequence)) for sequence in prompt.sequences] for prompt in prompts]
    agreement = pairwise_agreement(rankings).mean
    return RewardModelReport(
        num_prompts=len(prompts),
        num_votes=len(votes),
        calibration=calibrate(votes, seed=seed),
        accuracy_by_labeler={
            name: float(order_credit(torch.tensor(margins)).mean()) for name, margins in sorted(by_labeler.items())
        },
        agreement=agreement,
        ceiling=agreement_ceiling(agreement) if 0.5 <= agreement <= 1 else float("nan"),
        accuracy_less_agreement=beside_agreement(votes, rankings, ceiling=False, seed=seed),
        accuracy_less_ceiling=beside_agreement(votes, rankings, ceiling=True, seed=seed),
        length_correlation=correlation(_centred(lengths), _centred(scores)),
        vote_length_correlation=correlation(_centred(lengths), _centred(wins)),
        scores=[
            {"prompt_id": prompt.prompt.id, "text": candidate.text, "score": score}
            for prompt, own in zip(prompts, scores, strict=True)
            for candidate, score in zip(prompt.candidates, own, strict=True)
        ],
    )


def beside_agreement(
    votes: Sequence[PairVote], rankings: Sequence[Ranking], *, ceiling: bool, seed: int
) -> Interval | None:
    """Accuracy on `votes` less the labelers' agreement on the same prompts (or its ceiling), resampled by prompt.

    Returns: None where no two labelers ranked the same answers, so that there is no agreement to compare with.
    """
    rows: dict[str, list[float]] = {}
    credits = order_credit(torch.tensor([vote.margin for vote in votes])).tolist()
    for vote, credit in zip(votes, credits, strict=True):
        row = rows.setdefault(vote.unit, [0.0] * 4)
        row[0] += credit
        row[1] += 1
    for (unit, _), (agreed, counted) in agreement_counts(rankings).items():
        row = rows.setdefault(unit, [0.0] * 4)
        row[2] += agreed
        row[3] += counted
    columns = np.array(list(rows.values())).T
    if not columns[1].sum() or not columns[3].sum():
        return None

    def difference(sums_SC: NDArray[np.float64]) -> NDArray[np.float64]:
        accuracy_S, agreement_S = (sums_SC[:, i] / np.maximum(sums_SC[:, i + 1], 1e-12) for i in (0, 2))
        return accuracy_S - (ceiling_of(agreement_S) if ceiling else agreement_S)

    return sums_interval(list(columns), difference, seed=seed)


def _dict(interval: Interval | None) -> dict[str, float | int] | None:
    return None if interval is None else interval.to_dict()


def _centred(groups: Sequence[Sequence[float]]) -> list[float]:
    """All values, each less its group's mean."""
    return [value - sum(group) / len(group) for group in groups for value in group]
