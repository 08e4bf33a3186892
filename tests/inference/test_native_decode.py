"""The decode step in C++ against `GPT.forward`: the same logits, cache and tokens."""

from dataclasses import replace
from itertools import chain

import pytest
import torch

from tests.inference.naive import sharp_model
from wuya.inference.engine import Engine
from wuya.inference.kv_cache import KVCache
from wuya.inference.native_decode import NativeDecode, native_decode
from wuya.inference.sampling import SamplingParams
from wuya.models import native, presets
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.lora import add_lora
from wuya.models.quantize import quantize_model

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no C++ compiler")

CONFIGS = {
    "qwen3": presets.modern(vocab_size=67, num_layers=2, model_dim=64, context_length=64),
    "grouped": presets.modern(vocab_size=64, num_layers=2, model_dim=96, context_length=64, kv_groups=3),
    "llama": replace(presets.modern(vocab_size=80, num_layers=3, model_dim=32, context_length=64, head_dim=16),
                     qk_norm=False, tie_embeddings=False),
    "biases": replace(presets.modern(vocab_size=64, num_layers=1, model_dim=36, context_length=64, head_dim=6),
                      attention_bias=True, mlp_dim=50),
    "gpt2": replace(presets.gpt2(2, 64, 4, context_length=64), vocab_size=71, dropout=0.0),
    "relu2": replace(presets.modern(vocab_size=64, num_layers=2, model_dim=32, context_length=64), mlp="relu2"),
}  # fmt: skip


def model_of(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bits", ["none", "int8", "int4"])
def test_logits_and_cache_are_those_of_torch(name: str, bits: str) -> None:
    config = CONFIGS[name]
    model = model_of(config)
    if bits != "none":
        quantize_model(model, bits)  # type: ignore[arg-type]
    fast = native_decode(model)
    assert fast is not None
    ours, theirs = (
        KVCache(num_layers=config.num_layers, num_rows=9, num_kv_heads=config.num_kv_heads, length=40,
                head_dim=config.head_dim) for _ in range(2)
    )  # fmt: skip
    start = torch.randn(ours.storage.shape, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([3, 0, 39, 17, 8, 8, 1, 25, 30])
    for cache in (ours, theirs):
        cache.storage.copy_(start)
        cache.lengths_R.copy_(lengths)
    ids = torch.arange(7) * 5
    got = fast(ids, ours.lengths_R[:7], ours)
    positions = theirs.begin_decode(7)
    wanted = model.logits(model(ids[:, None], positions_BT=positions, cache=theirs)[:, 0])
    # packed inputs on the border of two integers may fall to either side
    tolerance = {"none": 1e-4, "int8": 1e-2, "int4": 0.2}[bits]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(ours.storage, theirs.storage, rtol=1e-4, atol=tolerance)


@torch.inference_mode()
def test_a_row_has_the_same_logits_in_any_company_bit_for_bit() -> None:
    config = CONFIGS["grouped"]
    fast = native_decode(model_of(config))
    assert fast is not None
    cache = KVCache(num_layers=2, num_rows=8, num_kv_heads=1, length=20, head_dim=32)
    cache.storage.normal_()
    cache.lengths_R += torch.arange(8)
    ids = torch.arange(8)
    together = fast(ids, cache.lengths_R, cache)
    for count in (1, 2, 3, 5):
        assert torch.equal(fast(ids[:count], cache.lengths_R, cache), together[:count])


def test_the_engine_samples_the_same_tokens_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp_model()
    prompts = [[3, 4, 5], [6], [7, 8, 9, 10], [11, 12]]
    for sampling in (SamplingParams(max_tokens=12, seed=1), SamplingParams(max_tokens=12, temperature=0)):
        fast = Engine(model).generate(prompts, sampling, num_samples=3)
        with monkeypatch.context() as patch:
            patch.setattr("wuya.inference.batch.native_decode", lambda model: None)
            slow = Engine(model).generate(prompts, sampling, num_samples=3)
        for got, wanted in zip(chain(*fast), chain(*slow), strict=True):
            assert got.token_ids == wanted.token_ids and got.finish_reason == wanted.finish_reason
            assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


@pytest.mark.parametrize("sampling", [
    SamplingParams(max_tokens=40, temperature=0), SamplingParams(max_tokens=40, temperature=0.3, seed=1),
    SamplingParams(max_tokens=40, temperature=0.5, top_k=5, seed=2, stop_token_ids=(1,)),
    SamplingParams(max_tokens=100, temperature=0, seed=3),
])  # fmt: skip
def test_guesses_from_the_text_change_no_token(sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps = sharp_model(), []
    decode = NativeDecode.__call__
    monkeypatch.setattr(NativeDecode, "__call__", lambda *a, **b: steps.append(len(a[1])) or decode(*a, **b))
    prompts = [[3, 4, 5, 6] * 3, [9, 8, 7]]
    plain, ahead = (Engine(model, max_batch_size=1, lookup=lookup) for lookup in (0, 4))
    wanted = plain.generate(prompts, sampling)
    plain_steps = len(steps)
    steps.clear()
    assert ahead.generate(prompts, sampling) == wanted
    assert len(steps) < plain_steps and max(steps) > 1
    for reuse in (False, True, True):  # the second turn reads on from what guesses left in the cache
        [[first]] = plain.generate(prompts[:1], sampling)
        assert tuple(ahead.stream(prompts[0], sampling, reuse_prefix=reuse)) == first.token_ids
    batched = Engine(model, lookup=4).generate(prompts, sampling)  # guesses begin when one is left alone
    assert [g.token_ids for g in chain(*batched)] == [g.token_ids for g in chain(*wanted)]


def test_other_models_are_left_to_torch() -> None:
    assert native_decode(model_of(replace(CONFIGS["gpt2"], norm_position="post"))) is None
    assert native_decode(model_of(CONFIGS["llama"]).bfloat16()) is None
    model = model_of(CONFIGS["llama"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert native_decode(model) is None
    add_lora(model, rank=2, alpha=4.0, targets=("qkv",), name="policy", seed=0)
    assert native_decode(model) is None
