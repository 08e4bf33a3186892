"""What the reward model, DPO, IPO, KTO, ORPO and SimPO log beside the names of every run."""

from wuya.training.metrics import Metric

PAIR_METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "share of this step's pairs whose preferred answer has the higher score, before the step",
        "1",
        "rises from .5 to about the labelers' agreement",
        "far above the agreement: over-fitting, or a leak; .5: learning rate too low or labels shuffled",
    ),
    "pairs": Metric("pairs in this step, ties left out", "pairs", "steady", "few: many ties"),
    "prompts": Metric("prompts in this step, all pairs of each", "prompts", "steady", "not a symptom"),
}
"""Of whatever learns from pairs."""
DIRECT_METRICS: dict[str, Metric] = {
    "objective/margin": Metric(
        "mean over pairs of the better answer's score less the worse one's: log-ratio policy / reference (DPO, IPO), "
        "log odds (ORPO), mean log-prob per token (SimPO); KTO: mean log-ratio of liked less disliked answers",
        "nats",
        "rises, from 0 where there is a reference; IPO aims at 1 / (2 beta), SimPO at target_margin / beta",
        "falling: labels are swapped; far above 5 / beta: over-fitting, fewer epochs or a smaller rate",
    ),
    "objective/chosen_logratio": Metric(
        "DPO, IPO: mean log-ratio policy / reference of the better answers",
        "nats per completion",
        "near 0; falling a little is usual",
        "falling by many nats: mass moves to answers nobody has seen; lower the rate, raise beta, or use PPO",
    ),
    "objective/rejected_logratio": Metric(
        "DPO, IPO: mean log-ratio policy / reference of the worse answers",
        "nats per completion",
        "falls faster than objective/chosen_logratio",
        "as objective/chosen_logratio",
    ),
    "objective/chosen_log_odds": Metric(
        "ORPO: mean over pairs of log(p / (1 - p)) of the better answer, p = exp(mean log-prob per token)",
        "nats",
        "rises",
        "falling: the odds-ratio loss dominates SFT, lower odds_coef",
    ),
    "objective/rejected_log_odds": Metric(
        "ORPO: mean over pairs of log(p / (1 - p)) of the worse answer",
        "nats",
        "falls, or rises more slowly than objective/chosen_log_odds",
        "rising as fast: the policy learns to write, not to prefer; raise odds_coef",
    ),
    "objective/chosen_logprob": Metric(
        "SimPO: mean over pairs of the log-prob per token of the better answer",
        "nats per token",
        "near its first value; falling a little is usual",
        "falling by more than about 1: nothing holds the policy, lower the rate or take fewer epochs",
    ),
    "objective/rejected_logprob": Metric(
        "SimPO: mean over pairs of the log-prob per token of the worse answer",
        "nats per token",
        "falls faster than objective/chosen_logprob",
        "as objective/chosen_logprob",
    ),
    "loss/chosen_nll": Metric(
        "ORPO, DPO with sft_coef: mean over prompts of the nats per token of the answers ranked first",
        "nats per token",
        "falls",
        "rising: the preference part dominates, raise sft_coef or lower odds_coef",
    ),
    "objective/reference_point": Metric(
        "KTO: z_0 = max(0, mean log-ratio policy / reference of answers put behind other prompts of the batch)",
        "nats per completion",
        "0 at the start, then rises slowly",
        "running away: the policy writes unlike the reference everywhere, lower the rate or raise beta",
    ),
    "objective/desirable_logratio": Metric(
        "KTO: mean log-ratio policy / reference of this step's liked answers",
        "nats per completion",
        "rises above objective/reference_point",
        "falling: labels are swapped, or disliked answers dominate; look at the warning about weights",
    ),
    "objective/undesirable_logratio": Metric(
        "KTO: mean log-ratio policy / reference of this step's disliked answers",
        "nats per completion",
        "falls below objective/reference_point",
        "falling by tens of nats: over-fitting, fewer epochs or a smaller rate",
    ),
    "desirable": Metric("KTO: liked answers in this step", "answers", "steady", "0: the batch is too small"),
    "undesirable": Metric("KTO: disliked answers in this step", "answers", "steady", "0: the batch is too small"),
}
