"""kv_cache.py: with a cache a forward gives what it gives without one."""

import pytest
import torch

from tests.inference.naive import sharp_model
from wuya.inference.kv_cache import KVCache
from wuya.models.gpt import GPT


def make_cache(model: GPT, num_rows: int, length: int = 40) -> KVCache:
    config = model.config
    return KVCache(num_layers=config.num_layers, num_rows=num_rows, num_kv_heads=config.num_kv_heads, length=length,
                   head_dim=config.head_dim)  # fmt: skip


@torch.no_grad()
def prefill(
    model: GPT, cache: KVCache, rows: slice, ids: torch.Tensor, lengths: torch.Tensor, start: int = 0
) -> torch.Tensor:
    cache.begin_prefill(rows, start=start)
    positions = torch.arange(start, start + ids.shape[1]).expand(ids.shape[0], -1)
    hidden = model(ids, positions_BT=positions, cache=cache)
    cache.finish_prefill(rows, lengths)
    return hidden


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("positions", ["rope", "learned"])
@torch.no_grad()
def test_cached_logits_equal_a_full_forward(num_kv_heads: int, positions: str) -> None:
    model = sharp_model(num_kv_heads=num_kv_heads, positions=positions)
    ids = torch.randint(0, 24, (3, 20), generator=torch.Generator().manual_seed(0))
    full = model.logits(model(ids))
    cache = make_cache(model, 3)
    lengths = torch.tensor([7, 3, 12])  # right padding: what lies beyond a row's length is garbage
    hidden = prefill(model, cache, slice(0, 3), ids[:, :12], lengths)
    for row, length in enumerate(lengths.tolist()):
        assert torch.allclose(model.logits(hidden[row, :length]), full[row, :length], atol=1e-4)
    for step in range(8):  # every row goes on from its own length
        tokens = ids.gather(1, (lengths + step)[:, None])
        hidden = model(tokens, positions_BT=cache.begin_decode(3), cache=cache)
        wanted = full[torch.arange(3), lengths + step]
        assert torch.allclose(model.logits(hidden[:, 0]), wanted, atol=1e-4)


@torch.no_grad()
def test_a_long_prompt_may_be_read_in_chunks(model: GPT) -> None:
    ids = torch.randint(0, 24, (2, 30), generator=torch.Generator().manual_seed(1))
    full = model(ids)
    cache = make_cache(model, 2)
    parts = [
        prefill(model, cache, slice(0, 2), ids[:, start : start + 7], torch.tensor([30, 30]), start)
        for start in range(0, 30, 7)
    ]
    assert torch.allclose(torch.cat(parts, dim=1), full, atol=1e-4)


@torch.no_grad()
def test_copies_and_moved_rows_continue_as_their_originals(model: GPT) -> None:
    ids = torch.randint(0, 24, (2, 9), generator=torch.Generator().manual_seed(2))
    cache = make_cache(model, 8)
    prefill(model, cache, slice(0, 6, 3), ids[:, :8], torch.tensor([8, 5]))
    cache.copy_to_followers(0, 2, 3)
    assert cache.lengths_R[:6].tolist() == [8, 8, 8, 5, 5, 5]
    cache.move(torch.tensor([5, 4]), torch.tensor([0, 1]))
    tokens = torch.stack([ids[1, 5], ids[1, 5], ids[0, 8], ids[1, 5]])[:, None]
    hidden = model(tokens, positions_BT=cache.begin_decode(4), cache=cache)[:, 0]
    first, second = model(ids)[0, 8], model(ids)[1, 5]
    for row, wanted in enumerate((second, second, first, second)):
        assert torch.allclose(hidden[row], wanted, atol=1e-4)


def test_memory_is_allocated_once_and_to_need(model: GPT) -> None:
    cache = make_cache(model, 5, length=17)
    assert tuple(cache.storage.shape) == (2, 2, 5, 2, 17, 8)
    assert cache.fits(num_rows=5, length=17, dtype=torch.float32, device=torch.device("cpu"))
    assert not cache.fits(num_rows=6, length=17, dtype=torch.float32, device=torch.device("cpu"))
    assert not cache.fits(num_rows=5, length=17, dtype=torch.bfloat16, device=torch.device("cpu"))
