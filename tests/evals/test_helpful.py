import pytest

from wuya.evals.helpful import length_split, win_rate
from wuya.records import Candidate, Message, Prompt

PROMPTS = [Prompt(str(i), (Message("user", f"question {i}"),)) for i in range(4)]


def longer(prompt: Prompt, a: Candidate, b: Candidate) -> float:
    return 0.5 if len(a.text) == len(b.text) else float(len(a.text) > len(b.text))


def test_votes_are_averaged_over_judges_then_prompts_and_ties_count_half() -> None:
    answers = [Candidate("long answer"), Candidate("long answer"), Candidate("x"), Candidate("same")]
    others = [Candidate("short"), Candidate("short"), Candidate("longer"), Candidate("same")]
    assert win_rate(PROMPTS, answers, others, [longer]).mean == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    against = win_rate(PROMPTS, answers, others, [longer, lambda p, a, b: 1 - longer(p, a, b)])
    assert against.mean == pytest.approx(0.5)


def test_swapping_the_two_sides_gives_the_complement() -> None:
    answers, others = [Candidate("aaa")] * 4, [Candidate("b"), Candidate("bbb"), Candidate("bbbb"), Candidate("b")]
    forward, backward = (win_rate(PROMPTS, *sides, [longer]).mean for sides in ((answers, others), (others, answers)))
    assert forward + backward == pytest.approx(1.0)


def test_missing_answers_and_judges_are_refused() -> None:
    with pytest.raises(ValueError):
        win_rate(PROMPTS, [Candidate("a")] * 3, [Candidate("b")] * 4, [longer])
    with pytest.raises(ValueError, match="judge"):
        win_rate(PROMPTS, [Candidate("a")] * 4, [Candidate("b")] * 4, [])


def test_votes_are_split_by_which_answer_is_longer() -> None:
    """A judge of length alone: all votes where the answer is longer, none elsewhere, half a vote at equal length."""
    answers = [Candidate("one two three"), Candidate("one two"), Candidate("one"), Candidate("one")]
    others = [Candidate("one"), Candidate("one"), Candidate("one two"), Candidate("two")]
    split = length_split([1.0, 1.0, 0.0, 0.5], answers, others)
    assert split.longer_share == 0.5 and split.mean_words == 1.75 and split.other_mean_words == 1.25
    assert split.preferred_when_longer is not None and split.preferred_when_longer.mean == 1.0
    assert split.preferred_when_not_longer is not None and split.preferred_when_not_longer.mean == 0.25
    assert length_split([1.0], answers[2:3], others[2:3]).preferred_when_longer is None
