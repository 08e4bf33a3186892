"""The demo's one dial: every budget of a size, as counts of tokens, prompts and episodes; and what a stage is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSize:
    """Everything that grows with the machine."""

    vocab_size: int = 2048
    num_layers: int = 4
    model_dim: int = 128
    num_heads: int = 4
    mlp_dim: int = 352
    context_length: int = 256
    pretraining_tokens: int = 1_000_000
    pretraining_window: int = 128
    """Tokens a training row: chats turn over quickly, and short rows are faster on a CPU."""
    sft_tokens: int = 300_000
    judge_tokens: int = 100_000
    ranked_prompts: int = 1_300
    answers_per_prompt: int = 6
    """K."""
    max_answer_tokens: int = 32
    held_out_rankings: int = 150
    """Prompts of the reward model's report, each ranked by every held-out labeler."""
    calibration_prompts: int = 120
    ppo_updates: int = 10
    episodes: int = 256
    evaluation_prompts: int = 600
    evaluation_texts: int = 150
    max_chats: int | None = None
    """Use only that many training chats."""

    @property
    def model(self) -> dict[str, bool | int | float | str]:
        """The architecture, for `wuya pretrain --model`."""
        return {
            "num_layers": self.num_layers,
            "model_dim": self.model_dim,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_heads,
            "head_dim": self.model_dim // self.num_heads,
            "mlp_dim": self.mlp_dim,
        }


SIZES = {
    "tiny": DemoSize(
        vocab_size=512, num_layers=2, model_dim=64, num_heads=2, mlp_dim=160, pretraining_tokens=60_000,
        sft_tokens=30_000, judge_tokens=10_000, ranked_prompts=48, answers_per_prompt=4, max_answer_tokens=16,
        held_out_rankings=20, calibration_prompts=20, ppo_updates=3, episodes=32, evaluation_prompts=40,
        evaluation_texts=10, max_chats=150,
    ),
    "small": DemoSize(),
    "medium": DemoSize(
        vocab_size=4096, num_layers=6, model_dim=256, num_heads=8, mlp_dim=704, pretraining_tokens=4_000_000,
        sft_tokens=800_000, judge_tokens=400_000, ranked_prompts=2_000, ppo_updates=24,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Demo:
    """One run of the demo: what every stage is given."""

    folder: Path
    """Where everything lies; what one stage hands to the next is a file in it."""
    size: DemoSize
    seed: int
    evaluate_on: Literal["final", "tuning"] = "final"
    """Whose prompts and chats the reward model and the policies are judged on."""
