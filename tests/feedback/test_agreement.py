"""Agreement measures against scipy, scikit-learn, `krippendorff` and worked examples."""

import math
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score

from wuya.feedback.agreement import (
    agreement_ceiling,
    cluster_bootstrap,
    cohens_kappa,
    kendall_tau_b,
    krippendorff_alpha,
    mean_kendall_tau,
    pairwise_agreement,
)
from wuya.records import Candidate, Message, Prompt, Ranking


def ranking(ranks: tuple[int, ...], labeler: str, prompt: str = "p", order: str = "abcdef") -> Ranking:
    candidates = tuple(Candidate(text) for text in order[: len(ranks)])
    return Ranking(Prompt(prompt, (Message("user", prompt),)), candidates, ranks, labeler)


@pytest.mark.parametrize(
    ("agreement", "ceiling"), [(0.72, 0.794), (0.75, 0.818), (0.78, 0.841), (0.5, 0.5), (1.0, 1.0)]
)
def test_ceiling_has_the_published_values(agreement: float, ceiling: float) -> None:
    assert agreement_ceiling(agreement) == pytest.approx(ceiling, abs=5e-4)


def test_ceiling_holds_for_normal_utilities_with_normal_noise() -> None:
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(size=400_000), rng.normal(size=(2, 400_000)) * 0.9
    first, second = shared + noise
    agreement = float((np.sign(first) == np.sign(second)).mean())
    assert float((np.sign(shared) == np.sign(first)).mean()) == pytest.approx(agreement_ceiling(agreement), abs=2e-3)


@pytest.mark.parametrize("agreement", [0.49, 1.01, math.nan])
def test_ceiling_refuses_what_is_no_agreement(agreement: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        agreement_ceiling(agreement)


@pytest.mark.parametrize("seed", range(20))
def test_kendall_tau_b_equals_scipy_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    x, y = rng.integers(0, 6, size=n), rng.integers(0, 6, size=n)
    np.testing.assert_allclose(kendall_tau_b(x, y), kendalltau(x, y).statistic, atol=1e-12)


def test_kendall_tau_of_a_constant_is_undefined() -> None:
    assert math.isnan(kendall_tau_b([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="one length"):
        kendall_tau_b([1, 2], [1, 2, 3])


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(8))
def test_alpha_equals_krippendorff_with_ties_and_missing(seed: int, level: str) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, size=(int(rng.integers(2, 6)), int(rng.integers(4, 60)))).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = np.nan
    expected = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
    assert krippendorff_alpha(ratings, level=level) == pytest.approx(expected, abs=1e-10)  # type: ignore[arg-type]


def test_alpha_of_krippendorffs_own_example() -> None:
    # "Computing Krippendorff's alpha-reliability" (2011), example C: 4 observers, 12 units, missing data.
    missing = np.nan
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, missing, missing, missing],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, missing, 3],
            [missing, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, missing],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, missing],
        ]
    )
    assert krippendorff_alpha(ratings, level="nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(ratings, level="ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(ratings, level="interval") == pytest.approx(0.849, abs=5e-4)


def test_alpha_is_undefined_without_overlap_or_variation() -> None:
    assert math.isnan(krippendorff_alpha([[1.0, np.nan], [np.nan, 2.0]]))
    assert math.isnan(krippendorff_alpha([[2.0, 2.0], [2.0, 2.0]]))
    assert math.isnan(krippendorff_alpha(np.full((2, 3), np.nan)))


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(6))
def test_cohens_kappa_equals_scikit_learn(seed: int, weights: str | None) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 5, size=50)
    b = np.where(rng.random(50) < 0.5, a, rng.integers(0, 5, size=50))
    assert cohens_kappa(a, b, weights=weights) == pytest.approx(cohen_kappa_score(a, b, weights=weights))  # type: ignore[arg-type]


def test_cohens_kappa_of_one_constant_is_undefined() -> None:
    assert math.isnan(cohens_kappa([1, 1], [1, 1]))


def test_pairwise_agreement_by_hand() -> None:
    # a>b>c against b>a>c: of the three pairs they differ on (a, b) only.
    found = pairwise_agreement([ranking((1, 2, 3), "x"), ranking((2, 1, 3), "y")])
    assert found.mean == pytest.approx(2 / 3)
    assert (found.num_pairs, found.num_prompts) == (3, 1)


def test_pairwise_agreement_treats_ties_as_asked() -> None:
    both = [ranking((1, 1, 2), "x"), ranking((1, 2, 3), "y")]  # x ties (a, b), the other two pairs agree
    assert pairwise_agreement(both).num_pairs == 2
    assert pairwise_agreement(both).mean == 1.0
    assert pairwise_agreement(both, ties="half").mean == pytest.approx(2.5 / 3)
    assert pairwise_agreement(both, ties="match").mean == pytest.approx(2 / 3)


def test_answers_are_matched_by_text_not_by_position() -> None:
    found = pairwise_agreement([ranking((1, 2, 3), "x", order="abc"), ranking((3, 2, 1), "y", order="cba")])
    assert found.mean == 1.0
    assert mean_kendall_tau([ranking((1, 2, 3), "x", order="abc"), ranking((3, 2, 1), "y", order="cba")]).mean == 1.0


def test_pairwise_agreement_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    rankings = [
        ranking(tuple(int(r) for r in rng.integers(1, 4, size=4)), f"l{index}", prompt=f"p{prompt}")
        for prompt in range(30)
        for index in range(int(rng.integers(1, 4)))
    ]
    agree = total = 0
    for one, two in combinations(rankings, 2):
        if one.prompt.id == two.prompt.id:
            for i, j in combinations(range(4), 2):
                if one.ranks[i] != one.ranks[j] and two.ranks[i] != two.ranks[j]:
                    total += 1
                    agree += (one.ranks[i] < one.ranks[j]) == (two.ranks[i] < two.ranks[j])
    found = pairwise_agreement(rankings)
    assert found.mean == pytest.approx(agree / total)
    assert found.num_pairs == total
    assert found.low < found.mean < found.high


def test_mean_kendall_tau_equals_scipy() -> None:
    rng = np.random.default_rng(3)
    rankings = [ranking(tuple(rng.permutation(5) + 1), name, prompt=f"p{p}") for p in range(20) for name in "xy"]
    expected = np.mean(
        [kendalltau(a.ranks, b.ranks).statistic for a, b in zip(rankings[::2], rankings[1::2], strict=True)]
    )
    assert mean_kendall_tau(rankings).mean == pytest.approx(expected)


def test_the_bootstrap_resamples_prompts_so_copies_of_votes_add_no_certainty() -> None:
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 2, size=200).astype(float)
    once = cluster_bootstrap(hits, np.ones(200))
    copied = cluster_bootstrap(hits * 10, np.full(200, 10.0))  # ten identical votes a prompt
    assert (once.low, once.high) == (copied.low, copied.high)
    standard_error = math.sqrt(once.mean * (1 - once.mean) / 200)
    assert (once.high - once.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.15)


def test_the_bootstrap_interval_covers_95_percent() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        rates = rng.beta(4, 2, size=80)
        sizes = rng.integers(1, 8, size=80)
        found = cluster_bootstrap(rng.binomial(sizes, rates), sizes, num_samples=300, seed=trial)
        covered += found.low <= 2 / 3 <= found.high
    assert 180 <= covered <= 199


def test_nothing_to_compare_is_nan_not_a_crash() -> None:
    assert math.isnan(pairwise_agreement([ranking((1, 2), "x")]).mean)
    assert pairwise_agreement([]).num_pairs == 0
