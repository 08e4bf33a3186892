"""The average follows the weights, and the weights survive being looked at through it."""

import pytest
import torch
from torch import nn

from wuya.training.ema import Ema


def test_average_after_each_update() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.9)
    nn.init.ones_(model.weight)
    ema.update(model)
    ema.update(model)
    assert float(ema.shadow["weight"]) == pytest.approx(1 - 0.9**2)


def test_weights_come_back_bit_for_bit() -> None:
    model = nn.Linear(3, 3)
    ema = Ema(model, decay=0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.detach().clone()
    with ema.applied_to(model):
        torch.testing.assert_close(model.weight.detach(), own - 1.0)
    assert torch.equal(model.weight, own)


def test_state_round_trips() -> None:
    model = nn.Linear(3, 3)
    ema, other = Ema(model, decay=0.5), Ema(nn.Linear(3, 3), decay=0.5)
    ema.update(model)
    other.load_state_dict(ema.state_dict())
    assert other.num_updates == 1 and torch.equal(other.shadow["weight"], ema.shadow["weight"])
