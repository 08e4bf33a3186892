"""Imports keep one of every question, not too many of anybody, and nobody's telephone number."""

import pytest

from wuya.feedback.prompt_filter import PromptFilter, personal_data, redacted, split_of
from wuya.records import Message, Prompt


def prompt(text: str, author: str = "", system: str = "") -> Prompt:
    messages = ((Message("system", system),) if system else ()) + (Message("user", text),)
    return Prompt(f"id {text} {author}", messages, "test", author)


LONG = "Write a polite e-mail to my landlord, who has not repaired the heating for three weeks, and ask for "


def test_long_common_prefixes_are_duplicates() -> None:
    sieve = PromptFilter([f"user: {LONG}a date."])
    assert sieve.admit(prompt(f"{LONG}a DATE.")) is None, "case and spaces do not matter"
    assert sieve.admit(prompt(f"{LONG}a discount.")) is None
    assert sieve.admit(prompt("Write a poem.")) is not None
    assert sieve.admit(prompt("Write a poem!")) is not None, "short texts are compared as a whole"
    assert sieve.admit(prompt(LONG + "a discount. " * 20)) is not None, "most of it is new"
    assert (sieve.report.duplicates, sieve.report.near_duplicates, sieve.report.added) == (1, 1, 3)


def test_a_shared_system_message_makes_no_duplicates() -> None:
    sieve = PromptFilter()
    assert all(sieve.admit(prompt(f"question {i}", system=LONG * 3)) for i in range(5))


def test_no_author_gives_more_than_two_hundred() -> None:
    sieve = PromptFilter(per_author={"ann": 198})
    kept = [sieve.admit(prompt(f"{i} is a number; is it a prime one?", "ann")) is not None for i in range(5)]
    assert kept == [True, True, False, False, False] and sieve.report.over_limit == 3
    assert sieve.admit(prompt("someone else asks this", "bob")) is not None


def test_splits_are_by_author() -> None:
    assert len({split_of("ann") for _ in range(3)}) == 1
    splits = [split_of(f"author {i}") for i in range(2000)]
    assert 0.87 < splits.count("train") / 2000 < 0.93 and splits.count("test") > 50
    sieve = PromptFilter()
    found = {sieve.admit(prompt(f"question {i} of many", "ann"))[1] for i in range(9)}  # type: ignore[index]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ann.lee+x@example.org", "email"),
        ("call +49 170 1234 5678 today", "phone"),
        ("call 13812345678", "phone"),
        ("pay with 4111 1111 1111 1111", "card"),
        ("id 11010519491231002X", "identity"),
        ("ssn 078-05-1120", "identity"),
        ("host 192.168.10.24 is down", "ip"),
        ("password: hunter2hunter2", "url_secret"),
        ("My number is 555 123 4567.", "phone"),
    ],
)
def test_personal_data_is_seen_and_masked(text: str, kind: str) -> None:
    assert list(personal_data(text)) == [kind]
    assert personal_data(redacted(text)) == {} and f"[{kind}]" in redacted(text)


@pytest.mark.parametrize("text", ["In 1989 and 2024, pi is 3.14159265358979", "version 1.2.3", "2 + 2 = 4", "1000000"])
def test_other_numbers_stay(text: str) -> None:
    assert personal_data(text) == {}


def test_what_becomes_of_personal_data_is_a_choice() -> None:
    text = "mail me at ann@example.org about the weather in May"
    for choice, state in (("redact", "masked"), ("keep", "suspected")):
        found = PromptFilter(personal=choice).admit(prompt(text))  # type: ignore[arg-type]
        assert found is not None and found[2] == state
        assert ("ann@" in found[0].messages[0].content) == (choice == "keep")
    sieve = PromptFilter(personal="drop")
    assert sieve.admit(prompt(text)) is None and sieve.report.dropped_personal_data == 1
