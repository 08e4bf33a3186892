"""Helpfulness as InstructGPT measures it: how often labelers prefer one model's answer to another's.

One answer a prompt at temperature 1, a tie counts half, intervals resample prompts (arXiv:2203.02155, section 4.1).
"""

from collections.abc import Callable, Sequence

from wuya.evals.bootstrap import Interval, mean_interval
from wuya.records import Candidate, Prompt

Judge = Callable[[Prompt, Candidate, Candidate], float]
"""(prompt, a, b) -> 1.0 if a is better, 0.0 if b is, 0.5 for a tie."""


def win_rate(
    prompts: Sequence[Prompt], answers: Sequence[Candidate], others: Sequence[Candidate], judges: Sequence[Judge]
) -> Interval:
    """Share of votes for `answers` over `others`: the mean over judges for each prompt, then over prompts.

    Raises: ValueError when the three sequences differ in length or there is no judge.
    """
    if not judges:
        raise ValueError("a win rate needs at least one judge")
    votes = [
        sum(judge(prompt, answer, other) for judge in judges) / len(judges)
        for prompt, answer, other in zip(prompts, answers, others, strict=True)
    ]
    return mean_interval(votes)
