"""What every run logs: formula, unit, healthy range, what leaving it means; recipes document theirs in this form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """What one name in metrics.jsonl stands for."""

    meaning: str
    """What it is, with its formula."""
    unit: str
    healthy: str
    """The range a good run stays in."""
    trouble: str
    """What leaving the range means, and what to try."""


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each statistic over the minibatches of an update."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


METRICS: dict[str, Metric] = {
    "loss": Metric(
        "training loss: sum of nats over the target tokens of the step / their number",
        "nats per token",
        "starts near ln(vocabulary) for a new model, then falls",
        "rising: learning rate too high or bad data; flat from the start: rate too low, or a wrong mask",
    ),
    "grad_norm": Metric(
        "L2 norm of all gradients before clipping",
        "nats per token per unit of weight",
        "0.1 to 2 after warmup, slowly changing",
        "spikes: bad batches or a rate at the edge of stability; growing for long: divergence is near, lower the rate",
    ),
    "lr": Metric(
        "learning rate of the step: the peak times the schedule's multiplier (PPO: the policy's, or the value model's "
        "while it warms up; Muon: the matrices')",
        "weight per step",
        "rises to the peak during warmup, then follows the schedule",
        "not a symptom",
    ),
    "tokens": Metric("training tokens seen so far, all ranks", "tokens", "rises by one batch a step", "not a symptom"),
    "tokens_per_second": Metric(
        "training tokens / wall time since the last row, validation and saving left out",
        "tokens per second",
        "steady",
        "falling: another process uses the cores, or memory is short",
    ),
    "validation/loss": Metric(
        "nats per target token on held-out text, the same windows each time",
        "nats per token",
        "falls; within a few percent of `loss` while each token is seen once",
        "rising while `loss` falls: over-fitting, use fewer epochs or more data",
    ),
    "validation/bits_per_byte": Metric(
        "sum of nats / (ln 2 * bytes of the target tokens); special tokens count neither nats nor bytes",
        "bits per byte",
        "falls; comparable between tokenizers, 8 is knowing nothing",
        "as for validation/loss",
    ),
    "ptx/loss": Metric(
        "nats per token on the pre-training text mixed into fine-tuning",
        "nats per token",
        "stays near its first value",
        "rising: the model forgets its pre-training, raise `ptx_share` or lower the rate",
    ),
    "epoch": Metric("passes over the training data so far", "epochs", "rises", "not a symptom"),
    "target_tokens": Metric(
        "tokens with a loss in this step: assistant tokens and their end tokens",
        "tokens",
        "steady",
        "zero: wrong masks",
    ),
}
