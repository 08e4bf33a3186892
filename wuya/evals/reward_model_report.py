"""How good a reward model is on rankings it has not seen: accuracy, agreement and ceiling, calibration, length."""

from collections.abc import Sequence
from dataclasses import dataclass

from wuya.console import table
from wuya.evals.calibration import Calibration, PairVote, calibrate, correlation
from wuya.feedback.agreement import agreement_ceiling, pairwise_agreement
from wuya.inference.rewards import score_answers
from wuya.models.reward_model import ScalarModel
from wuya.records import Ranking
from wuya.training.ranked_prompts import RankedPrompt


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
                votes.append(PairVote(prompt.prompt.id, own[better], own[worse]))
                by_labeler.setdefault(vote.labeler, []).append(float(own[better] > own[worse]))
                won[better] += 1
                won[worse] -= 1
    lengths = [[float(len(sequence)) for sequence in prompt.sequences] for prompt in prompts]
    agreement = pairwise_agreement(rankings).mean
    return RewardModelReport(
        num_prompts=len(prompts),
        num_votes=len(votes),
        calibration=calibrate(votes, seed=seed),
        accuracy_by_labeler={name: sum(right) / len(right) for name, right in sorted(by_labeler.items())},
        agreement=agreement,
        ceiling=agreement_ceiling(agreement) if 0.5 <= agreement <= 1 else float("nan"),
        length_correlation=correlation(_centred(lengths), _centred(scores)),
        vote_length_correlation=correlation(_centred(lengths), _centred(wins)),
        scores=[
            {"prompt_id": prompt.prompt.id, "text": candidate.text, "score": score}
            for prompt, own in zip(prompts, scores, strict=True)
            for candidate, score in zip(prompt.candidates, own, strict=True)
        ],
    )


def _centred(groups: Sequence[Sequence[float]]) -> list[float]:
    """All values, each less its group's mean."""
    return [value - sum(group) / len(group) for group in groups for value in group]
