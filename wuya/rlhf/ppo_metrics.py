"""What PPO and GRPO log, under the names people grep for, with formulas and healthy ranges; and alarms in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wuya.training.metrics import Metric

_COMPLETION = "nats per completion"
PPO_METRICS: dict[str, Metric] = {
    "objective/kl": Metric(
        "KL(policy || reference): mean over episodes of the sum over tokens of logprob - ref_logprob (k1)",
        _COMPLETION,
        "0 in the first update, then slowly to 2-20",
        "negative for many updates: sampling and training log-probs disagree (temperature, padding, dropout); "
        "running away: raise kl_coef, lower the learning rate, or set max_kl",
    ),
    "objective/kl_per_token": Metric(
        "sum of logprob - ref_logprob over all completion tokens / their number",
        "nats per token",
        "0 to 0.25",
        "as objective/kl; comparable between completion lengths",
    ),
    "objective/kl_coef": Metric(
        "beta, score given up per nat of KL; fixed, or each update times 1 + clip(kl / target - 1, +-.2) * n / horizon",
        "score per nat",
        "0.01 to 0.2",
        "adapted and still rising at the end: target_kl can't be held at this learning rate",
    ),
    "objective/scores": Metric(
        "mean score of the episodes, before the rule for missing end tokens",
        "score",
        "rises, then levels off",
        "rises while people like the answers less: reward hacking; flat: learning rate too low",
    ),
    "objective/scores_std": Metric(
        "standard deviation of the scores over the episodes",
        "score",
        "falls slowly",
        "near 0: the reward model finds all answers alike, nothing is left to learn",
    ),
    "objective/non_score_reward": Metric(
        "-kl_coef * objective/kl",
        "score",
        "0 to -0.5",
        "larger than what the score has gained: the KL penalty dominates, lower kl_coef",
    ),
    "objective/rlhf_reward": Metric(
        "mean over episodes of the score after the rule for missing end tokens - kl_coef * KL: what PPO maximises",
        "score",
        "rises",
        "falls: learning rate too high",
    ),
    "objective/entropy": Metric(
        "mean over episodes of the sum of -logprob of the sampled tokens, an unbiased estimate of the policy's entropy",
        _COMPLETION,
        "falls slowly, by less than half",
        "collapses: the policy has become deterministic, raise kl_coef",
    ),
    "objective/entropy_per_token": Metric(
        "sum of -logprob over all completion tokens / their number",
        "nats per token",
        "falls slowly",
        "as objective/entropy",
    ),
    "objective/eos_share": Metric(
        "share of completions that ended with their end token within max_tokens",
        "1",
        "above 0.8, steady or rising",
        "falling: answers run into the limit; raise missing_eos_penalty or max_tokens",
    ),
    "objective/length": Metric(
        "median tokens of a completion, end token included",
        "tokens",
        "within 25 % of its first value",
        "exploding or collapsing: the reward model pays for length; look at its length correlation",
    ),
    "objective/identical_share": Metric(
        "share of episodes that have the most frequent completion; 0 if all differ",
        "1",
        "below 0.05",
        "rising: mode collapse, one answer for every prompt",
    ),
    "objective/reencoded_share": Metric(
        "share of completions whose text encodes to other tokens than those sampled (PPO always uses the sampled ones)",
        "1",
        "below 0.2, steady",
        "rising: the policy spells words in unusual pieces, often a sign of reward hacking",
    ),
    "policy/approxkl_avg": Metric(
        "mean over tokens and minibatches of ratio - 1 - log ratio, the k3 estimate of new against old policy",
        "nats per token",
        "0 to 0.02",
        "above 0.05: too many epochs, or too high a learning rate",
    ),
    "policy/clipfrac_avg": Metric(
        "share of tokens whose ratio left [1 - clip_range, 1 + clip_range], mean over minibatches",
        "1",
        "0 to 0.2",
        "above 0.3: steps are too large",
    ),
    "policy/grad_norm": Metric(
        "L2 norm of the policy's gradient (pre-training part included) before clipping, mean over minibatches",
        "1",
        "steady",
        "growing: divergence is near",
    ),
    "val/ratio": Metric(
        "mean over tokens and minibatches of exp(logprob - old_logprob)",
        "1",
        "1 in the first minibatch, then 0.98 to 1.02",
        "not 1 in the first minibatch (the run stops): old and new log-probs are not the same function",
    ),
    "val/clipfrac_avg": Metric(
        "share of tokens whose value loss is the clipped one, mean over minibatches",
        "1",
        "0 to 0.3",
        "near 1 for long: values are far from returns, raise value_clip_range or the warm-up",
    ),
    "val/explained_variance": Metric(
        "1 - variance(returns - values) / variance(returns) over completion tokens, before the update",
        "1",
        "above 0 after the first updates",
        "negative: the value model is worse than a constant; train it longer or with a lower rate",
    ),
    "loss/policy_avg": Metric(
        "clipped surrogate objective, negated, mean over tokens and minibatches",
        "1",
        "near 0, slightly negative",
        "not a symptom by itself",
    ),
    "loss/value_avg": Metric(
        "half the squared error of the values, clipped, mean over tokens and minibatches",
        "score squared",
        "falls in the first tens of updates",
        "rising: the value model's learning rate is too high",
    ),
    "value/grad_norm": Metric(
        "L2 norm of the value model's gradient before clipping, mean over minibatches",
        "score squared per unit of weight",
        "steady",
        "growing: lower value_learning_rate",
    ),
    "loss/ptx": Metric(
        "nats per token on the pre-training text mixed in, mean over minibatches",
        "nats per token",
        "flat",
        "rising: alignment tax, raise ptx_coef; falling fast while scores stand still: lower it",
    ),
    "episodes": Metric("episodes sampled so far", "episodes", "rises by rollout_batch_size", "not a symptom"),
    "eps": Metric(
        "episodes per second of this update, sampling and training together",
        "1/s",
        "steady",
        "falling: longer answers or a busy machine",
    ),
    "time/sampling": Metric("time spent sampling and scoring", "s", "steady", "rising: longer answers"),
    "time/training": Metric("time spent on gradients", "s", "steady", "rising: longer answers"),
    "warming_up": Metric(
        "1 while only the value model learns", "0 or 1", "1 in the first value_warmup_updates", "not a symptom"
    ),
    "alarms": Metric("this update's alarms, in words", "text", "empty", "read them"),
}
"""Of PPO; RLOO and GRPO log those that need no value model."""
GROUP_METRICS: dict[str, Metric] = {
    "rollout/equal_groups": Metric(
        "GRPO: share of the sampled groups whose completions all score the same, before any is replaced",
        "1",
        "0 to 0.3",
        "rising to 1: the policy answers alike (raise kl_coef), or the prompts are all solved; set max_resampling",
    ),
    "rollout/resampled_groups": Metric(
        "GRPO with max_resampling: groups sampled in place of such groups, all tries of this update",
        "groups",
        "below a batch",
        "many: most of the time goes into samples that teach nothing; use harder prompts",
    ),
    "rollout/filled_groups": Metric(
        "GRPO with max_resampling: groups of equal scores that are left in the batch after the last try",
        "groups",
        "0",
        "above 0: raise max_resampling, or use harder prompts",
    ),
    "loss/kl_avg": Metric(
        "GRPO: mean over completions of the mean over tokens of k3 = ref/pi - 1 - log(ref/pi), the penalty in the loss",
        "nats per token",
        "0 in the first update, then slowly to 0.1",
        "running away: raise kl_coef or lower the learning rate",
    ),
}
"""Of RLOO and GRPO besides."""


@dataclass(slots=True)
class Alarms:
    """Watches the metrics of successive updates and says in words what looks wrong."""

    first: dict[str, float] = field(default_factory=dict)
    """Metrics of the first update seen: what length and end-token share are compared with."""
    negative_kl_updates: int = 0
    """Updates in a row with a negative KL estimate."""

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Take in one update's metrics; return what is alarming about them."""
        if not self.first:
            self.first = {name: metrics[name] for name in ("objective/length", "objective/eos_share")}
        kl = metrics["objective/kl"]
        self.negative_kl_updates = self.negative_kl_updates + 1 if kl < -1e-3 else 0
        length, first_length = metrics["objective/length"], self.first["objective/length"]
        eos, first_eos = metrics["objective/eos_share"], self.first["objective/eos_share"]
        found = []
        if self.negative_kl_updates >= 5:
            found.append(
                f"KL has been negative for {self.negative_kl_updates} updates (now {kl:.2f}): "
                "the log-probs of sampling and training disagree"
            )
        if metrics.get("policy/clipfrac_avg", 0.0) > 0.3:
            found.append(f"{metrics['policy/clipfrac_avg']:.0%} of tokens are clipped: steps are too large")
        if length > 1.5 * first_length + 2:
            found.append(f"answers have grown from {first_length:.0f} to {length:.0f} tokens")
        if length < 0.5 * first_length:
            found.append(f"answers have shrunk from {first_length:.0f} to {length:.0f} tokens")
        if metrics["objective/identical_share"] > 0.1:
            found.append(f"{metrics['objective/identical_share']:.0%} of the answers are the same: mode collapse")
        if eos < first_eos - 0.1:
            found.append(f"answers that end by themselves fell from {first_eos:.0%} to {eos:.0%}")
        return found

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {"first": dict(self.first), "negative_kl_updates": self.negative_kl_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on watching."""
        self.first, self.negative_kl_updates = state["first"], state["negative_kl_updates"]
