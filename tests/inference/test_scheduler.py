"""scheduler.py: who is admitted together."""

from wuya.inference.sampling import SamplingParams
from wuya.inference.scheduler import Request, Scheduler


def request(number: int, *, length: int = 4, copies: int = 1, num_cached: int = 0) -> Request:
    sequences = tuple(range(number * 10, number * 10 + copies))
    return Request(prompt=(1,) * length, sampling=SamplingParams(), stop_token_ids=(), sequences=sequences,
                   seeds=sequences, num_cached=num_cached)  # fmt: skip


def make(*requests: Request, prefill_tokens: int = 100, patience_rows: int = 1) -> Scheduler:
    scheduler = Scheduler(prefill_tokens=prefill_tokens, patience_rows=patience_rows)
    scheduler.waiting.extend(requests)
    return scheduler


def test_first_come_first_served_within_free_rows() -> None:
    first, second, third = request(1, copies=2), request(2, copies=2), request(3, copies=2)
    scheduler = make(first, second, third)
    assert scheduler.admit(num_free=5, num_active=0) == [first, second]
    assert scheduler.admit(num_free=1, num_active=4) == []
    assert scheduler.admit(num_free=5, num_active=0) == [third]
    assert scheduler.admit(num_free=5, num_active=0) == []


def test_a_prefill_keeps_to_its_token_budget_padding_included_but_takes_one_prompt_of_any_length() -> None:
    scheduler = make(request(1, length=30), request(2, length=40), request(3, length=10), request(4, length=500))
    groups = [scheduler.admit(num_free=9, num_active=0) for _ in range(3)]
    assert [[len(r.prompt) for r in group] for group in groups] == [[30, 40], [10], [500]]


def test_groups_have_equal_numbers_of_copies_and_a_cached_prompt_is_alone() -> None:
    scheduler = make(request(1, copies=2), request(2, copies=3), request(3, num_cached=2), request(4))
    groups = [scheduler.admit(num_free=9, num_active=0) for _ in range(4)]
    assert [len(group) for group in groups] == [1, 1, 1, 1]


def test_while_sequences_run_it_waits_for_enough_free_rows() -> None:
    scheduler = make(request(1), patience_rows=4)
    assert scheduler.admit(num_free=3, num_active=5) == []
    assert len(scheduler.admit(num_free=3, num_active=0)) == 1


def test_cancel_forgets_requests_without_a_living_sequence() -> None:
    scheduler = make(request(1, copies=2), request(2, copies=2))
    scheduler.cancel({10, 11, 20})
    assert [r.sequences for r in scheduler.waiting] == [(20, 21)]
