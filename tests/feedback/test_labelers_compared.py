"""Labelers side by side: matrix, skill, drift; on populations in which it is known who is who."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import krippendorff
import numpy as np
import pytest

from wuya.feedback.agreement import krippendorff_alpha, pairwise_agreement
from wuya.feedback.drift import drifts, iso_week, weekly_agreement
from wuya.feedback.pair_votes import PairVotes, agreement_matrix, each_with_the_others
from wuya.feedback.rankings import dense_ranks
from wuya.feedback.spammers import fit_skills, identified, labeler_skills, suspects
from wuya.records import Candidate, Message, Prompt, Ranking

START = datetime(2026, 1, 5, tzinfo=UTC)


def population(
    noise: dict[str, float], *, prompts: int = 150, k: int = 4, overlap: float = 1.0, tie: float = 0.2, seed: int = 0
) -> list[Ranking]:
    """Rankings by one common taste plus each labeler's noise; infinite noise is a spammer. One prompt an hour."""
    rng = np.random.default_rng(seed)
    rankings = []
    for n in range(prompts):
        truth_K = rng.normal(size=k)
        candidates = tuple(Candidate(f"answer {i}") for i in range(k))
        for who, std in noise.items():
            if rng.random() < overlap:
                seen_K = rng.normal(size=k) if math.isinf(std) else truth_K + std * rng.normal(size=k)
                ranks = dense_ranks(seen_K.tolist(), tie_threshold=tie)
                at = (START + timedelta(hours=8 * n)).isoformat()
                rankings.append(
                    Ranking(Prompt(f"p{n}", (Message("user", f"{n}?"),)), candidates, ranks, who, created_at=at)
                )
    return rankings


HONEST = {"ann": 0.6, "bob": 0.7, "cai": 0.8, "dee": 0.7}


def test_the_matrix_is_symmetric_and_its_weighted_mean_is_the_pairwise_agreement() -> None:
    rankings = population(HONEST, overlap=0.7)
    share_LL, both_LL = agreement_matrix(PairVotes.of(rankings))
    off = both_LL > 0
    np.testing.assert_array_equal(share_LL[off], share_LL.T[off])
    assert np.isnan(np.diag(share_LL)).all()
    overall = pairwise_agreement(rankings)
    assert float((share_LL * both_LL)[off].sum() / both_LL.sum()) == pytest.approx(overall.mean)
    assert both_LL.sum() / 2 == overall.num_pairs


def test_votes_with_missing_labels_give_the_alpha_of_the_reference_library() -> None:
    ratings_LN = PairVotes.of(population(HONEST, overlap=0.6, prompts=40)).ratings_LN()
    assert np.isnan(ratings_LN).any()
    for level in ("nominal", "ordinal"):
        expected = krippendorff.alpha(ratings_LN, level_of_measurement=level)
        assert krippendorff_alpha(ratings_LN, level=level) == pytest.approx(expected)


def test_each_labeler_is_compared_with_all_others_the_least_agreeing_first() -> None:
    rows = each_with_the_others(PairVotes.of(population({**HONEST, "noisy": 3.0})))
    assert rows[0].labeler == "noisy" and rows[0].with_others.high < rows[1].with_others.low
    assert 0 < rows[0].tie_share < 0.5


def test_skills_are_recovered_exactly_from_a_matrix_of_rank_one() -> None:
    skills_L = np.array([0.9, 0.6, 0.0, -0.4, 0.75])
    both_LL = 100 * (1 - np.eye(5))
    agree_LL = both_LL * (1 + np.outer(skills_L, skills_L)) / 2
    np.testing.assert_allclose(fit_skills(agree_LL, both_LL), skills_L, atol=1e-4)


def test_two_labelers_say_nothing_about_who_of_them_is_right() -> None:
    both_LL = 100 * (1 - np.eye(2))
    assert np.isnan(fit_skills(0.5 * both_LL, both_LL)).all()


def test_who_errs_in_a_pair_that_only_meets_each_other_is_not_guessed() -> None:
    """Four pairs, as fixed turns make them: one of each disagrees, and nothing says which."""
    both_LL = np.kron(np.eye(2), 100 * (1 - np.eye(2)))
    assert np.isnan(fit_skills(0.75 * both_LL, both_LL)).all()
    met_LL = np.zeros((8, 8), dtype=bool)
    for i, j in ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 6)):  # three who all meet; a chain of four; one alone
        met_LL[i, j] = met_LL[j, i] = True
    assert identified(met_LL).tolist() == [True] * 3 + [False] * 5
    met_LL[6, 2] = met_LL[2, 6] = True  # the chain joins them
    assert identified(met_LL).tolist() == [True] * 7 + [False]


@pytest.mark.parametrize("seed", range(3))
def test_a_spammer_is_found_and_an_honest_but_noisy_labeler_is_not(seed: int) -> None:
    rankings = population({**HONEST, "hasty": 1.3, "spammer": math.inf}, prompts=300, overlap=0.6, seed=seed)
    skills = labeler_skills(PairVotes.of(rankings), num_samples=60)
    assert suspects(skills) == ["spammer"] and skills[0].labeler == "spammer"
    assert abs(skills[0].skill) < 0.2 < 0.4 < skills[1].skill
    assert suspects(labeler_skills(PairVotes.of(population(HONEST, seed=seed)), num_samples=50)) == []


def test_nobody_is_suspected_on_a_handful_of_votes() -> None:
    rankings = population({**HONEST, "new": math.inf}, prompts=2, k=2)
    assert suspects(labeler_skills(PairVotes.of(rankings), num_samples=20)) == []


def test_a_labeler_who_stops_caring_is_seen_to_fall_and_the_others_are_not() -> None:
    careful = population(HONEST, prompts=300)
    careless = population({"dee": math.inf}, prompts=300, seed=9)
    changed = [
        next(c for c in careless if c.prompt.id == r.prompt.id)
        if r.labeler == "dee" and int(r.prompt.id[1:]) >= 225
        else r
        for r in careful
    ]
    rows = drifts(changed)
    assert rows[0].labeler == "dee" and rows[0].fell and rows[0].before - rows[0].after > 0.15
    assert not [row.labeler for row in drifts(careful) if row.fell]
    by_week = [row for row in weekly_agreement(changed) if row.labeler == "dee"]
    assert by_week[0].week == "2026-W02" and by_week[0].with_others.mean > by_week[-1].with_others.mean + 0.1


def test_votes_of_one_moment_have_no_before_and_are_never_sorted_by_what_they_say() -> None:
    rankings = population(HONEST, prompts=200)
    assert drifts([replace(ranking, created_at="2026-01-05T00:00:00+00:00") for ranking in rankings]) == []
    days = [replace(r, created_at=r.created_at[:8] + ("05" if int(r.prompt.id[1:]) < 100 else "06")) for r in rankings]
    assert not [row.labeler for row in drifts(days) if row.fell]


def test_votes_without_a_time_have_no_week() -> None:
    assert iso_week("") == "" and iso_week("2026-11-22T10:00:00+00:00") == "2026-W47"
