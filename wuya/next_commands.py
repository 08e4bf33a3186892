"""The last words of a command: where its result lies and which command usually follows.

They go to stderr, once per run of several processes, and only for commands that people type: recipes that call each
other stay silent.
"""

import os
from pathlib import Path

from wuya.console import say

CHAT = "wuya chat {result}"
EVALUATE = (
    "wuya evaluate --sft {config.%s} --policies '{{%s: {result}}}' --prompts heldout.jsonl "
    "--judge_reward_model runs/judge --out runs/evaluation"
)
REWARD = "wuya reward --model runs/sft --rankings {result} --out runs/reward"
LABEL = "wuya label --candidates {result}"

NEXT: dict[str, tuple[str, ...]] = {
    "tokenizer": ("wuya prepare --inputs text.txt --tokenizer {result} --out runs/shards",),
    "prepare": ("wuya pretrain --data {result} --tokenizer {config.tokenizer} --out runs/base",),
    "pretrain": ("wuya sft --base {result} --demonstrations demonstrations.jsonl --out runs/sft",),
    "import": (CHAT, "wuya sft --base {result} --demonstrations demonstrations.jsonl --out runs/sft"),
    "sft": (CHAT, "wuya sample {result} --prompts prompts.jsonl --out runs/samples"),
    "sample": (LABEL,),
    "mix": (LABEL,),
    "label": (REWARD,),
    "reward": ("wuya ppo --policy {config.model} --reward {result} --prompts prompts.jsonl --out runs/ppo",),
    "ppo": (CHAT, EVALUATE % ("policy", "ppo")),
    "grpo": (CHAT, EVALUATE % ("policy", "grpo")),
    "dpo": (CHAT, EVALUATE % ("model", "dpo")),
    "kto": (CHAT, EVALUATE % ("model", "kto")),
    "simpo": (CHAT, EVALUATE % ("model", "simpo")),
    "orpo": (CHAT,),
    "best_of_n": ("wuya sft --base {config.model} --demonstrations {result} --out runs/best_of_n",),
    "evaluate": (),
    "agreement": (),
    "loop": (),
}
"""Verb -> the commands that usually follow, with `result` and the fields of `config` filled in."""

PRINT_THEIR_RESULT = frozenset({"tokenizer", "prepare", "import", "sample", "label"})
"""Verbs whose stdout is the place of their result."""

PAGES = {"evaluate": "report.html"}
"""Verb -> the file beside the result that people read."""


def say_next(verb: str, config: object, result: object) -> None:
    """Say where the result of a verb lies and what usually follows.

    Args:
        result: what the verb's `run` returned; a folder or file, else the run's folder `out` is meant.
    """
    if verb not in NEXT or int(os.environ.get("RANK", "0")) != 0:
        return
    place = result if isinstance(result, Path) else getattr(config, "out", None)
    if not isinstance(place, Path):
        return
    if verb in PAGES:
        place = place.with_name(PAGES[verb])
    elif (place / "model").is_dir():
        place = place / "model"
    if verb not in PRINT_THEIR_RESULT:
        say(f"result: {place}")
    commands = [command.format(config=config, result=place) for command in NEXT[verb]]
    if commands:
        say("next: " + "; or ".join(f"`{command}`" for command in commands))
