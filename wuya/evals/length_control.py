"""The win rate at equal length: what share of votes a model would get if its answers were as long as the other's.

Judges like length, so a longer-winded model wins votes that say nothing about its answers. As in AlpacaEval 2 (Dubois
et al., arXiv:2404.04475), a logistic model of the votes has a term for the difference in length, and the figure is
what it predicts without that term:

    logit P(preferred) = theta + beta tanh(difference in characters / its standard deviation);  figure: sigmoid(theta)

Differs from AlpacaEval 2: (1) no term for the difficulty of an instruction, which they fitted on their own 805 prompts;
(2) a ridge on beta alone keeps the fit from extrapolating to equal lengths where there were none; (3) the interval
resamples prompts and fits each resample anew, where theirs is the spread of the predictions.

Dimension key: U prompts, S resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wuya.console import warn
from wuya.evals.answers import Answers
from wuya.evals.bootstrap import Floats, Interval, resample_counts

RIDGE = 5 / 805
"""Weight of beta squared beside the mean log-loss of a vote.

Over 58 models of AlpacaEval 2's leaderboard (805 prompts each, its own annotations) this figure's Spearman correlation
with the published length-controlled one is .981 and the median difference .8 points; without a ridge .925 and 4.8
points, with four times this .967 and 2.2, the raw win rate .958 and 3.8."""
NUM_NEWTON_STEPS = 30
MAX_LOGIT = 12.0
"""Where a fit of votes that are all for one side stops."""
WARN_POINTS = 0.10
"""A difference from the raw win rate that deserves a warning."""


def length_controlled_rate(votes: ArrayLike, lengths: ArrayLike, others: ArrayLike, *, seed: int = 0) -> Interval:
    """The share of votes at equal length, with its interval over prompts.

    Args:
        votes: share of the votes for the model, one per prompt.
        lengths, others: characters of the model's and of the other model's answers.

    Raises: ValueError when empty or of different lengths.
    """
    votes_U, own_U, other_U = (np.asarray(values, dtype=np.float64) for values in (votes, lengths, others))
    if votes_U.size == 0 or not votes_U.shape == own_U.shape == other_U.shape:
        raise ValueError(f"need equal, non-empty arrays, got {votes_U.shape}, {own_U.shape}, {other_U.shape}")
    difference_U = own_U - other_U
    spread = difference_U.std() or float(np.abs(difference_U).max()) or 1.0
    longer_U = np.tanh(difference_U / spread)
    count = len(votes_U)
    low, high = np.quantile(_rates(votes_U, longer_U, resample_counts(count, seed=seed)), [0.025, 0.975])
    [rate] = _rates(votes_U, longer_U, np.ones((1, count)))
    return Interval(float(rate), float(low), float(high), count)


def length_controlled_rates(
    votes: Mapping[str, Sequence[float]], pairs: Mapping[str, tuple[str, str]], answers: Mapping[str, Answers]
) -> dict[str, dict[str, Any]]:
    """`length_controlled_rate` of every comparison for JSON; warns where it is far from the raw win rate.

    Args:
        pairs: comparison ("ppo_vs_sft") -> (model, other), names in `answers`.
    """
    rates = {}
    for name, (model, other) in pairs.items():
        lengths, others = ([len(c.text) for c in answers[which].candidates] for which in (model, other))
        rate = length_controlled_rate(votes[name], lengths, others)
        raw = float(np.mean(votes[name]))
        if abs(raw - rate.mean) > WARN_POINTS:
            warn(
                f"{name.replace('_', ' ')}: preferred {raw:.1%}, but {rate.mean:.1%} at equal length "
                f"[{rate.low:.1%}, {rate.high:.1%}]: length decides much of the votes"
            )
        rates[name] = rate.to_dict()
    return rates


def _rates(votes_U: Floats, longer_U: Floats, counts_SU: ArrayLike) -> Floats:
    """sigmoid(theta) of each resample, by Newton's method on both coefficients [S]."""
    weights_SU = np.asarray(counts_SU, dtype=np.float64)
    weights_SU = weights_SU / weights_SU.sum(axis=1, keepdims=True)
    theta_S, beta_S = np.zeros(len(weights_SU)), np.zeros(len(weights_SU))
    for _ in range(NUM_NEWTON_STEPS):
        predicted_SU = _sigmoid(theta_S[:, None] + beta_S[:, None] * longer_U)
        error_SU = weights_SU * (predicted_SU - votes_U)
        curvature_SU = weights_SU * np.maximum(predicted_SU * (1 - predicted_SU), 1e-6)
        slope_theta_S, slope_beta_S = error_SU.sum(axis=1), error_SU @ longer_U + 2 * RIDGE * beta_S
        tt_S, tb_S = curvature_SU.sum(axis=1), curvature_SU @ longer_U
        bb_S = curvature_SU @ longer_U**2 + 2 * RIDGE
        determinant_S = tt_S * bb_S - tb_S**2
        step_theta_S = (bb_S * slope_theta_S - tb_S * slope_beta_S) / determinant_S
        step_beta_S = (tt_S * slope_beta_S - tb_S * slope_theta_S) / determinant_S
        theta_S = np.clip(theta_S - np.clip(step_theta_S, -1, 1), -MAX_LOGIT, MAX_LOGIT)
        beta_S = beta_S - np.clip(step_beta_S, -1, 1)
    return _sigmoid(theta_S)


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)
