"""What DPO, IPO, RLOO and GRPO log beside the names of every run and of PPO."""

from wuya.training.metrics import Metric

DIRECT_METRICS: dict[str, Metric] = {
    "objective/margin": Metric(
        "DPO, IPO: mean over pairs of h, the log-ratio policy / reference of the better answer less that of the worse",
        "nats",
        "0 at the start, then rises; IPO aims at 1 / (2 beta)",
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
    "loss/kl_avg": Metric(
        "GRPO: mean over completions of the mean over tokens of k3 = ref/pi - 1 - log(ref/pi), the penalty in the loss",
        "nats per token",
        "0 in the first update, then slowly to 0.1",
        "running away: raise kl_coef or lower the learning rate",
    ),
}
