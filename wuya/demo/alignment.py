"""Step 3: PPO and PPO-ptx, what they did to gold and proxy scores, and the pre-training mix alone as a control."""

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from wuya.data.formats import read_prompts
from wuya.demo.sizes import Demo
from wuya.feedback.simulated import Labelers
from wuya.recipes import ppo
from wuya.recipes import pretrain as pretrain_recipe
from wuya.recipes.ppo import PPOConfig
from wuya.recipes.pretrain import PretrainConfig
from wuya.records import Candidate
from wuya.rlhf.rollout_files import read_episodes
from wuya.tokenizer.bpe import Tokenizer

PTX_COEF = 0.1
"""Weight of the pre-training loss, a mean over tokens like the policy's."""


def run_ppo(demo: Demo) -> dict[str, Any]:
    """Plain PPO."""
    ppo.run(ppo_config(demo))
    return {"gold_and_proxy": _gold_and_proxy(demo.folder, "ppo")}


def run_ppo_ptx(demo: Demo) -> dict[str, Any]:
    """PPO-ptx: differs from plain PPO in the pre-training mix alone."""
    ppo.run(
        replace(
            ppo_config(demo),
            out=demo.folder / "ppo_ptx",
            resume=(demo.folder / "ppo_ptx").exists(),
            ptx_coef=PTX_COEF,
        )
    )
    return {"gold_and_proxy": _gold_and_proxy(demo.folder, "ppo_ptx")}


def ppo_config(demo: Demo) -> PPOConfig:
    """PPO scaled to a run of a few dozen steps. Deviations from InstructGPT, and why, in docs/guides/demo.md."""
    return PPOConfig(
        policy=demo.folder / "sft",
        reward=str(demo.folder / "reward"),
        prompts=demo.folder / "data" / "ppo.jsonl",
        ptx_shards=demo.folder / "shards" / "train",
        out=demo.folder / "ppo",
        resume=(demo.folder / "ppo").exists(),
        num_updates=demo.size.ppo_updates,
        rollout_batch_size=demo.size.episodes,
        minibatch_size=max(8, demo.size.episodes // 4),
        ppo_epochs=1,
        max_tokens=demo.size.max_answer_tokens,
        max_prompt_tokens=96,
        learning_rate=5e-4,
        value_learning_rate=5e-4,
        warmup_updates=2,
        value_warmup_updates=1,
        kl_coef=0.3,
        ema_decay=0.9,
        ptx_ratio=1.0,
        ptx_context_length=64,
        dump_rollouts=True,
        save_every=4,
        seed=demo.seed,
        dtype="float32",
    )


def _gold_and_proxy(folder: Path, run: str) -> list[dict[str, float]]:
    """Of each update's episodes: KL, the reward model's mean score, and the labelers' mean noiseless utility."""
    labelers = Labelers.load(folder / "data" / "labelers.json")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    prompts = {prompt.id: prompt for prompt in read_prompts(folder / "data" / "ppo.jsonl")}
    rows = []
    for file in sorted((folder / run / "rollouts").glob("*.parquet")):
        episodes = list(read_episodes(file))
        answers = [_answer(tokenizer, episode.token_ids) for episode in episodes]
        gold = [labelers.shared_utility(prompts[e.prompt_id], a) for e, a in zip(episodes, answers, strict=True)]
        rows.append({"kl": mean(e.kl for e in episodes), "proxy": mean(e.score for e in episodes), "gold": mean(gold)})
    return rows


def _answer(tokenizer: Tokenizer, token_ids: tuple[int, ...]) -> Candidate:
    text = tokenizer.decode(token_ids, skip_special=True).strip()
    return Candidate(text, token_ids, finished=token_ids[-1] in tokenizer.turn_end.ids)


def continue_pretraining(demo: Demo) -> dict[str, Any]:
    """What the pre-training mix does alone: the SFT model on as many tokens of it, at PPO's rate, without PPO."""
    settings = ppo_config(demo)
    steps = settings.num_updates * settings.steps_per_update
    pretrain_recipe.run(
        PretrainConfig(
            data=demo.folder / "shards" / "train",
            tokenizer=demo.folder / "tokenizer",
            init=demo.folder / "sft",
            num_tokens=steps * settings.ptx_batch_size * settings.ptx_context_length,
            context_length=settings.ptx_context_length,
            batch_size=settings.ptx_batch_size,
            microbatch_size=settings.ptx_batch_size,
            optimizer="adamw",
            learning_rate=settings.learning_rate,
            warmup=0.1,
            warmdown=0.0,
            validate_every=0,
            out=demo.folder / "sft_plus_ptx",
            resume=(demo.folder / "sft_plus_ptx").exists(),
            seed=demo.seed,
            dtype="float32",
        )
    )
    return {}
