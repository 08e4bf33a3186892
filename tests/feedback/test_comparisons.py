"""What people do in a chat becomes comparisons, weighted, and nothing that they did not mean."""

from datetime import UTC, datetime, timedelta

from wuya.feedback.comparisons import (
    DEFAULT_WEIGHTS,
    ChatMessage,
    comparisons_of_chat,
    comparisons_of_feedback,
    weighted,
)
from wuya.records import Comparison, Feedback, Message, Prompt

PROMPT = Prompt("p", (Message("user", "?"),))


def chat(*rows: tuple[str, str | None, str, str]) -> list[ChatMessage]:
    """(id, parent, role, text) in the order they were written; a text `old -> new` was corrected by hand."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    messages = []
    for n, (id, parent, role, text) in enumerate(rows):
        before, _, after = text.rpartition(" -> ")
        messages.append(ChatMessage(id, parent, role, after, start + timedelta(minutes=n), before))  # type: ignore[arg-type]
    return messages


def pairs(comparisons: list[Comparison]) -> list[tuple[str, str, str]]:
    return [(c.source, c.chosen, c.rejected) for c in comparisons]


def test_going_on_with_a_regenerated_answer_prefers_it_to_those_before() -> None:
    tree = chat(
        ("u1", None, "user", "hi"),
        ("a1", "u1", "assistant", "bad"),
        ("a2", "u1", "assistant", "worse"),
        ("a3", "u1", "assistant", "good"),
        ("u2", "a3", "user", "and?"),
    )
    found = list(comparisons_of_chat(tree, labeler="ann", system_prompt="be kind"))
    assert pairs(found) == [("regenerate", "good", "bad"), ("regenerate", "good", "worse")]
    assert found[0].prompt.messages == (Message("system", "be kind"), Message("user", "hi"))
    assert {c.group for c in found} == {"u1"} and found[0].labeler == "ann"


def test_going_back_to_the_first_answer_or_on_from_both_or_from_none_says_nothing() -> None:
    answers = [("u1", None, "user", "hi"), ("a1", "u1", "assistant", "one"), ("a2", "u1", "assistant", "two")]
    first, second = ("u2", "a1", "user", "and?"), ("u3", "a2", "user", "and?")
    assert list(comparisons_of_chat(chat(*answers))) == []
    assert list(comparisons_of_chat(chat(*answers, first))) == []
    assert list(comparisons_of_chat(chat(*answers, first, second))) == []


def test_a_corrected_answer_is_preferred_to_what_the_model_said() -> None:
    tree = chat(("u1", None, "user", "2+2?"), ("a1", "u1", "assistant", "5 -> 4"))
    assert pairs(list(comparisons_of_chat(tree))) == [("edit", "4", "5")]


def test_a_better_answer_beats_the_one_it_replaces_and_a_users_thumbs_compare_only_their_own_answers() -> None:
    feedback = [
        Feedback(PROMPT, "good", 1, labeler="ann"),
        Feedback(PROMPT, "bad", -1, better_answer="ideal", labeler="ann"),
        Feedback(PROMPT, "dull", -1, labeler="bob"),
        Feedback(Prompt("q", PROMPT.messages), "elsewhere", -1, labeler="ann"),
    ]
    assert pairs(list(comparisons_of_feedback(feedback))) == [
        ("better_answer", "ideal", "bad"),
        ("thumbs", "good", "bad"),
    ]


def test_weights_multiply_and_evaluations_are_never_trained_on() -> None:
    given = [Comparison(PROMPT, "a", "b", source=s, weight=2.0) for s in ("compare", "regenerate", "eval")]
    assert [(c.source, c.weight) for c in weighted(given, DEFAULT_WEIGHTS)] == [("compare", 2.0), ("regenerate", 0.5)]
