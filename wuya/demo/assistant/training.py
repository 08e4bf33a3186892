"""The stages that train and sample: SFT, K answers, two reward models, PPO. Each is a recipe with these settings."""

import json
from pathlib import Path
from typing import Any

from wuya.demo.assistant.sizes import Assistant
from wuya.recipes import ppo, reward_model, sample_completions, sft
from wuya.recipes.ppo import PPOConfig
from wuya.recipes.reward_model import RewardModelConfig
from wuya.recipes.sample_completions import SampleConfig
from wuya.recipes.sft import SFTConfig


def finetune(assistant: Assistant) -> dict[str, Any]:
    """Step 1: adapters on the top blocks learn people's demonstrations."""
    size, data = assistant.size, assistant.folder / "data"
    out, resume = assistant.run_folder("sft")
    sft.run(
        SFTConfig(
            base=Path(assistant.model),
            demonstrations=data / "demonstrations.jsonl",
            validation_demonstrations=data / "held_out_demonstrations.jsonl",
            out=out,
            resume=resume,
            epochs=size.sft_epochs,
            batch_size=2,
            lora_rank=size.lora_rank,
            lora_layers=size.lora_layers,
            learning_rate=5e-4,
            warmup=0.1,
            validate_every=0,
            num_samples=2,
            sample_tokens=size.max_answer_tokens,
            log_every=1,
            save_every=10,
            seed=assistant.seed,
            dtype="float32",
        )
    )
    return {}


def sample_answers(assistant: Assistant) -> dict[str, Any]:
    """Step 2a: K answers to prompts, queued for people: `wuya serve` shows them under Labeling."""
    size, out = assistant.size, assistant.folder / "samples"
    sample_completions.run(
        SampleConfig(
            checkpoint=assistant.folder / "sft",
            prompts=assistant.folder / "data" / "ppo.jsonl",
            out=out,
            resume=out.exists(),
            k=size.answers_per_prompt,
            max_prompts=size.ranked_prompts,
            max_tokens=size.max_answer_tokens,
            database=str(assistant.folder / "wuya.db"),
            project="assistant",
            seed=assistant.seed,
            dtype="float32",
        )
    )
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {"summary": summary}


def train_reward_model(assistant: Assistant) -> dict[str, Any]:
    """Step 2b: what PPO is going to optimise."""
    return _train_reward_model(assistant, "reward", "reward.jsonl", seed=assistant.seed)


def train_gold_reward_model(assistant: Assistant) -> dict[str, Any]:
    """The judge: other conversations, compared by other people, another seed. PPO never sees it."""
    return _train_reward_model(assistant, "gold", "gold.jsonl", seed=assistant.seed + 1_000)


def _train_reward_model(assistant: Assistant, name: str, rankings: str, *, seed: int) -> dict[str, Any]:
    size, data = assistant.size, assistant.folder / "data"
    out, resume = assistant.run_folder(name)
    held_out = data / "held_out.jsonl"
    reward_model.run(
        RewardModelConfig(
            model=assistant.folder / "sft",
            rankings=data / rankings,
            heldout_rankings=(held_out,),
            demonstrations=data / "held_out_demonstrations.jsonl",
            out=out,
            resume=resume,
            batch_size=8,
            microbatch_tokens=2_048,
            lora_rank=size.lora_rank,
            lora_layers=size.lora_layers,
            learning_rate=5e-4,
            warmup_steps=3,
            save_every=15,
            seed=seed,
            dtype="float32",
        )
    )
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))[str(held_out)]
    return {key: report[key] for key in ("accuracy", "num_prompts", "length_correlation", "vote_length_correlation")}


def run_ppo(assistant: Assistant) -> dict[str, Any]:
    """Step 3: four models on one trunk; the frozen blocks below the adapters are read once for all of them."""
    size = assistant.size
    out, resume = assistant.run_folder("ppo")
    ppo.run(
        PPOConfig(
            policy=assistant.folder / "sft",
            reward=str(assistant.folder / "reward"),
            prompts=assistant.folder / "data" / "ppo.jsonl",
            out=out,
            resume=resume,
            num_updates=size.ppo_updates,
            rollout_batch_size=size.episodes,
            minibatch_size=min(8, size.episodes // 2),
            microbatch_tokens=4_096,
            max_tokens=size.max_answer_tokens,
            max_prompt_tokens=256,
            lora_rank=size.lora_rank,
            lora_layers=size.lora_layers,
            learning_rate=4e-4,
            value_learning_rate=1e-3,
            warmup_updates=1,
            kl_coef=0.05,
            ema_decay=0.0,
            final_kl_prompts=0,
            show_samples_every=5,
            save_every=2,
            seed=assistant.seed,
            dtype="float32",
        )
    )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = ("objective/scores", "objective/kl", "objective/eos_share", "objective/length")
    return {"updates": [{name: row[name] for name in names} for row in rows if names[0] in row]}
