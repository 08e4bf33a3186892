"""Ids never decide who agrees with whom: prompts are matched by their text, and nobody's votes are nobody's."""

from dataclasses import replace

from tests.feedback.examples import ranking
from wuya.feedback.agreement import pairwise_agreement
from wuya.feedback.agreement_report import agreement_report, raw_of
from wuya.feedback.identity import named_apart
from wuya.feedback.pair_votes import PairVotes


def test_two_labelers_of_one_prompt_are_compared_whatever_ids_their_rows_have() -> None:
    one = ranking("row 1", "ann", (1, 2, 3))
    same = replace(one, labeler="bob", prompt=replace(one.prompt, id="row 2"))
    other = ranking("row 1", "bob", (3, 2, 1))  # an id that is another prompt's in this file
    other = replace(other, prompt=replace(other.prompt, messages=other.prompt.messages[1:]))
    assert pairwise_agreement([one, same, other]).mean == 1.0
    agree, both = PairVotes.of([one, same, other]).counts_ULL()
    assert agree.sum() == both.sum() == 6.0  # three pairs, seen from both sides


def test_unnamed_votes_disagree_instead_of_replacing_each_other() -> None:
    votes = [ranking("p", "", ranks) for ranks in ((1, 2), (2, 1), (1, 2))]
    assert [vote.labeler for vote in named_apart(votes)] == ["", "unnamed 2", "unnamed 3"]
    report = agreement_report([raw_of(vote) for vote in votes], num_samples=20)
    assert len(report.labelers) == 3 and round(report.pairwise.mean, 3) == 0.333
    named = [ranking("p", "ann", (1, 2)), ranking("q", "", (1, 2)), ranking("q", "bob", (1, 2))]
    assert list(named_apart(named)) == named
