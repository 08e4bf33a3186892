"""Who is in the demo: real people's chats, split so that nothing leaks, and the simulated labelers."""

import shutil
from collections.abc import Iterable
from statistics import mean
from typing import Any

from wuya.console import say
from wuya.data.chitchat import Use, exchanges, load_chats, split_chats, transcript
from wuya.data.formats import write_demonstrations, write_prompts
from wuya.demo.sizes import Demo
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import Labelers, make_labelers
from wuya.files import make_folder, write_atomic
from wuya.records import Candidate, Demonstration

SHARED_TASTE = {
    "kind": 0.9,
    "on_topic": 0.5,
    "asks_back": 0.9,
    "not_repetitive": 0.4,
    "sensible_length": 0.7,
    "finished": 0.25,
}
"""What all labelers value: utility per standard deviation of human replies."""
PEOPLE_SEED = 2026
"""The labelers are the same people whatever the run's seed."""
BEST_REPLIES = 0.4
"""Share of the human replies that labelers would have been content to write: the demonstrations."""
LONGEST_REPLY_WORDS = 16
"""A demonstration must fit into the longest answer, or the model learns not to end."""
FORM_FEED = "\f"
HELD_OUT_CHATS = {"final": "test.txt", "tuning": "validation.txt"}


def prepare_people_and_data(demo: Demo) -> dict[str, Any]:
    """Split the chats, let the labelers choose demonstrations, write the files all later stages read."""
    data = make_folder(demo.folder / "data")
    splits = split_chats(load_chats())
    if demo.size.max_chats is not None:
        splits["train"] = splits["train"][: demo.size.max_chats]
    for split, chats in splits.items():
        write_atomic(data / f"{split}.txt", FORM_FEED.join(transcript(chat.turns) for chat in chats))
    uses = exchanges(splits)
    human = [row for row in uses["sft"] if len(row.completion.split()) <= LONGEST_REPLY_WORDS]
    normaliser = Normaliser.fit((row.prompt.messages, row.completion) for row in human)
    labelers = make_labelers(
        normaliser, num_training=6, num_held_out=5, weights=SHARED_TASTE, own_taste_std=0.15, extra_weight=0.2,
        seed=PEOPLE_SEED,
    )  # fmt: skip
    labelers.save(data / "labelers_uncalibrated.json")
    for use in ("sft", "judge"):
        write_demonstrations(data / f"{use}.jsonl", _chosen_by(labelers, uses[use]))
    write_demonstrations(data / "real_turns.jsonl", _short(uses["judge"]))
    for name, rows in _prompts_by_use(demo, uses).items():
        write_prompts(data / f"{name}.jsonl", [row.prompt for row in rows])
    shutil.copyfile(data / HELD_OUT_CHATS[demo.evaluate_on], data / "evaluation.txt")
    counts = {use: len(rows) for use, rows in uses.items()}
    say(f"chats: {', '.join(f'{len(c):,} {s}' for s, c in splits.items())}; prompts: {counts}")
    return {"chats": {split: len(chats) for split, chats in splits.items()}, "prompts": counts}


def _prompts_by_use(demo: Demo, uses: dict[Use, list[Demonstration]]) -> dict[str, list[Demonstration]]:
    """Prompts for training, for setting the labelers' noise, for the reward model's report, and for the policies."""
    judged = uses[demo.evaluate_on]
    first = demo.size.evaluation_prompts
    return {
        "reward": uses["reward"],
        "ppo": uses["ppo"],
        "calibration": uses["calibration"],
        "evaluation": judged[:first],
        "reward_report": judged[first : first + demo.size.held_out_rankings],
    }


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
