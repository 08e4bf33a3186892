"""Packed rows become batches that depend on the step only; the loss does not see padding or packing."""

import pytest
import torch

from wuya.data.batches import PackedRows, pack_rows
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.tokenizer.chat_format import EncodedChat
from wuya.training.sft_batches import SFTBatches, take, validation_loss


@pytest.fixture
def chats() -> list[EncodedChat]:
    lengths = [5, 7, 9, 4, 12, 6, 8, 10, 3, 11]
    ids = torch.arange(200) % 50
    return [EncodedChat(ids[3 * n : 3 * n + k].tolist(), [0] * (k - 2) + [1] * 2) for n, k in enumerate(lengths)]


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    sizes = {"model_dim": 32, "mlp_dim": 48, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
    return GPT(preset("tiny", vocab_size=50, context_length=32, **sizes))


def packed(chats: list[EncodedChat], context_length: int) -> PackedRows:
    return pack_rows(chats, context_length=context_length)


def test_each_epoch_sees_each_row_once_in_another_order(chats: list[EncodedChat]) -> None:
    rows = packed(chats, 12)
    batches = SFTBatches(rows, batch_size=2, seed=0)
    per_epoch = batches.num_steps(epochs=1, num_tokens=None)
    assert per_epoch == -(-len(rows) // 2)
    seen = [batches._order(epoch).tolist() for epoch in range(2)]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(len(rows))) and seen[0] != seen[1]
    assert torch.equal(batches.batch(3).inputs_BT, SFTBatches(rows, batch_size=2, seed=0).batch(3).inputs_BT)


def test_tokens_are_counted_without_padding(chats: list[EncodedChat]) -> None:
    batches = SFTBatches(packed(chats, 12), batch_size=2, seed=0)
    counted = 0
    for step in range(7):
        assert batches.tokens_before(step) == counted
        counted += batches.batch(step).num_tokens
    assert batches.num_steps(epochs=1, num_tokens=75) == batches.num_steps(epochs=1, num_tokens=None)  # all tokens


def test_loss_and_gradient_do_not_depend_on_packing_or_microbatches(model: GPT, chats: list[EncodedChat]) -> None:
    results = []
    for context_length, microbatch_size in ((12, 100), (32, 1), (32, 100)):
        rows = packed(chats, context_length)
        batch = take(rows, SFTBatches(rows, batch_size=100, seed=0)._order(0))
        model.zero_grad()
        loss = batch.add_gradients(model, microbatch_size=microbatch_size, dtype=torch.float32)
        assert batch.num_targets == 20
        assert model.embedding.weight.grad is not None
        results.append((loss, model.embedding.weight.grad.clone()))
        assert validation_loss(model, rows, microbatch_size=microbatch_size, dtype=torch.float32) == pytest.approx(
            loss, rel=1e-5
        )
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-4, atol=1e-6)


def test_a_batch_is_never_larger_than_the_data(chats: list[EncodedChat]) -> None:
    assert SFTBatches(packed(chats, 32), batch_size=1000, seed=0).num_steps(epochs=3, num_tokens=None) == 3


def test_a_chat_of_half_the_weight_counts_half_in_the_mean(model: GPT, chats: list[EncodedChat]) -> None:
    def loss_of(*weighted: tuple[EncodedChat, float]) -> float:
        scaled = [EncodedChat(chat.ids, [mask * weight for mask in chat.mask]) for chat, weight in weighted]
        rows = packed(scaled, 32)
        batch = take(rows, SFTBatches(rows, batch_size=9, seed=0)._order(0))
        found = batch.add_gradients(model, microbatch_size=2, dtype=torch.float32)
        assert validation_loss(model, rows, microbatch_size=2, dtype=torch.float32) == pytest.approx(found, rel=1e-4)
        return found

    one, other = chats[4], chats[7]
    alone = loss_of((one, 1.0)), loss_of((other, 1.0))
    assert loss_of((one, 1.0), (other, 0.5)) == pytest.approx((alone[0] + alone[1] / 2) / 1.5, rel=1e-4)
    assert loss_of((one, 0.1)) == pytest.approx(alone[0], rel=1e-4)  # a mean: the only weight has no effect
