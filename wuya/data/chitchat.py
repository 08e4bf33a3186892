"""The demo's corpus: person-to-person chats (PyPI `chitchat-dataset`, MIT), split so that nothing leaks.

A few people are in very many of the chats and openings recur, so a random split would test on people and prompts seen
in training. Here (1) a whole chat is on one side; (2) a held-out chat's less frequent partner is in no training chat;
(3) prompts are the last 1-3 turns before a reply, anywhere in a chat, with at least four content words, de-duplicated
across all uses, at most 200 an author; (4) SFT, reward-model, PPO, tuning and final prompts are disjoint.

The split is a function of the data alone, never of a run's seed: what one seed tunes on, no other seed reports on.
"""

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wuya.data.text import content_words
from wuya.errors import DataError
from wuya.records import Demonstration, Message, Prompt, Role

Split = Literal["train", "validation", "test"]
Use = Literal["sft", "judge", "reward", "ppo", "calibration", "tuning", "final"]
SPEAKERS = ("A", "B")
MAX_PROMPTS_PER_AUTHOR = 200
MIN_CONTENT_WORDS = 4
MAX_PROMPT_WORDS = 36
HELD_OUT_SHARE = {"validation": 0.12, "test": 0.16}
"""Shares of the people (not of the chats) held out; people in more than `MAX_HELD_OUT_CHATS` chats never are."""
MAX_HELD_OUT_CHATS = 40
TRAINING_USES: tuple[tuple[Use, float], ...] = (("sft", 0.50), ("reward", 0.12), ("ppo", 0.26), ("judge", 0.12))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one person wrote before the other answered; several messages are joined by spaces."""

    sender: str
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation of two people, in order; `ratings` are the partners' own (1-10), where given."""

    id: str
    turns: tuple[Turn, ...]
    ratings: tuple[tuple[str, int], ...] = ()


def load_chats(path: Path | None = None) -> list[Chat]:
    """Read the chats in which two people wrote. Monologues (44 % of the file) are left out.

    Raises: DataError when the package is not installed.
    """
    with open(path or _package_file(), encoding="utf-8") as file:
        raw = json.load(file)
    chats = (
        Chat(f"chitchat-{number}", tuple(_turns(row["messages"])), tuple(sorted(row.get("ratings", {}).items())))
        for number, row in enumerate(raw.values())
    )
    return [chat for chat in chats if len({turn.sender for turn in chat.turns}) == 2]


def split_chats(chats: Iterable[Chat]) -> dict[Split, list[Chat]]:
    """Whole chats to train, validation, test; a held-out chat's less frequent partner is in no training chat."""
    chats = list(chats)
    counts = Counter(sender for chat in chats for sender in _people(chat))
    side = {sender: _side_of(sender, counts[sender]) for sender in counts}
    splits: dict[Split, list[Chat]] = {"train": [], "validation": [], "test": []}
    for chat in chats:
        rarer = min(_people(chat), key=lambda sender: (counts[sender], sender))
        sides = {side[sender] for sender in _people(chat)}
        if sides == {"train"} or side[rarer] != "train":
            splits[side[rarer]].append(chat)
        # else dropped: training must not see the frequent partner, and the rare one is no held-out person
    return splits


def transcript(turns: Iterable[Turn | Message], *, first_speaker: int = 0) -> str:
    """The plain form the base model is pre-trained on and asked in: a turn is a line `A:` or `B:`, then its text.

    A turn's text starts a line, as it does in the chat format, so that its first word is the same token in both.
    """
    lines = []
    for number, turn in enumerate(turns):
        text = turn.text if isinstance(turn, Turn) else turn.content
        lines.append(f"{SPEAKERS[(first_speaker + number) % 2]}:\n{' '.join(text.split())}\n")
    return "".join(lines)


def transcript_prompt(prompt: Prompt) -> str:
    """The same prompt as a transcript that stops where the answering speaker starts to write."""
    return transcript(prompt.messages) + f"{SPEAKERS[len(prompt.messages) % 2]}:\n"


def exchanges(splits: dict[Split, list[Chat]]) -> dict[Use, list[Demonstration]]:
    """Prompts with the human reply that followed, by use; disjoint by chat and by normalised last turn.

    Held-out uses are filled first, so that a prompt which recurs belongs to the evaluation and leaves training.
    """
    uses: dict[Use, list[Demonstration]] = {
        use: [] for use in (*(u for u, _ in TRAINING_USES), "calibration", "tuning", "final")
    }
    seen: set[str] = set()
    per_author: Counter[str] = Counter()
    order: tuple[tuple[Split, list[Chat]], ...] = tuple(
        (split, splits[split]) for split in ("test", "validation", "train")
    )
    for split, chats in order:
        for chat in sorted(chats, key=lambda chat: _digest(chat.id)):
            use = _use_of(chat, split)
            for demonstration in _exchanges_of(chat):
                key = normalised(demonstration.prompt.messages[-1].content)
                if key in seen or per_author[demonstration.prompt.author] >= MAX_PROMPTS_PER_AUTHOR:
                    continue
                seen.add(key)
                per_author[demonstration.prompt.author] += 1
                uses[use].append(demonstration)
    return {use: sorted(rows, key=lambda row: _digest(row.prompt.id)) for use, rows in uses.items()}


def normalised(text: str) -> str:
    """Lower-case words only: two prompts that differ in case or punctuation are the same prompt."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _exchanges_of(chat: Chat) -> Iterator[Demonstration]:
    num_words = [len(turn.text.split()) for turn in chat.turns]
    for position in range(1, len(chat.turns)):
        if num_words[position - 1] > MAX_PROMPT_WORDS or len(chat.turns[position - 1].text) < 3 * MIN_CONTENT_WORDS:
            continue  # found out cheaply: a content word has at least three letters
        num_turns = min(position, 1 + _digest(f"{chat.id}/{position}") % 3)
        if sum(num_words[position - num_turns : position]) > MAX_PROMPT_WORDS:
            continue
        turns = chat.turns[position - num_turns : position]
        if len(set(content_words(turns[-1].text))) < MIN_CONTENT_WORDS:
            continue
        roles: tuple[Role, Role] = ("user", "assistant")
        messages = tuple(Message(roles[(num_turns - 1 - i) % 2], turn.text) for i, turn in enumerate(turns))
        author = hashlib.sha256(turns[-1].sender.encode()).hexdigest()[:12]
        prompt = Prompt(f"{chat.id}/{position}", messages, source="chitchat", author=author)
        yield Demonstration(prompt, Message("assistant", chat.turns[position].text), labeler="human")


def _turns(raw: list[list[dict[str, str]]]) -> Iterator[Turn]:
    previous: Turn | None = None
    for messages in raw:
        text = " ".join(" ".join(message["text"].split()) for message in messages).strip()
        if not text:
            continue
        sender = messages[0]["sender"]
        if previous is not None and previous.sender == sender:  # an empty turn between them was dropped
            previous = Turn(sender, f"{previous.text} {text}")
            continue
        if previous is not None:
            yield previous
        previous = Turn(sender, text)
    if previous is not None:
        yield previous


def _people(chat: Chat) -> set[str]:
    return {turn.sender for turn in chat.turns}


def _side_of(sender: str, num_chats: int) -> Split:
    share = (_digest(sender) % 10_000) / 10_000
    if num_chats > MAX_HELD_OUT_CHATS or share >= sum(HELD_OUT_SHARE.values()):
        return "train"
    return "validation" if share < HELD_OUT_SHARE["validation"] else "test"


def _use_of(chat: Chat, split: Split) -> Use:
    share = (_digest(f"use/{chat.id}") % 10_000) / 10_000
    if split == "test":
        return "final"
    if split == "validation":
        return "tuning" if share < 0.7 else "calibration"
    for use, upto in TRAINING_USES:
        if share < upto:
            return use
        share -= upto
    return TRAINING_USES[-1][0]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _package_file() -> Path:
    spec = importlib.util.find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise DataError("the demo's chats are not installed", hint="pip install 'wuya[demo]'")
    return Path(spec.origin).parent / "dataset.json"
