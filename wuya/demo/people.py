"""Who is in the demo: real people's chats, split so that nothing leaks, and the simulated labelers."""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from wuya.console import say
from wuya.data.chitchat import Use, exchanges, load_chats, split_chats, transcript
from wuya.data.formats import write_demonstrations, write_prompts
from wuya.demo.sizes import DemoSize
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import Labelers, make_labelers
from wuya.files import make_folder, write_atomic
from wuya.records import Candidate, Demonstration

PEOPLE_SEED = 2026
"""The labelers are the same people whatever the run's seed."""
BEST_REPLIES = 0.4
"""Share of the human replies that labelers would have been content to write: the demonstrations."""
LONGEST_REPLY_WORDS = 16
"""A demonstration must fit into the longest answer, or the model learns not to end."""
FORM_FEED = "\f"


def prepare_people_and_data(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Split the chats, let the labelers choose demonstrations, write the files all later stages read."""
    data = make_folder(folder / "data")
    splits = split_chats(load_chats())
    if size.max_chats is not None:
        splits["train"] = splits["train"][: size.max_chats]
    for split, chats in splits.items():
        write_atomic(data / f"{split}.txt", FORM_FEED.join(transcript(chat.turns) for chat in chats))
    uses = exchanges(splits)
    human = [row for row in uses["sft"] if len(row.completion.split()) <= LONGEST_REPLY_WORDS]
    normaliser = Normaliser.fit((row.prompt.messages, row.completion) for row in human)
    labelers = make_labelers(normaliser, num_training=6, num_held_out=5, own_taste_std=0.15, seed=PEOPLE_SEED)
    labelers.save(data / "labelers_uncalibrated.json")
    for use in ("sft", "judge"):
        write_demonstrations(data / f"{use}.jsonl", _chosen_by(labelers, uses[use]))
    write_demonstrations(data / "real_turns.jsonl", _short(uses["judge"]))
    prompt_uses: tuple[Use, ...] = ("reward", "ppo", "reward_eval", "tuning", "final")
    for use in prompt_uses:
        write_prompts(data / f"{use}.jsonl", [row.prompt for row in uses[use]])
    counts = {use: len(rows) for use, rows in uses.items()}
    say(f"chats: {', '.join(f'{len(c):,} {s}' for s, c in splits.items())}; prompts: {counts}")
    return {"chats": {split: len(chats) for split, chats in splits.items()}, "prompts": counts}


def _chosen_by(labelers: Labelers, rows: Iterable[Demonstration]) -> list[Demonstration]:
    """The human replies the training labelers like best on average: what they would have written themselves."""
    short = _short(rows)

    def liked(row: Demonstration) -> float:
        candidate = Candidate(row.completion)
        return mean(labeler.utility(row.prompt, candidate) for labeler in labelers.training)

    threshold = sorted(map(liked, short), reverse=True)[int(BEST_REPLIES * len(short))]
    return [row for row in short if liked(row) > threshold]


def _short(rows: Iterable[Demonstration]) -> list[Demonstration]:
    return [row for row in rows if 2 <= len(row.completion.split()) <= LONGEST_REPLY_WORDS]
