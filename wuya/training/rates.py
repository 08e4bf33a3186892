"""Learning rates that nobody set: the paper's for all weights, ten times that for LoRA adapters.

An adapter is small and starts as no change at all, so it wants larger steps: about ten times full fine-tuning's best
rate, over models, data sets and ranks (Schulman et al. 2025, "LoRA Without Regret"; ours in docs/concepts/lora.md).
"""

LORA_FACTOR = 10.0
"""Best LoRA rate over best full rate."""


def peak_rate(asked: float, *, full: float, lora_rank: int) -> float:
    """The peak rate of a run.

    Args:
        asked: the config's `learning_rate`; 0 chooses.
        full: what the recipe uses for all weights.
        lora_rank: rank of the adapters that are trained; 0 trains all weights.
    """
    return asked or full * (LORA_FACTOR if lora_rank else 1.0)
