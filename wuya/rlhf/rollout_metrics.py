"""Numbers about a batch of episodes; every one is documented in rlhf/ppo_metrics.py."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wuya.rlhf.rollouts import Rollouts
from wuya.training import distributed


def rollout_metrics(
    rollouts: Rollouts,
    *,
    final_scores_B: Tensor,
    returns_BT: Tensor | None = None,
    kl_coef: float,
    reencodes: Callable[[Sequence[int]], bool],
) -> dict[str, float]:
    """The `objective/` metrics and the explained variance, over the episodes of all ranks.

    Args:
        final_scores_B: scores after the rule for missing end tokens.
        returns_BT: targets of the value model, for the explained variance; None without a value model.
        reencodes: whether a completion's text encodes to the same tokens again.
    """
    completions = [rollouts.completion(row) for row in range(len(rollouts.scores_B))]
    shared: list[Any] = distributed.gather(
        {
            "kl": rollouts.kl_B.tolist(),
            "entropy": (-rollouts.old_logprobs_BT.sum(dim=1)).tolist(),
            "scores": rollouts.scores_B.tolist(),
            "final": final_scores_B.tolist(),
            "eos": rollouts.has_eos_B.tolist(),
            "lengths": rollouts.completion_lengths_B.tolist(),
            "completions": [tuple(ids) for ids in completions],
            "reencoded": [not reencodes(ids) for ids in completions],
            "returns": [] if returns_BT is None else returns_BT[rollouts.mask_BT > 0].tolist(),
            "values": rollouts.old_values_BT[rollouts.mask_BT > 0].tolist(),
        }
    )
    every = {name: [item for rank in shared for item in rank[name]] for name in shared[0]}
    columns = {n: torch.tensor(every[n], dtype=torch.float64) for n in every if n != "completions"}
    kl, entropy, lengths = columns["kl"], columns["entropy"], columns["lengths"]
    metrics = {
        "objective/kl": kl.mean(),
        "objective/kl_per_token": kl.sum() / lengths.sum(),
        "objective/kl_coef": torch.tensor(kl_coef, dtype=torch.float64),
        "objective/scores": columns["scores"].mean(),
        "objective/scores_std": columns["scores"].std(correction=0),
        "objective/non_score_reward": -kl_coef * kl.mean(),
        "objective/rlhf_reward": (columns["final"] - kl_coef * kl).mean(),
        "objective/entropy": entropy.mean(),
        "objective/entropy_per_token": entropy.sum() / lengths.sum(),
        "objective/eos_share": columns["eos"].mean(),
        "objective/length": lengths.median(),
        "objective/reencoded_share": columns["reencoded"].mean(),
    }
    if returns_BT is not None:
        spread = columns["returns"].var(correction=0)
        error = (columns["returns"] - columns["values"]).var(correction=0)
        metrics["val/explained_variance"] = 1 - error / spread if spread > 0 else torch.tensor(0.0)
    most_frequent = Counter(every["completions"]).most_common(1)[0][1]
    return {name: float(value) for name, value in metrics.items()} | {
        "objective/identical_share": most_frequent / len(every["completions"]) if most_frequent > 1 else 0.0
    }
