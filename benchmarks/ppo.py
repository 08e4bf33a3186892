"""One RLHF update, ours against TRL: PPO with four models, and RLOO and GRPO, from the same weights and prompts.

    python -m benchmarks.peers trl_ppo trl                          # once
    python -m benchmarks.ppo                                        # 12M parameters, 64 prompts x 48 new tokens
    python -m benchmarks.ppo --size 4M --episodes 32 --methods ppo  # a slow machine

An update is sampling, scoring by reference, reward and value model, and learning: for PPO 4 epochs of one step over all
episodes (both sides the same microbatches), for RLOO and GRPO one epoch, groups of 8, the reward a function. The models
are GPT-2s with random weights, float32, apart (no shared trunk); an end token is as unlikely as any other. Peak memory
is each process's own, models and imports included. Ours runs in this process, TRL in a venv of its own.
"""

import copy
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Figures, Peer, Side, alternate, finish, parser_of, peak_mb, row_of
from benchmarks.peers import peer_python
from wuya.allocator import set_up_allocator
from wuya.checkpoints.checkpoint import load_checkpoint, load_scalar_model, save_checkpoint
from wuya.data.chitchat import load_chats, transcript
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.losses.ppo import gae, kl_shaped_rewards, whiten
from wuya.models.gpt import GPT
from wuya.models.presets import gpt2
from wuya.models.reward_model import ScalarModel, value_model_from
from wuya.recipes import grpo
from wuya.recipes.grpo import GRPOConfig
from wuya.recipes.ppo import PPOConfig, learn, trained_models
from wuya.rlhf.group_update import group_batch
from wuya.rlhf.ppo_models import NoValues
from wuya.rlhf.ppo_update import PPOBatch
from wuya.rlhf.rewards import model_reward
from wuya.rlhf.rollouts import Rollouts, sample_rollouts
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

SIZES = {"1M": (4, 128, 4, 2048), "4M": (4, 256, 8, 4096), "12M": (6, 384, 6, 4096)}
"""Layers, width, heads, vocabulary."""
TARGETS = {"ppo": 2.5, "rloo": 2.2, "grpo": 2.2}
LEARNING_RATE, KL_COEF, PPO_EPOCHS, GROUP = 1e-5, 0.05, 4, 8


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="12M")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--microbatches", type=int, default=1, help="of a step, for both sides")
    parser.add_argument("--methods", nargs="+", choices=TARGETS, default=list(TARGETS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    set_up_allocator("ppo")
    rows = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = write_models(folder, arguments.size, arguments.episodes, arguments.prompt_tokens)
        settings |= {
            "threads": arguments.threads, "episodes": arguments.episodes, "new_tokens": arguments.new_tokens,
            "microbatches": arguments.microbatches, "ppo_epochs": PPO_EPOCHS, "kl_coef": KL_COEF,
            "learning_rate": LEARNING_RATE, "group_size": GROUP,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        for method in arguments.methods:
            peer = Peer(peer_python("trl_ppo" if method == "ppo" else "trl"), "benchmarks.peer_trl", method, name)
            ours = ppo_side(folder, settings) if method == "ppo" else group_side(method, folder, settings)
            rounds = alternate({"ours": ours, f"TRL {peer.versions['trl']}": peer}, pairs=arguments.pairs)
            peer.close()
            versions |= peer.versions
            figures = rounds.figures
            mean_peaks = {side: max(f["peak_mb"] for f in rows_) for side, rows_ in figures.items()}
            (theirs,) = (side for side in mean_peaks if side != "ours")
            rows.append(
                row_of(
                    f"{method.upper()} update, {arguments.size}, {arguments.episodes} x {arguments.new_tokens} tokens",
                    rounds, amount=1, unit="s", target=TARGETS[method],
                    checks={
                        "new tokens of ours": figures["ours"][-1]["new_tokens"],
                        "peak memory, ours over theirs": round(mean_peaks["ours"] / mean_peaks[theirs], 2),
                    },
                )
            )  # fmt: skip
    finish("ppo", rows, arguments, versions=versions)


def write_models(folder: Path, size: str, num_prompts: int, prompt_tokens: int) -> dict[str, Any]:
    """policy/ and reward/ as Hugging Face folders; returns the prompts, as ids and as texts."""
    num_layers, width, heads, vocab_size = SIZES[size]
    texts = [transcript(chat.turns) for chat in load_chats()]
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    config = replace(gpt2(num_layers, width, heads, context_length=256), vocab_size=tokenizer.vocab_size, dropout=0.0)
    torch.manual_seed(0)
    policy = GPT(config)
    save_checkpoint(folder / "policy", policy, tokenizer)
    save_checkpoint(folder / "reward", ScalarModel(copy.deepcopy(policy)), tokenizer)
    rng = random.Random(0)
    prompts: list[list[int]] = []
    while len(prompts) < num_prompts:
        ids = tokenizer.encode(rng.choice(texts))[:prompt_tokens]
        if len(ids) == prompt_tokens and tokenizer.encode(tokenizer.decode(ids)) == ids:
            prompts.append(ids)
    return {"prompts": prompts, "prompt_texts": [tokenizer.decode(ids) for ids in prompts]}


def sampler(folder: Path, settings: dict[str, Any]) -> tuple[GPT, Tokenizer, Engine, SamplingParams, int]:
    """What both methods sample with; microbatches hold as many tokens as TRL's."""
    policy, tokenizer = load_checkpoint(folder / "policy")
    engine = Engine(policy, tokenizer, max_batch_size=settings["episodes"])
    length = len(settings["prompts"][0]) + settings["new_tokens"]
    tokens = -(-settings["episodes"] // settings["microbatches"]) * length
    return policy, tokenizer, engine, SamplingParams(max_tokens=settings["new_tokens"]), tokens


def new_tokens(rollouts: Rollouts) -> float:
    """Sampled in this update."""
    return float(rollouts.completion_lengths_B.sum())


def ppo_side(folder: Path, settings: dict[str, Any]) -> Side:
    """The loop of wuya/recipes/ppo.py."""
    policy, _, engine, sampling, tokens = sampler(folder, settings)
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    reward_model, _ = load_scalar_model(folder / "reward")
    value_model = value_model_from(reward_model)
    config = PPOConfig(
        policy=folder, reward="", prompts=folder, out=folder,
        rollout_batch_size=settings["episodes"], minibatch_size=settings["episodes"], ppo_epochs=PPO_EPOCHS,
        microbatch_tokens=tokens, learning_rate=LEARNING_RATE, value_learning_rate=LEARNING_RATE,
        value_warmup_updates=0, warmup_updates=0, kl_coef=KL_COEF, ema_decay=0,
    )  # fmt: skip
    trained = trained_models(policy, value_model, config)
    score = model_reward(reward_model.eval(), max_length=256, microbatch_tokens=tokens)

    def update() -> Figures:
        rollouts = sample_rollouts(
            engine, settings["prompts"], sampling=sampling, policy=policy, reference=reference,
            value_model=value_model, score=score, microbatch_tokens=tokens,
        )  # fmt: skip
        mask_BT, old_logprobs_BT, old_values_BT = rollouts.mask_BT, rollouts.old_logprobs_BT, rollouts.old_values_BT
        rewards_BT = kl_shaped_rewards(
            rollouts.scores_B, old_logprobs_BT, rollouts.ref_logprobs_BT, mask_BT, kl_coef=KL_COEF
        )
        advantages_BT, returns_BT = gae(rewards_BT, old_values_BT, mask_BT, gamma=1.0, lam=config.gae_lambda)
        batch = PPOBatch(
            rollouts.ids_BT, mask_BT, old_logprobs_BT, old_values_BT, whiten(advantages_BT, mask_BT), returns_BT,
            rollouts.lengths_B,
        )  # fmt: skip
        learn(*trained, batch, config, update=1)
        return {"peak_mb": peak_mb(), "new_tokens": new_tokens(rollouts)}

    return update


def group_side(method: str, folder: Path, settings: dict[str, Any]) -> Side:
    """The loop of wuya/recipes/grpo.py."""
    policy, _, engine, sampling, tokens = sampler(folder, settings)
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    prompts = settings["prompts"][: settings["episodes"] // GROUP]
    config = GRPOConfig(
        algorithm="rloo" if method == "rloo" else "grpo", policy=folder, reward="", prompts=folder, out=folder,
        group_size=GROUP,
        rollout_batch_size=settings["episodes"], minibatch_size=settings["episodes"], microbatch_tokens=tokens,
        learning_rate=LEARNING_RATE, kl_coef=KL_COEF, warmup_updates=0, max_tokens=settings["new_tokens"],
    )  # fmt: skip

    def score(_: object, completions: Any) -> Tensor:
        return torch.tensor([float(sum(ids) % 7) for ids in completions])

    trained = grpo.trained_policy(policy, config)
    advantage, policy_loss = grpo.algorithm(config)

    def update() -> Figures:
        rollouts = sample_rollouts(
            engine, prompts, sampling=sampling, num_samples=GROUP, policy=policy, reference=reference,
            value_model=NoValues(), score=score, microbatch_tokens=tokens,
        )  # fmt: skip
        scores_B = grpo.final_scores(rollouts, config)
        advantages_PG = advantage(scores_B.view(-1, GROUP), rollouts.kl_B.view(-1, GROUP))
        grpo.learn(
            trained, group_batch(rollouts, advantages_PG), config, update=1, policy_loss=policy_loss, max_length=256
        )
        return {"peak_mb": peak_mb(), "new_tokens": new_tokens(rollouts)}

    return update


if __name__ == "__main__":
    main()
