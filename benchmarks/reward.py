"""One optimizer step of the reward model on K-way rankings, ours against TRL's RewardTrainer on the same comparisons.

    python -m benchmarks.peers trl                                  # once
    python -m benchmarks.reward                                     # 12M parameters, K = 4, 6, 9
    python -m benchmarks.reward --size 4M --prompts 4 --k 4 9       # a slow machine

TRL's batch is the K (K - 1) / 2 pairs of every prompt, 2 sequences each; ours reads each answer once, and a prompt once
for all its answers. Both start from the same weights and report the loss of their first step: a mean over pairs, equal
here since every prompt has as many.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Figures, Peer, Side, alternate, finish, parser_of, peak_mb, row_of
from benchmarks.peers import peer_python
from benchmarks.ppo import SIZES, write_models
from wuya.allocator import set_up_allocator
from wuya.checkpoints.checkpoint import load_scalar_model
from wuya.recipes.reward_model import ranking_gradients
from wuya.records import Prompt
from wuya.rlhf.ranked_prompts import RankedPrompt, Vote
from wuya.training.optimizer import build_optimizer, clip_gradients

LEARNING_RATE = 1e-5


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="12M")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=48)
    parser.add_argument("--answer_tokens", type=int, default=32)
    parser.add_argument("--k", type=int, nargs="+", default=[4, 6, 9])
    parser.add_argument("--microbatches", type=int, default=1, help="of TRL's step: what its memory needs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    set_up_allocator("reward")
    rows = []
    versions: dict[str, str] = {}
    for k in arguments.k:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            settings = write_models(folder, arguments.size, arguments.prompts, arguments.prompt_tokens)
            rng = random.Random(k)
            settings["answers"] = [
                [[rng.randrange(300, 2000) for _ in range(arguments.answer_tokens)] for _ in range(k)]
                for _ in settings["prompts"]
            ]
            settings |= {"threads": arguments.threads, "microbatches": arguments.microbatches}
            settings["learning_rate"] = LEARNING_RATE
            (folder / "settings.json").write_text(json.dumps(settings))
            peer = Peer(peer_python("trl"), "benchmarks.peer_trl", "reward", name)
            theirs = f"TRL {peer.versions['trl']}"
            first: dict[str, float] = {}

            def noted(side: Side, key: str, first: dict[str, float] = first) -> Side:
                def call() -> Figures | None:
                    figures = side() or {}
                    first.setdefault(key, figures["loss"])
                    return figures

                return call

            sides = {"ours": noted(our_side(folder, settings), "ours"), theirs: noted(peer, theirs)}
            rounds = alternate(sides, pairs=arguments.pairs)
            peer.close()
            versions |= peer.versions
            assert abs(first["ours"] - first[theirs]) < 2e-3, f"the sides do not learn the same: {first}"
            rows.append(
                row_of(
                    f"reward step, {arguments.size}, {arguments.prompts} prompts x K = {k}", rounds, amount=1, unit="s",
                    target=2.0,
                    checks={
                        "loss of the first step": {side: round(loss, 5) for side, loss in first.items()},
                        "sequences of ours, K a prompt": k * arguments.prompts,
                        "of theirs": int(rounds.figures[theirs][0]["sequences"]),
                    },
                )
            )  # fmt: skip
    finish("reward", rows, arguments, versions=versions)


def our_side(folder: Path, settings: dict[str, Any]) -> Side:
    """The loop of wuya/recipes/reward_model.py."""
    model, _ = load_scalar_model(folder / "reward")
    model.requires_grad_(True)
    optimizer = build_optimizer(model, name="adamw", lr=LEARNING_RATE)
    batch = batch_of(settings)

    def step() -> Figures:
        metrics = ranking_gradients(model, batch, microbatch_tokens=1 << 20)
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": metrics["loss"], "peak_mb": peak_mb()}

    return step


def batch_of(settings: dict[str, Any]) -> list[RankedPrompt]:
    """The rankings as batch elements: answer i is better than answer i + 1."""
    batch = []
    for number, (ids, answers) in enumerate(zip(settings["prompts"], settings["answers"], strict=True)):
        vote = Vote(tuple(range(len(answers))), tuple(range(1, len(answers) + 1)), "made up")
        sequences = [ids + answer for answer in answers]
        batch.append(RankedPrompt(Prompt(str(number), ()), sequences=sequences, votes=[vote], prompt_length=len(ids)))
    return batch


if __name__ == "__main__":
    main()
