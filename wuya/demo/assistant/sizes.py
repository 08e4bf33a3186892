"""The budgets of `wuya assistant`, as counts of demonstrations, pairs and episodes; and what a stage is given."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantSize:
    """Everything that grows with the machine."""

    demonstrations: int = 100
    held_out_demonstrations: int = 30
    preferred_answers: int = 160
    """Preferred answers of conversations that nothing else uses, as demonstrations beside the written ones: without
    them SFT sees few short chats, and its answers rarely end within the limit."""
    sft_epochs: float = 2.0
    reward_pairs: int = 290
    """Comparisons the reward model learns from, and as many others for the gold reward model."""
    held_out_pairs: int = 100
    ranked_prompts: int = 12
    """Prompts with K answers each, queued for people."""
    answers_per_prompt: int = 4
    ppo_prompts: int = 160
    ppo_updates: int = 12
    episodes: int = 32
    evaluation_prompts: int = 40
    max_answer_tokens: int = 96
    longest_prompt: int = 240
    """Characters of a prompt: short chats, so that two cores read enough of them."""
    longest_answer: int = 400
    """Characters of a compared answer."""
    longest_demonstration: int = 600
    """Characters of instruction and answer."""
    lora_layers: int = 10
    """Top blocks with adapters, of SmolLM2's 30: the lower two thirds are frozen and read once."""
    lora_rank: int = 16


SIZES = {
    "tiny": AssistantSize(
        demonstrations=16, held_out_demonstrations=4, preferred_answers=4, sft_epochs=1.0, reward_pairs=16,
        held_out_pairs=8, ranked_prompts=2, answers_per_prompt=2, ppo_prompts=16, ppo_updates=1, episodes=4,
        evaluation_prompts=4, max_answer_tokens=24, longest_prompt=160, longest_answer=160, longest_demonstration=300,
        lora_layers=4, lora_rank=8,
    ),
    "small": AssistantSize(),
    "medium": AssistantSize(
        demonstrations=120, preferred_answers=240, sft_epochs=3.0, reward_pairs=360, held_out_pairs=140,
        ppo_prompts=400, ppo_updates=16, episodes=32, evaluation_prompts=100, max_answer_tokens=128, longest_prompt=320,
        longest_answer=520, longest_demonstration=800,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assistant:
    """One run: what every stage is given."""

    folder: Path
    """Where everything lies; what one stage hands to the next is a file in it."""
    size: AssistantSize
    seed: int
    model: str
    """The real model to start from: a checkpoint, by default `smollm2`."""
    comparisons: str
    """Where people's comparisons come from: `hf:org/name:split` or a file."""
    demonstrations: str
    """Where demonstrations come from."""

    def run_folder(self, name: str) -> tuple[Path, bool]:
        """A recipe's run folder, and whether it has begun, so that it resumes."""
        return self.folder / name, (self.folder / name / "config.yaml").exists()
