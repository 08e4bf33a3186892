"""Batches depend on the step alone, cover each epoch once, and packing changes no token's loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wuya.data.batches import (
    PretrainingBatches,
    length_sorted_microbatches,
    pack_rows,
    pad_right,
    sequential_batches,
)
from wuya.data.shards import TokenShards, write_shards
from wuya.errors import ConfigError, DataError
from wuya.tokenizer.chat_format import EncodedChat


@pytest.fixture
def shards(tmp_path: Path) -> TokenShards:
    return TokenShards(write_shards(tmp_path / "s", [np.arange(103)], vocab_size=200, shard_tokens=17))


def test_targets_are_the_inputs_one_later_and_an_epoch_reads_each_window_once(shards: TokenShards) -> None:
    batches = PretrainingBatches(shards, context_length=10, batch_size=4, seed=1)
    assert batches.num_windows == 10
    starts = []
    for step in range(5):  # two epochs; step 2 holds the end of one and the start of the next
        inputs_BT, targets_BT = batches.batch(step)
        assert inputs_BT.dtype == targets_BT.dtype == torch.int64
        assert inputs_BT.shape == (4, 10)
        assert torch.equal(targets_BT, inputs_BT + 1)
        starts += inputs_BT[:, 0].tolist()
    everything = list(range(0, 100, 10))
    assert sorted(starts[:10]) == sorted(starts[10:]) == everything
    assert starts[:10] != starts[10:] != everything
    assert batches.epochs(5) == 2.0
    assert batches.tokens_per_batch == 40


def test_a_batch_depends_on_step_and_seed_only(shards: TokenShards) -> None:
    def batch(step: int, seed: int, warm: tuple[int, ...] = ()) -> torch.Tensor:
        batches = PretrainingBatches(shards, context_length=10, batch_size=3, seed=seed)
        for other in warm:
            batches.batch(other)
        return batches.batch(step)[0]

    for step in range(12):
        assert torch.equal(batch(step, 5), batch(step, 5, warm=(11, 0, 7, step)))
    assert any(not torch.equal(batch(step, 5), batch(step, 6)) for step in range(4))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_together_see_what_one_process_sees(shards: TokenShards, world_size: int) -> None:
    batches = PretrainingBatches(shards, context_length=10, batch_size=4, seed=1)
    for step in range(6):
        parts = [batches.batch(step, rank=rank, world_size=world_size)[0] for rank in range(world_size)]
        assert torch.equal(torch.cat(parts), batches.batch(step)[0])
    with pytest.raises(ConfigError, match="divisible"):
        batches.batch(0, rank=0, world_size=3)


def test_a_corpus_shorter_than_a_window_is_an_error(shards: TokenShards) -> None:
    assert PretrainingBatches(shards, context_length=102, batch_size=1, seed=0).num_windows == 1
    with pytest.raises(DataError, match="shorter than one training window"):
        PretrainingBatches(shards, context_length=103, batch_size=1, seed=0)


def test_validation_reads_every_window_once_in_order(shards: TokenShards) -> None:
    batches = list(sequential_batches(shards, context_length=10, batch_size=4))
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
    assert torch.cat([inputs for inputs, _ in batches]).flatten().tolist() == list(range(100))
    few = list(sequential_batches(shards, context_length=10, batch_size=4, max_windows=5))
    assert torch.cat([inputs for inputs, _ in few])[:, 0].tolist() == [0, 20, 40, 60, 80]


def chats(lengths: list[int], *, seed: int = 0) -> list[EncodedChat]:
    rng = np.random.default_rng(seed)
    return [
        EncodedChat(rng.integers(1, 1000, size=n).tolist(), [0, *rng.integers(0, 2, size=n - 1).tolist()])
        for n in lengths
    ]


def test_packing_keeps_every_chat_whole_and_changes_no_loss_input() -> None:
    encoded = chats([5, 3, 9, 10, 2, 7, 1, 4, 6, 3, 11, 30])
    packed = pack_rows(encoded, context_length=10, pad_id=7)
    assert packed.num_dropped == 2
    seen = []
    for row, indices in enumerate(packed.chats_N):
        for segment, index in enumerate(indices):
            places = (packed.segments_NT[row] == segment).nonzero().flatten()
            chat = encoded[index]
            assert packed.ids_NT[row, places].tolist() == chat.ids
            assert packed.mask_NT[row, places].tolist() == chat.mask
            assert packed.positions_NT[row, places].tolist() == list(range(len(chat.ids)))
            seen.append(index)
    assert sorted(seen) == list(range(10))
    padding = packed.segments_NT == -1
    assert (packed.ids_NT[padding] == 7).all()
    assert not packed.mask_NT[padding].any()
    # (context, target) pairs that are learned: the same with and without packing
    expected = sorted(
        (tuple(c.ids[: t + 1]), c.ids[t + 1]) for c in encoded[:10] for t in range(len(c.ids) - 1) if c.mask[t + 1]
    )
    found = []
    for row in range(len(packed)):
        for t in range(9):
            if packed.mask_NT[row, t + 1]:
                segment = packed.segments_NT[row, t + 1]
                before = packed.ids_NT[row, : t + 1][packed.segments_NT[row, : t + 1] == segment]
                found.append((tuple(before.tolist()), int(packed.ids_NT[row, t + 1])))
    assert sorted(found) == expected


def test_packing_never_learns_the_first_token_of_a_chat() -> None:
    packed = pack_rows([EncodedChat([1, 2], [1, 1]), EncodedChat([3, 4], [1, 1])], context_length=4)
    assert packed.mask_NT.tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_packing_is_dense_and_deterministic() -> None:
    lengths = np.random.default_rng(1).integers(5, 60, size=500).tolist()
    packed = pack_rows(chats(lengths), context_length=64)
    assert packed.density > 0.97
    again = pack_rows(chats(lengths), context_length=64)
    assert packed.chats_N == again.chats_N
    assert len(pack_rows([], context_length=8)) == 0


def test_padding_is_on_the_right() -> None:
    ids_BT, lengths_B = pad_right([[1, 2, 3], [], [4]], pad_id=9)
    assert ids_BT.tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert lengths_B.tolist() == [3, 0, 1]
    assert ids_BT.dtype == lengths_B.dtype == torch.int64
    assert pad_right([], pad_id=0)[0].shape == (0, 0)


def test_microbatches_hold_each_sequence_once_within_the_token_limit() -> None:
    lengths = np.random.default_rng(2).integers(1, 100, size=200).tolist()
    groups = length_sorted_microbatches(lengths, max_tokens=400)
    assert sorted(index for group in groups for index in group) == list(range(200))
    assert all(max(lengths[i] for i in group) * len(group) <= 400 for group in groups)
    padded = sum(max(lengths[i] for i in group) * len(group) for group in groups)
    assert padded < 1.1 * sum(lengths)
    assert length_sorted_microbatches([5, 500], max_tokens=10) == [[1], [0]]


def test_little_of_a_group_is_padding() -> None:
    lengths = [20 + 7 * (number % 14) for number in range(64)]
    groups = length_sorted_microbatches(lengths, max_tokens=8192)
    assert sorted(index for group in groups for index in group) == list(range(64))
    for group in groups:
        positions = len(group) * max(lengths[index] for index in group)
        assert positions - sum(lengths[index] for index in group) <= max(128, positions // 8)
    assert len(groups) <= 6
