"""Models on one trunk read the layers below their adapters once, and nothing they compute changes."""

import copy

import pytest
import torch

from wuya.errors import ConfigError
from wuya.models.frozen_layers import FrozenLayers
from wuya.models.gpt import GPT
from wuya.models.lora import LanguageView, adapter_state, add_lora, merge_lora, share_frozen_layers
from wuya.models.presets import preset


@pytest.fixture
def trunk() -> GPT:
    torch.manual_seed(0)
    return GPT(preset("tiny", vocab_size=61, num_layers=4, context_length=32)).eval()


def with_adapters(trunk: GPT, layers: int = 2) -> GPT:
    for number, name in enumerate(("value", "policy")):
        add_lora(trunk, rank=4, alpha=8, layers=layers, name=name, seed=number)
        for path, factor in adapter_state(trunk, name).items():
            if "lora_b" in path:
                torch.nn.init.normal_(factor, std=0.1, generator=torch.Generator().manual_seed(len(path)))
    return trunk


IDS_BT = torch.randint(0, 61, (3, 16), generator=torch.Generator().manual_seed(1))


def test_adapters_are_on_the_top_blocks_only(trunk: GPT) -> None:
    paths = list(adapter_state(with_adapters(trunk)))
    assert {path.split(".")[1] for path in paths} == {"2", "3"}
    with pytest.raises(ConfigError, match="`lora_layers` is at most"):
        add_lora(trunk, rank=4, alpha=8, layers=5, name="more")


def test_states_and_gradients_are_those_without_sharing(trunk: GPT) -> None:
    alone = with_adapters(copy.deepcopy(trunk))
    shared = with_adapters(trunk)
    share_frozen_layers(shared)
    assert shared.frozen_layers is not None and shared.frozen_layers.count == 2
    segments_BT = torch.zeros(3, 16, dtype=torch.int64)
    segments_BT[:, 9:] = 1
    positions_BT = torch.cat([torch.arange(9), torch.arange(7)]).expand(3, 16)
    for extra in ({}, {"segments_BT": segments_BT, "positions_BT": positions_BT}):
        for name in (None, "value", "policy"):
            with torch.inference_mode():  # as evaluations read; training may come after it
                read = LanguageView(shared, name)(IDS_BT, **extra)
            assert torch.equal(read, LanguageView(alone, name)(IDS_BT, **extra))
        for model in (alone, shared):
            LanguageView(model, "policy")(IDS_BT, **extra).square().sum().backward()
    ours, theirs = (adapter_state(model, "policy") for model in (shared, alone))
    assert all(torch.equal(ours[path].grad, theirs[path].grad) for path in theirs)
    assert (shared.frozen_layers.misses, shared.frozen_layers.hits) == (2, 6)  # twice 4 readers, 2 sets of rows


def test_other_rows_positions_or_padding_are_never_taken_for_the_same(trunk: GPT) -> None:
    share_frozen_layers(with_adapters(trunk))
    longer = torch.cat([IDS_BT, torch.zeros(3, 1, dtype=torch.int64)], dim=1)
    moved = torch.arange(1, 17).expand(3, 16)
    with torch.no_grad():
        for _ in range(2):
            trunk(IDS_BT), trunk(longer), trunk(IDS_BT, positions_BT=moved)
    assert trunk.frozen_layers is not None and trunk.frozen_layers.misses == 3


def test_memory_is_bounded_and_copies_start_empty(trunk: GPT) -> None:
    trunk.frozen_layers = FrozenLayers(2, max_bytes=2 * 3 * 16 * trunk.config.model_dim * 4)
    with torch.no_grad():
        for start in range(4):
            trunk((IDS_BT + start) % 61)
        trunk((IDS_BT + 3) % 61)  # kept
        trunk(IDS_BT)  # long gone
    assert (trunk.frozen_layers.hits, trunk.frozen_layers.misses) == (1, 5)
    copied = copy.deepcopy(trunk).frozen_layers
    assert copied is not None and copied.count == 2 and not copied._kept


def test_merged_weights_are_read_from_the_bottom_again(trunk: GPT) -> None:
    share_frozen_layers(with_adapters(trunk))
    expected = LanguageView(trunk, "policy")(IDS_BT)
    merge_lora(trunk, "policy")
    assert trunk.frozen_layers is None
    assert torch.allclose(trunk(IDS_BT), expected, atol=1e-5)


def test_adapters_everywhere_leave_nothing_to_share(trunk: GPT) -> None:
    share_frozen_layers(with_adapters(trunk, layers=0))
    assert trunk.frozen_layers is None
