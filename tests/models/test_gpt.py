"""The decoder: causality, padding, packing, the cache's seam, gradients, and that it learns."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.architectures import ARCHITECTURES, random_ids, random_model
from wuya.errors import DataError
from wuya.models.gpt import GPT, segment_mask, set_dropout
from wuya.models.presets import preset

EVERY = pytest.mark.parametrize("name", list(ARCHITECTURES))


def logits(model: GPT, ids_BT: Tensor, **kwargs: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(ids_BT, **kwargs))


def next_token_loss(model: GPT, ids_BT: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(model(ids_BT[:, :-1])).flatten(0, 1), ids_BT[:, 1:].flatten())


@EVERY
def test_initial_loss_is_that_of_a_uniform_guess(name: str) -> None:
    torch.manual_seed(0)
    config = ARCHITECTURES[name]
    with torch.no_grad():
        loss = next_token_loss(GPT(config).eval(), random_ids(config, 16, 48)).item()
    assert math.log(config.vocab_size) - 0.01 < loss < math.log(config.vocab_size) + 0.1


def test_gpt2_starts_slightly_above_ln_50257() -> None:
    torch.manual_seed(0)
    model = GPT(preset("gpt2-124m", num_layers=2, model_dim=256, num_heads=4, num_kv_heads=4)).eval()
    with torch.no_grad():
        loss = next_token_loss(model, random_ids(model.config, 2, 64)).item()
    assert 10.82 < loss < 11.1  # ln 50257 = 10.825


@EVERY
def test_a_token_changes_no_logits_before_it(name: str) -> None:
    model = random_model(name)
    ids_BT = random_ids(model.config, 2, 40)
    changed_BT = ids_BT.clone()
    changed_BT[:, 20] = (ids_BT[:, 20] + 1) % model.config.vocab_size
    before, after = logits(model, ids_BT), logits(model, changed_BT)
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] - after[:, 20:]).abs().amax(dim=(0, 2)).min() > 0


@EVERY
def test_right_padding_changes_nothing(name: str) -> None:
    model = random_model(name)
    ids_BT = random_ids(model.config, 3, 30)
    padded_BT = F.pad(ids_BT, (0, 18), value=7)
    torch.testing.assert_close(logits(model, padded_BT)[:, :30], logits(model, ids_BT), rtol=1e-5, atol=1e-5)


@EVERY
def test_packed_segments_equal_separate_rows(name: str) -> None:
    model = random_model(name)
    lengths = (17, 9, 22)
    rows = [random_ids(model.config, 1, length, seed=i) for i, length in enumerate(lengths)]
    segments_BT = torch.cat([torch.full((1, n), i) for i, n in enumerate(lengths)], dim=1)
    positions_BT = torch.cat([torch.arange(n)[None] for n in lengths], dim=1)
    packed = logits(model, torch.cat(rows, dim=1), segments_BT=segments_BT, positions_BT=positions_BT)
    separate = torch.cat([logits(model, row) for row in rows], dim=1)
    torch.testing.assert_close(packed, separate, rtol=1e-4, atol=1e-4)


def test_packed_segments_have_the_gradients_of_separate_rows() -> None:
    model = random_model("qwen3").train()
    rows = [random_ids(model.config, 1, length, seed=length) for length in (17, 30)]
    segments_BT = torch.cat([torch.full((1, row.shape[1]), i) for i, row in enumerate(rows)], dim=1)
    positions_BT = torch.cat([torch.arange(row.shape[1])[None] for row in rows], dim=1)
    packed_BTD = model(torch.cat(rows, dim=1), segments_BT=segments_BT, positions_BT=positions_BT)
    packed = torch.autograd.grad(packed_BTD.square().sum(), list(model.parameters()))
    separate = torch.autograd.grad(sum(model(row).square().sum() for row in rows), list(model.parameters()))
    for a, b in zip(packed, separate, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@EVERY
def test_explicit_positions_equal_the_default(name: str) -> None:
    model = random_model(name)
    ids_BT = random_ids(model.config, 2, 25)
    positions_BT = torch.arange(25).expand(2, -1)
    assert torch.equal(logits(model, ids_BT, positions_BT=positions_BT), logits(model, ids_BT))


class ListCache:
    """The obvious cache: all keys and values of a layer in one growing tensor."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, window: int = 0) -> Tensor:
        if layer in self.kept:
            k_BKTC = torch.cat((self.kept[layer][0], k_BKTC), dim=2)
            v_BKTC = torch.cat((self.kept[layer][1], v_BKTC), dim=2)
        self.kept[layer] = k_BKTC, v_BKTC
        T, S = q_BHTC.shape[2], k_BKTC.shape[2]
        mask_TS = torch.ones(T, S, dtype=torch.bool).tril(S - T).triu(S - T - (window or S) + 1)
        return F.scaled_dot_product_attention(q_BHTC, k_BKTC, v_BKTC, attn_mask=mask_TS, enable_gqa=True)


@EVERY
def test_logits_through_a_cache_equal_the_full_forward(name: str) -> None:
    model, cache = random_model(name), ListCache()
    ids_BT = random_ids(model.config, 2, 30)
    pieces, start = [], 0
    for length in (11, 1, 1, 7, 10):  # a prompt, two decoding steps, more of a prompt
        positions_BT = torch.arange(start, start + length).expand(2, -1)
        with torch.no_grad():
            hidden = model(ids_BT[:, start : start + length], positions_BT=positions_BT, cache=cache)
        pieces.append(model.logits(hidden).detach())
        start += length
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits(model, ids_BT), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "qwen3", "speedrun", "olmo2", "gemma3", "phi3", "smollm3"])
def test_it_overfits_one_batch(name: str) -> None:
    torch.manual_seed(0)
    softcap = 4 * ARCHITECTURES[name].softcap  # as it is in the preset; a small one keeps the loss from 0
    config = replace(ARCHITECTURES[name], vocab_size=32, dropout=0.0, softcap=softcap)
    model, ids_BT = GPT(config), random_ids(config, 2, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss = next_token_loss(model, ids_BT)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


@EVERY
def test_activation_checkpointing_changes_no_gradient(name: str) -> None:
    model = random_model(name).train()
    model = model if not model.config.dropout else GPT(replace(model.config, dropout=0.0))
    ids_BT = random_ids(model.config, 2, 30)
    plain = torch.autograd.grad(next_token_loss(model, ids_BT), list(model.parameters()))
    model.activation_checkpointing = True
    recomputed = torch.autograd.grad(next_token_loss(model, ids_BT), list(model.parameters()))
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.equal(a, b)


def test_dropout_acts_in_training_only() -> None:
    model = GPT(replace(ARCHITECTURES["gpt2"], dropout=0.5))
    ids_BT = random_ids(model.config, 2, 20)
    assert not torch.equal(model(ids_BT), model(ids_BT))
    model.eval()
    assert torch.equal(model(ids_BT), model(ids_BT))


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_set_dropout_reaches_the_embeddings_and_is_never_saved(name: str) -> None:
    """With the blocks switched off, only the embeddings' dropout is left to make two passes differ."""
    model = GPT(replace(ARCHITECTURES[name], dropout=0.1)).train()
    for dropout, same in ((0.0, True), (0.5, False)):
        set_dropout(model, dropout)
        for block in model.blocks:
            for parameter in block.parameters():
                torch.nn.init.zeros_(parameter)
        ids_BT = random_ids(model.config, 2, 20)
        assert torch.equal(model(ids_BT), model(ids_BT)) is same
    assert model.config.dropout == 0.1


def test_softcap_bounds_the_logits() -> None:
    model = random_model("speedrun", std=2.0)
    assert logits(model, random_ids(model.config, 2, 20)).abs().max() <= model.config.softcap


def test_logits_of_chosen_positions_are_the_rows_of_all() -> None:
    model = random_model("qwen3")
    hidden_BTD = model(random_ids(model.config, 2, 20))
    torch.testing.assert_close(model.logits(hidden_BTD[:, -1]), model.logits(hidden_BTD)[:, -1])


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    model = random_model("gpt2")
    with pytest.raises(DataError, match="context"):
        model(random_ids(model.config, 1, 49))


def test_the_segment_mask_is_causal_within_segments() -> None:
    mask_B1TT = segment_mask(torch.tensor([[0, 0, 1, 1]]))
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask_B1TT[0, 0].int().tolist() == expected


def test_bfloat16_weights_stay_close_and_logits_are_float32() -> None:
    model = random_model("qwen3", std=0.05)
    ids_BT = random_ids(model.config, 2, 20)
    full = logits(model, ids_BT)
    half = logits(model.to(torch.bfloat16), ids_BT)
    assert half.dtype == torch.float32 and model.dtype == torch.bfloat16
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpt1", "qwen3"])
def test_on_a_gpu_the_numbers_are_those_of_the_cpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = random_model(name)
    ids_BT = random_ids(model.config, 2, 40)
    segments_BT = (torch.arange(40) // 13).expand(2, -1)
    plain, packed = logits(model, ids_BT), logits(model, ids_BT, segments_BT=segments_BT)
    model.cuda()
    torch.testing.assert_close(logits(model, ids_BT.cuda()).cpu(), plain, rtol=1e-3, atol=1e-3)
    on_gpu = logits(model, ids_BT.cuda(), segments_BT=segments_BT.cuda()).cpu()
    torch.testing.assert_close(on_gpu, packed, rtol=1e-3, atol=1e-3)


@EVERY
def test_wanted_positions_alone_equal_those_of_all(name: str) -> None:
    model = random_model(name).train()
    ids_BT, wanted_BT = (
        random_ids(model.config, 3, 20),
        torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) < 0.3,
    )
    results = []
    for hidden_ND in (model(ids_BT)[wanted_BT], model(ids_BT, wanted_BT=wanted_BT)):
        model.zero_grad()
        hidden_ND.square().sum().backward()
        results.append([hidden_ND.detach(), *(parameter.grad for parameter in model.parameters())])
    for everywhere, wanted in zip(*results, strict=True):
        torch.testing.assert_close(wanted, everywhere, rtol=1e-4, atol=1e-5)
