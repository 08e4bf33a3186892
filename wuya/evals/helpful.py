"""Helpfulness as InstructGPT measures it: how often labelers prefer one model's answer to another's.

One answer per prompt at temperature 1, a tie counts half, intervals resample prompts (arXiv:2203.02155, section 4.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from wuya.evals.bootstrap import Interval, mean_interval
from wuya.records import Candidate, Prompt

Judge = Callable[[Prompt, Candidate, Candidate], float]
"""(prompt, a, b) -> 1.0 if a is better, 0.0 if b is, 0.5 for a tie."""


def votes_for(
    prompts: Sequence[Prompt], answers: Sequence[Candidate], others: Sequence[Candidate], judges: Sequence[Judge]
) -> list[float]:
    """Share of the judges' votes for `answers` over `others`, one per prompt.

    Raises: ValueError when the three sequences differ in length or there is no judge.
    """
    if not judges:
        raise ValueError("a win rate needs at least one judge")
    return [
        sum(judge(prompt, answer, other) for judge in judges) / len(judges)
        for prompt, answer, other in zip(prompts, answers, others, strict=True)
    ]


def win_rate(
    prompts: Sequence[Prompt], answers: Sequence[Candidate], others: Sequence[Candidate], judges: Sequence[Judge]
) -> Interval:
    """Share of votes for `answers` over `others`: the mean over judges for each prompt, then over prompts."""
    return mean_interval(votes_for(prompts, answers, others, judges))


@dataclass(frozen=True, slots=True)
class LengthSplit:
    """The same votes, apart for answers longer than the other model's: does it win by length alone?"""

    longer_share: float
    """Share of prompts whose answer has more words than the other's."""
    mean_words: float
    other_mean_words: float
    preferred_when_longer: Interval | None
    """None where no answer is longer."""
    preferred_when_not_longer: Interval | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def length_split(votes: Sequence[float], answers: Sequence[Candidate], others: Sequence[Candidate]) -> LengthSplit:
    """Split one comparison's votes by which answer has more words; equal lengths are not longer."""
    words = [(len(a.text.split()), len(b.text.split())) for a, b in zip(answers, others, strict=True)]
    longer = [vote for vote, (own, other) in zip(votes, words, strict=True) if own > other]
    rest = [vote for vote, (own, other) in zip(votes, words, strict=True) if own <= other]
    return LengthSplit(
        longer_share=len(longer) / len(votes),
        mean_words=sum(own for own, _ in words) / len(words),
        other_mean_words=sum(other for _, other in words) / len(words),
        preferred_when_longer=mean_interval(longer) if longer else None,
        preferred_when_not_longer=mean_interval(rest) if rest else None,
    )
