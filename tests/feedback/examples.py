"""Prompts, answers and rankings for the tests of the store."""

from dataclasses import replace

from wuya.feedback.queue import LabelingTask
from wuya.feedback.store import FeedbackStore
from wuya.records import Candidate, Message, Prompt, Ranking


def prompt(name: str = "p1", text: str = "") -> Prompt:
    return Prompt(
        name, (Message("system", "Be kind."), Message("user", text or f"question {name}")), "test", "author-1"
    )


def candidates(k: int = 3) -> tuple[Candidate, ...]:
    return (
        Candidate("first", (5, 6, 7), model="runs/sft", temperature=0.7),
        Candidate("second", model="human"),
        *(Candidate(f"answer {i}", model="runs/sft", finished=False) for i in range(3, k + 1)),
    )


def ranking(name: str = "p1", labeler: str = "ann", ranks: tuple[int, ...] = (2, 1, 2), **fields: object) -> Ranking:
    return replace(Ranking(prompt(name), candidates(len(ranks)), ranks, labeler), **fields)  # type: ignore[arg-type]


def claimed(store: FeedbackStore, labeler: str = "ann", **options: object) -> LabelingTask:
    task = store.claim(labeler, **options)  # type: ignore[arg-type]
    assert task is not None
    return task
