"""The engine keeps its promises for models that run through `transformers`, whatever their state is made of."""

import pytest
import torch

from tests.models.wrapped_zoo import ZOO, random_wrapped
from wuya.inference.engine import Engine, Generation
from wuya.inference.sampling import SamplingParams
from wuya.models.wrapped import TransformersModel
from wuya.models.wrapped_states import States

FAST = ("deepseek_v3", "gemma2", "jamba", "mpt")
"""Keys wider than values, windows, a hybrid with a recurrence, ALiBi."""
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO]


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (5, 21, 3, 11)]


def flat(groups: list[list[Generation]]) -> list[Generation]:
    return [generation for group in groups for generation in group]


@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_is_that_of_generate(name: str) -> None:
    model = TransformersModel(random_wrapped(name))
    ours = flat(Engine(model, max_batch_size=3).generate(prompts(), SamplingParams(max_tokens=12, temperature=0)))
    for prompt, generation in zip(prompts(), ours, strict=True):
        theirs = model.inner.generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None,
            use_cache=name != "rwkv",  # whose cache is of its own kind
        )  # fmt: skip
        assert list(generation.token_ids) == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_sampling_depends_on_the_seed_alone_and_log_probs_are_of_a_full_forward(name: str) -> None:
    """Prefills in chunks, rows that leave and move, samples that share their prompt: nobody else's tokens change."""
    model = TransformersModel(random_wrapped(name))
    sampling = SamplingParams(max_tokens=10, temperature=0.8, stop_token_ids=tuple(range(40, 60)), seed=7)
    crowd = flat(Engine(model, max_batch_size=8, prefill_tokens=6).generate(prompts(), sampling, num_samples=2))
    few = flat(Engine(model, max_batch_size=2).generate(prompts(), sampling, num_samples=2))
    assert [generation.token_ids for generation in crowd] == [generation.token_ids for generation in few]
    assert len({generation.finish_reason for generation in crowd}) == 2
    for prompt, one in zip([prompt for prompt in prompts() for _ in range(2)], crowd, strict=True):
        ids = torch.tensor([[*prompt, *one.token_ids]])
        logits = model.inner(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / 0.8
        wanted = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(one.logprobs), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAST)
def test_a_chat_reads_only_what_is_new(name: str) -> None:
    model = TransformersModel(random_wrapped(name))
    engine, fresh = Engine(model), Engine(model)
    sampling, ids = SamplingParams(max_tokens=6, temperature=0), prompts()[0]
    for _ in range(3):
        answer = list(engine.stream(ids, sampling, reuse_prefix=True))
        assert answer == list(fresh.stream(ids, sampling))
        ids = [*ids, *answer, 17, 23]


@pytest.mark.parametrize("name", ["bloom", "jamba", "mamba"])
def test_a_models_own_cache_reads_each_token_once(name: str) -> None:
    """Tokens that go through the trunk: the prompts twice (the second time for their state), then one per step."""
    model = TransformersModel(random_wrapped(name))
    read = 0

    def count(_: object, arguments: object, named: dict[str, torch.Tensor]) -> None:
        nonlocal read
        read += named["input_ids"].numel()

    model.trunk.register_forward_pre_hook(count, with_kwargs=True)
    sampling, asked = SamplingParams(max_tokens=20), [[5, 6, 7, 8], [9, 8, 7, 6]]
    answers = flat(Engine(model, seed=1).generate(asked, sampling, num_samples=3))
    assert [len(answer.token_ids) for answer in answers] == [20] * 6
    assert read == 2 * 8 + 6 * 19


def test_states_are_found_by_their_tokens_and_lost_after_an_error() -> None:
    model = TransformersModel(random_wrapped("mamba"))
    states = States(by_length=False)
    rows = [torch.tensor([5, 6, 7, 8]), torch.tensor([9, 8, 7])]
    with torch.no_grad():
        states.step(model, rows)
        swapped = [torch.cat((row, torch.tensor([11]))) for row in (rows[1], rows[0], rows[0])]
        wanted = torch.cat([model.plain(row[None])[:, -1:] for row in swapped])
        torch.testing.assert_close(states.step(model, swapped), wanted)
        with pytest.raises(IndexError):
            states.step(model, [torch.cat((row, torch.tensor([300]))) for row in swapped])
        assert not states._groups
        torch.testing.assert_close(states.step(model, swapped), wanted)
