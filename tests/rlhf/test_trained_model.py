"""A step changes weights and their average, or, when the gradient is not finite, nothing at all."""

import pytest
import torch

from tests.rlhf.ppo_toys import TablePolicy
from wuya.errors import NotFinite
from wuya.rlhf.trained_model import TrainedModel


def trained(ema_decay: float = 0.5) -> TrainedModel:
    return TrainedModel("policy", TablePolicy(torch.zeros(3)), learning_rate=0.1, ema_decay=ema_decay)


def test_a_step_clips_moves_the_weights_clears_the_gradient_and_returns_the_norm_before_clipping() -> None:
    model = trained()
    model.model.table_V.grad = torch.tensor([3.0, 4.0, 0.0])
    assert model.step(max_grad_norm=1.0) == pytest.approx(5.0)
    assert model.model.table_V.grad is None or not model.model.table_V.grad.any()
    assert (model.model.table_V[:2] < -0.05).all() and model.model.table_V[2] == 0
    moved_V = model.model.table_V.detach().clone()
    with model.averaged():
        torch.testing.assert_close(model.model.table_V.detach(), moved_V / 2)
    assert torch.equal(model.model.table_V.detach(), moved_V)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(bad: float) -> None:
    model = trained()
    model.model.table_V.grad = torch.tensor([1.0, bad, 0.0])
    with pytest.raises(NotFinite, match="policy"):
        model.step(max_grad_norm=1.0)
    assert not model.model.table_V.any() and model.ema is not None and model.ema.num_updates == 0


def test_without_an_average_the_weights_are_their_own() -> None:
    model = trained(ema_decay=0.0)
    with model.averaged():
        assert not model.model.table_V.any()
    assert model.state_dict()["ema"] is None
