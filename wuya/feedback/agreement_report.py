"""All that is known about a project's labelers in one report: how far they agree, who stands out, which model wins.

    report = agreement_report(store.raw_rankings(selection))
    report.to_dict()          # what `wuya agreement --json` prints and the labeling lead's page shows

Every figure has an interval that resamples prompts, or says on how many votes it stands.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from wuya.data.messages import prompt_key
from wuya.feedback.agreement import (
    ClusterInterval,
    agreement_ceiling,
    cohens_kappa,
    krippendorff_alpha,
    mean_kendall_tau,
    pairwise_agreement,
)
from wuya.feedback.bradley_terry import Ratings, model_battles, rate, strictness_battles
from wuya.feedback.drift import Drift, WeekAgreement, drifts, weekly_agreement
from wuya.feedback.elo import elo_ratings
from wuya.feedback.identity import named_apart
from wuya.feedback.pair_votes import PairVotes, agreement_matrix, each_with_the_others
from wuya.feedback.reading import RawRanking
from wuya.feedback.spammers import labeler_skills
from wuya.records import Ranking

GRADE_KEYS = ("overall_quality", "quality")
"""Questions whose answers are grades (1-7): labelers' strictness is read off them."""


@dataclass(frozen=True, slots=True)
class LabelerRow:
    """One labeler among the others."""

    labeler: str
    rankings: int
    with_others: ClusterInterval
    tie_share: float
    skill: float
    skill_low: float
    skill_high: float
    suspect: bool
    """Votes look random: have a look before training on them."""
    seconds: float | None
    """Median time on a task."""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """How far labelers agree on one question about answers."""

    key: str
    answers: int
    """Given; a question left open counts nothing."""
    mean: float
    """Share of yes, or mean grade."""
    alpha: float
    """Krippendorff's, nominal for yes/no, ordinal for grades."""
    kappa: float
    """Cohen's, mean over pairs of labelers weighted by shared answers; quadratic weights for grades."""


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """What `agreement_report` found."""

    num_rankings: int
    num_prompts: int
    pairwise: ClusterInterval
    """Share of pairs of answers that two labelers order alike, ties left out."""
    ceiling: float
    """Best accuracy a model can reach against one vote, given that agreement."""
    kendall: ClusterInterval
    alpha: float
    """Krippendorff's on pairs of answers: first better, tie, second better; ordinal."""
    labelers: tuple[LabelerRow, ...]
    matrix: tuple[tuple[float, ...], ...]
    """Agreement of each two labelers, in the order of `matrix_labelers`; NaN where they share nothing."""
    matrix_labelers: tuple[str, ...]
    weeks: tuple[WeekAgreement, ...]
    drifts: tuple[Drift, ...]
    """Suspects left out, on both sides: whoever was asked beside a spammer lately has not changed."""
    models: Ratings
    """Bradley-Terry, a tie half a win each."""
    models_with_ties: Ratings
    """Davidson."""
    elo: dict[str, float]
    strictness: Ratings
    """Labelers: of two who graded one answer, who gave less."""
    questions: tuple[QuestionRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN becomes null."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def agreement_report(raw: Iterable[RawRanking], *, num_samples: int = 500, seed: int = 0) -> AgreementReport:
    """Compare labelers, weeks, models and questions of the rankings given."""
    given = list(raw)
    apart = named_apart(row.ranking for row in given)
    everything = [replace(row, ranking=ranking) for row, ranking in zip(given, apart, strict=True)]
    rankings = [row.ranking for row in everything if not row.cannot_rank]
    votes = PairVotes.of(rankings)
    pairwise = pairwise_agreement(rankings, num_samples=num_samples, seed=seed)
    battles = model_battles(rankings)
    labelers = _labelers(everything, votes, num_samples=num_samples, seed=seed)
    suspects = {row.labeler for row in labelers if row.suspect}
    trusted = [ranking for ranking in rankings if ranking.labeler not in suspects]
    few = min(num_samples, 200)
    return AgreementReport(
        num_rankings=len(rankings),
        num_prompts=len({prompt_key(ranking.prompt) for ranking in rankings}),
        pairwise=pairwise,
        ceiling=agreement_ceiling(pairwise.mean) if pairwise.mean >= 0.5 else math.nan,
        kendall=mean_kendall_tau(rankings, num_samples=num_samples, seed=seed),
        alpha=krippendorff_alpha(votes.ratings_LN()) if rankings else math.nan,
        labelers=tuple(labelers),
        matrix=tuple(tuple(row) for row in agreement_matrix(votes)[0].tolist()),
        matrix_labelers=votes.labelers,
        weeks=tuple(weekly_agreement(rankings, seed=seed)),
        drifts=tuple(drifts(trusted, num_samples=num_samples, seed=seed)),
        models=rate(battles, num_samples=few, seed=seed),
        models_with_ties=rate(battles, davidson=True, num_samples=few, seed=seed),
        elo=elo_ratings(battles, seed=seed),
        strictness=rate(strictness_battles(_grades(everything)), num_samples=few, seed=seed),
        questions=tuple(_questions(everything)),
    )


def _labelers(raw: Sequence[RawRanking], votes: PairVotes, *, num_samples: int, seed: int) -> list[LabelerRow]:
    skills = {row.labeler: row for row in labeler_skills(votes, num_samples=min(num_samples, 200), seed=seed)}
    times: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for row in raw:
        counts[row.ranking.labeler] += 1
        if row.active_ms is not None:
            times[row.ranking.labeler].append(row.active_ms / 1000)
    return [
        LabelerRow(
            labeler=row.labeler,
            rankings=counts[row.labeler],
            with_others=row.with_others,
            tie_share=row.tie_share,
            skill=skills[row.labeler].skill,
            skill_low=skills[row.labeler].low,
            skill_high=skills[row.labeler].high,
            suspect=skills[row.labeler].suspect,
            seconds=median(times[row.labeler]) if times[row.labeler] else None,
        )
        for row in each_with_the_others(votes, num_samples=num_samples, seed=seed)
    ]


def _grades(raw: Iterable[RawRanking]) -> list[tuple[str, str, float]]:
    """(answer, labeler, grade) for every grade given."""
    return [
        (item, labeler, float(value))
        for item, labeler, key, value in _answers(raw)
        if key in GRADE_KEYS and not isinstance(value, bool)
    ]


def _answers(raw: Iterable[RawRanking]) -> Iterable[tuple[str, str, str, bool | int | float]]:
    """(what it is about, labeler, question, answer) for every yes, no and number; unanswered ones are left out."""
    for row in raw:
        where = f"{prompt_key(row.ranking.prompt)}\0{row.ranking.round}"
        about = [("", dict(row.ranking.flags))]
        about += [(c.text, labels) for c, labels in zip(row.ranking.candidates, row.labels, strict=False)]
        for text, labels in about:
            for key, value in labels.items():
                if isinstance(value, bool | int | float):
                    yield f"{where}\0{text}", row.ranking.labeler, key, value


def _questions(raw: Sequence[RawRanking]) -> list[QuestionRow]:
    by_key: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    graded: set[str] = set()
    for item, labeler, key, value in _answers(raw):
        by_key[key][labeler][item] = float(value)
        if not isinstance(value, bool):
            graded.add(key)
    rows = []
    for key, given in sorted(by_key.items()):
        items = sorted({item for answers in given.values() for item in answers})
        ratings_LN = np.array([[answers.get(item, np.nan) for item in items] for answers in given.values()])
        rows.append(
            QuestionRow(
                key=key,
                answers=int((~np.isnan(ratings_LN)).sum()),
                mean=float(np.nanmean(ratings_LN)),
                alpha=krippendorff_alpha(ratings_LN, level="ordinal" if key in graded else "nominal"),
                kappa=_mean_kappa(list(given.values()), quadratic=key in graded),
            )
        )
    return rows


def _mean_kappa(given: Sequence[dict[str, float]], *, quadratic: bool) -> float:
    total, weight = 0.0, 0
    for first, second in combinations(given, 2):
        shared = sorted(first.keys() & second.keys())
        if len(shared) < 2:
            continue
        kappa = cohens_kappa(
            [first[i] for i in shared], [second[i] for i in shared], weights="quadratic" if quadratic else None
        )
        if not math.isnan(kappa):
            total, weight = total + kappa * len(shared), weight + len(shared)
    return total / weight if weight else math.nan


def raw_of(ranking: Ranking) -> RawRanking:
    """A ranking of a file, about which nothing else is known."""
    return RawRanking(ranking, cannot_rank=False, comment="", active_ms=None, labels=())


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
