"""Packed rows without a mask: the outputs and gradients of the mask, and of the sequences one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_token_logprobs import LargestTensor
from wuya.models import gpt
from wuya.models.gpt import GPT, SHARED
from wuya.models.packing import pack
from wuya.models.presets import preset

LENGTHS = [[7, 1, 30, 12], [50], [3, 3, 3, 20, 5]]
T = 52


def packed() -> tuple[Tensor, Tensor, Tensor]:
    """Rows of several sequences with padding behind them: ids, positions, segments."""
    ids_BT = torch.randint(0, 40, (len(LENGTHS), T), generator=torch.Generator().manual_seed(1))
    positions_BT, segments_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -1)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths):
            segments_BT[row, start : start + length] = number
            positions_BT[row, start : start + length] = torch.arange(length)
            start += length
    return ids_BT, positions_BT, segments_BT


def tiny(**changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "context_length": 64, "num_layers": 2, "model_dim": 32, "mlp_dim": 48, "num_heads": 4,
             "num_kv_heads": 2, "head_dim": 8}  # fmt: skip
    return GPT(preset("tiny", **{**sizes, **changes}))


def output_and_gradients(model: GPT, checkpointing: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    ids_BT, positions_BT, segments_BT = packed()
    model.zero_grad()
    model.activation_checkpointing = checkpointing
    hidden_ND = model(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT)[segments_BT >= 0]
    hidden_ND.square().sum().backward()  # type: ignore[no-untyped-call]
    return hidden_ND.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("changes", [{}, {"local_layers": (0,), "window": 6}, {"positions": "learned"}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_is_the_mask_without_the_mask(
    changes: dict[str, Any], checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(**changes)
    found = output_and_gradients(model, checkpointing)
    monkeypatch.setattr(gpt, "pack", lambda segments_BT: None)
    torch.testing.assert_close(found, output_and_gradients(model), atol=1e-4, rtol=1e-4)


def test_every_sequence_is_as_if_alone() -> None:
    model = tiny()
    ids_BT, positions_BT, segments_BT = packed()
    with torch.no_grad():
        together_BTD = model(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT)
        for row, lengths in enumerate(LENGTHS):
            start = 0
            for length in lengths:
                alone_1TD = model(ids_BT[row : row + 1, start : start + length])
                torch.testing.assert_close(
                    together_BTD[row, start : start + length], alone_1TD[0], atol=1e-5, rtol=1e-4
                )
                start += length


def test_groups_hold_every_token_once_with_little_padding() -> None:
    packing = pack(packed()[2])
    assert packing is not None
    assert [tuple(index_SL.shape) for index_SL in packing.groups] == [(2, 50), (2, 20), (2, 7), (3, 3), (1, 1)]
    tokens = torch.cat([index_SL.flatten() for index_SL in packing.groups])
    assert set(tokens.tolist()) == set((packed()[2] >= 0).flatten().nonzero().squeeze(1).tolist())
    assert torch.equal(
        tokens[packing.back_N][(packed()[2] >= 0).flatten()], (packed()[2] >= 0).flatten().nonzero()[:, 0]
    )


def test_no_tensor_is_as_large_as_a_mask() -> None:
    """40 chats of 10 tokens in a row of 400."""
    model = tiny(context_length=400)
    segments_BT = torch.arange(400)[None] // 10
    positions_BT = torch.arange(400)[None] % 10
    with LargestTensor() as largest:
        model(torch.zeros(1, 400, dtype=torch.int64), positions_BT=positions_BT, segments_BT=segments_BT)
    assert largest.most < 400 * 400 / 2


def test_shared_prompts_keep_their_mask() -> None:
    assert pack(torch.tensor([[SHARED, SHARED, 0, 0, 1, -1]])) is None
