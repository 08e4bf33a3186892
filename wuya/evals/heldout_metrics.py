"""What evaluations on held-out prompts log during training."""

from wuya.training.metrics import Metric

_SCORE_TROUBLE = "falling while objective/scores rises: over-optimisation; stop earlier (choose=best), raise kl_coef"
_MEANS: dict[str, tuple[str, str, str, str]] = {
    "eval/score": (
        "mean score of held-out answers by the training reward, with PPO's rule for unfinished ones",
        "score",
        "rises with objective/scores",
        _SCORE_TROUBLE,
    ),
    "eval/judged": (
        "mean score of held-out answers by `evaluation_reward`, with the same rule for unfinished ones",
        "score",
        "rises, then levels off",
        _SCORE_TROUBLE,
    ),
    "eval/kl": (
        "KL(policy || reference) of the weights that would ship, k1 on held-out answers",
        "nats per completion",
        "0 at step 0, near objective/kl",
        "above objective/kl: the policy goes further on prompts it does not know",
    ),
    "eval/length": ("mean tokens of a held-out answer, end token included", "tokens", "steady", "as objective/length"),
    "eval/finished": (
        "share of held-out answers that end within the limit",
        "1",
        "above 0.8",
        "falling: answers run into the limit",
    ),
}
HELDOUT_METRICS: dict[str, Metric] = {name: Metric(*texts) for name, texts in _MEANS.items()}
HELDOUT_METRICS |= {
    f"{name}_{end}": Metric(f"{end} end of the 95 % bootstrap interval of `{name}` over prompts", unit, "-", "-")
    for name, (_, unit, _, _) in _MEANS.items()
    for end in ("low", "high")
}
HELDOUT_METRICS["eval/distinct_2"] = Metric(
    "distinct bigrams of words / all bigrams, over the held-out answers together",
    "1",
    "falls by less than a third",
    "collapsing: the same phrases for every prompt, raise kl_coef",
)
