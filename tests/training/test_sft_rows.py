"""Rows follow the data, passes follow the memory, and an update holds about as many demonstrations as the paper's."""

from dataclasses import replace

import pytest

from wuya.models.config import GPTConfig
from wuya.models.presets import preset
from wuya.planning.plan import GIB
from wuya.training.sft_rows import RowPlan, choose_rows

SMALL = preset("gpt2-124m", context_length=8192)
SHORT = [40 + 7 * (n % 40) for n in range(182)]
"""182 demonstrations of 40 to 313 tokens: what a person writes by hand in a week."""


def choose(lengths: list[int] = SHORT, architecture: GPTConfig = SMALL, **changes: object) -> RowPlan:
    settings = {
        "context_length": None, "batch_size": 0, "microbatch_size": 0, "free_bytes": 16 * GIB, "device": "cpu",
        **changes,
    }  # fmt: skip
    return choose_rows(lengths, architecture, **settings)  # type: ignore[arg-type]


def test_a_row_holds_the_longest_demonstration_not_the_whole_context() -> None:
    assert choose().context_length == 320
    assert choose([30]).context_length == 64
    assert choose([8200, 500]).context_length == 512  # the model can't read the first: dropped, and counted elsewhere
    assert choose(context_length=128).context_length == 128


def test_an_update_holds_about_32_demonstrations_unless_it_is_set() -> None:
    assert 20 <= choose().chats_per_update <= 45
    assert choose(batch_size=16).batch_size == 16
    assert choose([60], batch_size=16).batch_size == 1  # there is no more
    assert choose(world_size=4).batch_size % 4 == 0


def test_a_pass_takes_as_many_rows_as_fit_and_says_when_not_even_one_does() -> None:
    roomy, tight = choose(batch_size=16), choose(batch_size=16, free_bytes=5 * GIB // 2)
    assert roomy.microbatch_size == 16 and roomy.fits
    assert 1 <= tight.microbatch_size < 16
    assert (tight.context_length, tight.batch_size) == (roomy.context_length, roomy.batch_size)  # the same numbers
    full = choose([8000] * 16, batch_size=16)
    assert full.microbatch_size * 8000 <= 8192  # more at once is no faster on a CPU
    assert not choose([8000] * 16, free_bytes=GIB).fits
    assert choose(lora_rank=16, batch_size=16).peak_bytes < roomy.peak_bytes


@pytest.mark.parametrize("asked", [1, 4])
def test_what_is_set_is_kept(asked: int) -> None:
    assert choose(microbatch_size=asked, batch_size=16).microbatch_size == asked


def test_large_rows_with_hardly_an_update_are_named_with_a_batch_that_learns() -> None:
    plan = choose([50] * 2000 + [2000], batch_size=16)
    assert "`--batch_size 1`" in plan.advice(6) and not plan.advice(50)
    assert not replace(plan, batch_size=1).advice(6)
