"""batch.py: cancelling single sequences of a running batch, requests that want different things."""

import torch

from tests.inference.naive import naive_greedy
from wuya.inference.batch import Batch
from wuya.inference.kv_cache import KVCache
from wuya.inference.sampling import SamplingParams
from wuya.inference.scheduler import Request
from wuya.models.gpt import GPT


def make_batch(model: GPT, num_rows: int, prefill_tokens: int = 64) -> Batch:
    config = model.config
    cache = KVCache(num_layers=config.num_layers, num_rows=num_rows, num_kv_heads=config.num_kv_heads, length=48,
                    head_dim=config.head_dim)  # fmt: skip
    return Batch(model, cache, max_length=48, num_stops=2, prefill_tokens=prefill_tokens)


def greedy_request(prompt: list[int], *sequences: int, max_tokens: int = 12) -> Request:
    return Request(prompt=tuple(prompt), sampling=SamplingParams(max_tokens=max_tokens, temperature=0),
                   stop_token_ids=(), sequences=sequences, seeds=sequences)  # fmt: skip


def drain(batch: Batch, tokens: dict[int, list[int]], steps: int = 10_000) -> None:
    while batch.busy and steps:
        output = batch.step()
        steps -= 1
        if output is not None:
            for sequence, token in zip(output.sequence_B.tolist(), output.token_B.tolist(), strict=True):
                tokens.setdefault(sequence, []).append(token)


def test_cancelled_sequences_stop_at_the_next_step_and_the_others_do_not_notice(model: GPT) -> None:
    batch = make_batch(model, 8)
    prompts = {n: [n + 1, n + 2, 3] for n in range(6)}
    for number, prompt in prompts.items():
        batch.submit(greedy_request(prompt, number))
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens, steps=4)
    batch.cancel([1, 4])
    drain(batch, tokens)
    for number, prompt in prompts.items():
        wanted = naive_greedy(model, prompt, 12)
        assert tokens[number] == (wanted[:4] if number in (1, 4) else wanted)


def test_requests_may_arrive_while_others_run(model: GPT) -> None:
    batch = make_batch(model, 3)
    batch.submit(greedy_request([1, 2], 0, 1))
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens, steps=5)
    batch.submit(greedy_request([5, 6, 7], 2, max_tokens=3))
    batch.submit(greedy_request([8], 3))
    drain(batch, tokens)
    assert tokens[0] == tokens[1] == naive_greedy(model, [1, 2], 12)
    assert tokens[2] == naive_greedy(model, [5, 6, 7], 3)
    assert tokens[3] == naive_greedy(model, [8], 12)


def test_a_waiting_or_half_read_request_can_be_cancelled(model: GPT) -> None:
    batch = make_batch(model, 2, prefill_tokens=4)
    batch.submit(greedy_request([1] * 10, 0))
    batch.submit(greedy_request([2] * 3, 1))
    batch.submit(greedy_request([3] * 3, 2))
    assert batch.step() is None  # the first chunk of the first prompt
    batch.cancel([0, 2])
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens)
    assert tokens == {1: naive_greedy(model, [2] * 3, 12)}


def test_cancelling_one_of_a_group_in_mid_prefill_drops_it_once_the_group_is_read(model: GPT) -> None:
    batch = make_batch(model, 4, prefill_tokens=4)
    batch.submit(greedy_request([9], 5))
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens, steps=1)
    batch.submit(greedy_request([1] * 10, 0, 1))
    batch.step()
    batch.cancel([0, 5])
    drain(batch, tokens)
    assert tokens[1] == naive_greedy(model, [1] * 10, 12)
    assert len(tokens.get(0, [])) <= 1 and len(tokens[5]) == 1


def test_greedy_and_sampled_rows_with_different_stops_share_a_batch(model: GPT) -> None:
    batch = make_batch(model, 4)
    batch.submit(greedy_request([1, 2], 0))
    wanted = naive_greedy(model, [1, 2], 12)
    batch.submit(Request(prompt=(1, 2), sampling=SamplingParams(max_tokens=12, temperature=0),
                         stop_token_ids=(wanted[3],), sequences=(1,), seeds=(1,)))  # fmt: skip
    batch.submit(Request(prompt=(1, 2), sampling=SamplingParams(max_tokens=12, temperature=2.0), stop_token_ids=(),
                         sequences=(2,), seeds=(1 << 62,)))  # fmt: skip
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens)
    assert tokens[0] == wanted
    assert tokens[1] == wanted[: wanted.index(wanted[3]) + 1]
    assert len(tokens[2]) == 12 and tokens[2] != wanted


def test_a_step_leaves_gradients_and_modes_alone(model: GPT) -> None:
    batch = make_batch(model, 2)
    batch.submit(greedy_request([1, 2], 0))
    drain(batch, {})
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_running_rows_may_take_a_step_between_two_chunks_of_a_long_prompt(model: GPT) -> None:
    config = model.config
    cache = KVCache(num_layers=config.num_layers, num_rows=1, num_kv_heads=config.num_kv_heads, length=16,
                    head_dim=config.head_dim)  # fmt: skip
    batch = Batch(model, cache, max_length=48, prefill_tokens=4, max_rows=4, alternate=True)
    batch.submit(greedy_request([1, 2], 0))
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens, steps=2)
    cache.resize(4, 48, live_rows=batch.num_live)  # grows under a running row
    batch.submit(greedy_request([5] * 20, 1, 2))
    counts = []
    while 1 not in tokens:
        drain(batch, tokens, steps=1)
        counts.append(len(tokens[0]))
    assert counts == [2, 3, 3, 4, 4, 5, 5, 6, 6]  # a chunk, a step, a chunk ...
    drain(batch, tokens)
    assert tokens[0] == naive_greedy(model, [1, 2], 12)
    assert tokens[1] == tokens[2] == naive_greedy(model, [5] * 20, 12)


def test_a_cancelled_row_is_free_at_once_while_another_prompt_is_half_read(model: GPT) -> None:
    batch = make_batch(model, 4, prefill_tokens=4)
    batch.submit(greedy_request([9], 5))
    batch.submit(greedy_request([8, 7], 6))
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens, steps=2)
    left: list[int] = []
    batch.on_leave = lambda sequence, prefix: left.append(prefix.shape[3])
    batch.submit(greedy_request([1] * 10, 0, 1))
    batch.step()
    batch.cancel_now([5])
    assert batch.num_running == 1 and left == [len(tokens[5])]  # its prompt, and all its tokens but the last
    drain(batch, tokens)
    assert tokens[0] == tokens[1] == naive_greedy(model, [1] * 10, 12)
    assert tokens[6] == naive_greedy(model, [8, 7], 12)


def test_a_kept_prefix_is_not_read_again_and_a_row_that_was_put_back_goes_on(model: GPT) -> None:
    prompt = [3, 1, 4, 1, 5, 9]
    wanted = naive_greedy(model, prompt, 12)
    kept: list[torch.Tensor] = []
    batch = make_batch(model, 2)
    batch.on_leave = lambda _, prefix: kept.append(prefix.clone())
    batch.submit(greedy_request(prompt, 0, max_tokens=5))
    drain(batch, {})
    before = batch.num_prefilled
    known = (*prompt, *wanted[:5])
    batch.submit(Request(prompt=known, sampling=SamplingParams(max_tokens=12, temperature=0), stop_token_ids=(),
                         sequences=(1,), seeds=(1,), num_cached=10, prefix=kept[0], num_sampled=5))  # fmt: skip
    tokens: dict[int, list[int]] = {}
    drain(batch, tokens)
    assert tokens[1] == wanted[5:] and batch.num_prefilled - before == 1
