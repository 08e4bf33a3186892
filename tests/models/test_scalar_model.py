"""The reward and value model: where the score is read, the bias, the first weights, the copy."""

import pytest
import torch

from tests.models.architectures import random_ids, random_model
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel, value_model_from


def test_a_score_is_the_value_at_the_last_kept_token_less_the_bias() -> None:
    model = ScalarModel(random_model("qwen3"))
    model.bias.fill_(0.75)
    ids_BT, last_B = random_ids(model.trunk.config, 3, 20), torch.tensor([19, 4, 11])
    values_BT = model.values(ids_BT)
    assert values_BT.shape == (3, 20) and values_BT.dtype == torch.float32
    torch.testing.assert_close(model.scores(ids_BT, last_B), values_BT[torch.arange(3), last_B] - 0.75)


def test_tokens_after_the_last_kept_one_change_no_score() -> None:
    model = ScalarModel(random_model("qwen3"))
    ids_BT, last_B = random_ids(model.trunk.config, 2, 20), torch.tensor([9, 5])
    padded_BT = ids_BT.clone()
    padded_BT[:, 10:] = 0
    torch.testing.assert_close(model.scores(padded_BT, last_B), model.scores(ids_BT, last_B))


def test_the_head_starts_at_one_over_sqrt_of_width_plus_one() -> None:
    torch.manual_seed(0)
    model = ScalarModel(GPT(preset("tiny", model_dim=4096, num_layers=1, mlp_dim=8, vocab_size=8)))
    assert model.head.weight.std().item() == pytest.approx(4097**-0.5, rel=0.05)
    assert model.head.bias is None and model.bias.item() == 0


def test_the_value_model_is_a_copy_that_learns_alone() -> None:
    reward_model = ScalarModel(random_model("qwen3"))
    reward_model.bias.fill_(0.5)
    for parameter in reward_model.parameters():
        parameter.requires_grad_(False)
    value_model = value_model_from(reward_model)
    ids_BT = random_ids(reward_model.trunk.config, 2, 10)
    assert torch.equal(value_model.values(ids_BT), reward_model.values(ids_BT))
    before = reward_model.values(ids_BT)
    value_model.values(ids_BT).sum().backward()
    with torch.no_grad():
        for parameter in value_model.parameters():
            assert parameter.requires_grad
            parameter.add_(0.1)
    assert torch.equal(reward_model.values(ids_BT), before)
