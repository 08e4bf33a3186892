from wuya.training.ranked_prompts import Vote


def test_nine_answers_have_36_pairs_and_a_batch_of_64_prompts_2304() -> None:
    vote = Vote(rows=tuple(range(9)), ranks=(3, 1, 2, 9, 8, 7, 4, 5, 6), labeler="a")
    assert len(vote.pairs) == 36 and 64 * len(vote.pairs) == 2304
    assert all(vote.ranks[better] < vote.ranks[worse] for better, worse in vote.pairs)


def test_ties_make_no_pair() -> None:
    assert Vote(rows=(0, 1, 2), ranks=(1, 1, 2), labeler="a").pairs == [(0, 2), (1, 2)]
