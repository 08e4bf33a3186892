"""Claims about PPO's updates on policies small enough to know the answer."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.rlhf.ppo_toys import TablePolicy, TableValues, ToyPPO, bandit_rollouts, ppo_config
from wuya.data.batches import minibatch_rows
from wuya.errors import ConfigError, NotFinite
from wuya.losses.ppo import adapted_kl_coef
from wuya.recipes.ppo import PPOConfig
from wuya.rlhf.ppo_update import PPOBatch
from wuya.training.ema import ema_initial_share
from wuya.training.schedule import policy_gradient_multiplier

REWARDS_V = torch.tensor([0.0, 1, 0, 0.5, 0, -1, 0, 0.2, 0, 0.8])


def settings(**changes: Any) -> PPOConfig:
    defaults: dict[str, Any] = {
        "num_updates": 40,
        "rollout_batch_size": 512,
        "minibatch_size": 512,
        "microbatch_tokens": 10_000,
        "learning_rate": 0.1,
        "value_learning_rate": 0.1,
        "warmup_updates": 1,
        "value_warmup_updates": 0,
        "adam_eps": 1e-8,
        "kl_coef": 0.5,
        "ema_decay": 0.0,
    }
    return ppo_config(**{**defaults, **changes})


def run_bandit(learner: ToyPPO, rewards_V: Tensor = REWARDS_V) -> dict[str, float]:
    reference = copy.deepcopy(learner.policy)
    metrics: dict[str, float] = {}
    for update in range(learner.config.total_updates):
        rollouts = bandit_rollouts(
            learner.policy,
            reference,
            learner.value_model,
            rewards_V,
            episodes=learner.config.rollout_batch_size,
            seed=update,
        )
        batch = learner.batch(rollouts)
        metrics = learner.learn(batch, update=update)
    return metrics


def total_variation(learner: ToyPPO, wanted_V: Tensor) -> float:
    return 0.5 * float((learner.policy.table_V.detach().softmax(-1) - wanted_V).abs().sum())


def test_a_bandit_ends_at_the_reference_tilted_by_exp_reward_over_beta() -> None:
    torch.manual_seed(0)
    start_V = 0.5 * torch.randn(10)
    learner = ToyPPO(
        TablePolicy(start_V), TableValues(), settings(num_updates=60, linear_decay=True, minibatch_size=256)
    )
    run_bandit(learner)
    wanted_V = (start_V + REWARDS_V / 0.5).softmax(-1)
    assert total_variation(learner, wanted_V) < 0.02


def test_without_kl_the_policy_hacks_the_reward() -> None:
    learner = ToyPPO(TablePolicy(torch.zeros(10)), TableValues(), settings(kl_coef=0.0))
    run_bandit(learner)
    assert learner.policy.table_V.softmax(-1)[1] > 0.85


def test_a_huge_kl_coefficient_keeps_the_policy_where_it_is() -> None:
    learner = ToyPPO(TablePolicy(torch.zeros(10)), TableValues(), settings(kl_coef=1e4, linear_decay=True))
    run_bandit(learner)
    assert total_variation(learner, torch.full((10,), 0.1)) < 0.02


def test_penalising_a_token_drives_its_count_to_zero() -> None:
    rewards_V = torch.zeros(10)
    rewards_V[3] = -1
    learner = ToyPPO(TablePolicy(torch.zeros(10)), TableValues(), settings(kl_coef=0.02))
    run_bandit(learner, rewards_V)
    assert learner.policy.table_V.softmax(-1)[3] < 0.01


def constant_advantage(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, **_: float) -> tuple[Tensor, Tensor]:
    return 0.1 * mask_BT, rewards_BT


def test_constant_advantage_with_beta_and_gamma_zero_leaves_the_policy_bit_identical() -> None:
    start_V = torch.randn(10)
    learner = ToyPPO(
        TablePolicy(start_V),
        TableValues(),
        settings(kl_coef=0.0, num_updates=5, minibatch_size=64, ppo_epochs=2),
        advantage=constant_advantage,
    )
    run_bandit(learner)
    assert torch.equal(learner.policy.table_V, start_V)
    assert learner.value_model.value_1 != 0  # the value model did learn


def test_the_first_minibatch_has_ratio_one_and_kl_zero() -> None:
    learner = ToyPPO(TablePolicy(torch.randn(10)), TableValues(), settings(num_updates=1))
    metrics = run_bandit(learner)
    assert metrics["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-6)
    assert metrics["policy/clipfrac_avg"] == 0


def test_old_logprobs_of_another_function_stop_the_run() -> None:
    learner = ToyPPO(TablePolicy(torch.randn(10)), TableValues(), settings())
    other = TablePolicy(torch.randn(10))
    rollouts = bandit_rollouts(other, other, learner.value_model, REWARDS_V, episodes=512, seed=0)
    with pytest.raises(AssertionError, match="old and new log-probs differ"):
        learner.learn(learner.batch(rollouts), update=0)


def test_only_the_value_model_learns_in_its_warm_up() -> None:
    start_V = torch.zeros(10)
    learner = ToyPPO(TablePolicy(start_V), TableValues(), settings(value_warmup_updates=3, num_updates=1))
    reference = copy.deepcopy(learner.policy)
    for update in range(3):
        rollouts = bandit_rollouts(learner.policy, reference, learner.value_model, REWARDS_V, episodes=512, seed=update)
        metrics = learner.learn(learner.batch(rollouts), update=update)
        assert metrics["warming_up"] and "policy/clipfrac_avg" not in metrics
    assert torch.equal(learner.policy.table_V, start_V)
    assert learner.value_model.value_1.item() > 0.1


def small_batch() -> PPOBatch:
    torch.manual_seed(0)
    lengths_B = torch.tensor([3, 9, 5, 7, 4, 9, 6, 8])
    mask_BT = (torch.arange(8) < (lengths_B - 1)[:, None]).float()
    mask_BT[:, 0] = 0
    return PPOBatch(
        ids_BT=torch.randint(0, 10, (8, 9)),
        mask_BT=mask_BT,
        old_logprobs_BT=-2.3 * mask_BT,
        old_values_BT=torch.randn(8, 8) * mask_BT,
        advantages_BT=torch.randn(8, 8) * mask_BT,
        returns_BT=torch.randn(8, 8) * mask_BT,
        lengths_B=lengths_B,
    )


class SmallGPT(nn.Module):
    """Position-wise network, to have gradients that depend on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 10)

    def forward(self, ids_BT: Tensor, *, wanted_BT: Tensor | None = None, **places: Tensor | None) -> Tensor:
        hidden: Tensor = self.embedding(ids_BT if wanted_BT is None else ids_BT[wanted_BT])
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


@pytest.mark.parametrize("microbatch_tokens", [1, 18, 30])
def test_one_microbatch_equals_eight(microbatch_tokens: int) -> None:
    results = []
    for tokens in (10_000, microbatch_tokens):
        torch.manual_seed(1)
        learner = ToyPPO(
            SmallGPT(),
            TableValues(),
            settings(rollout_batch_size=8, minibatch_size=8, microbatch_tokens=tokens, warmup_updates=0, adam_eps=1.0),
        )
        metrics = learner.learn(small_batch(), update=1)
        results.append((learner.policy.embedding.weight.detach(), learner.value_model.value_1.detach(), metrics))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][2] == pytest.approx(results[1][2], rel=1e-5)


class OneWindow:
    """Pre-training text that says token 4 for ever."""

    tokens_per_batch = 64

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        return torch.full((8, 8), 4), torch.full((8, 8), 4)


def test_with_reward_and_beta_zero_the_pretraining_loss_falls() -> None:
    learner = ToyPPO(
        TablePolicy(torch.zeros(10)),
        TableValues(),
        settings(kl_coef=0.0, ptx_coef=1.0, num_updates=20),
        pretraining=OneWindow(),  # type: ignore[arg-type]
    )
    metrics = run_bandit(learner, torch.zeros(10))
    assert metrics["loss/ptx"] < 1.5 < 2.302  # ln 10 at the start


def test_ptx_and_ppo_gradients_meet_in_one_step() -> None:
    """The step taken is that of the summed gradient: with SGD-like Adam (huge eps) steps add up."""
    moved = []
    for ptx_coef, kl_coef in ((0.0, 0.5), (2.0, 0.5)):
        learner = ToyPPO(
            TablePolicy(torch.zeros(10)),
            TableValues(),
            settings(
                ptx_coef=ptx_coef,
                kl_coef=kl_coef,
                num_updates=1,
                warmup_updates=0,
                adam_eps=1e4,
                learning_rate=1e4,
                max_grad_norm=0.0,
            ),
            pretraining=OneWindow(),  # type: ignore[arg-type]
        )
        run_bandit(learner)
        moved.append(learner.policy.table_V.detach())
    ptx_gradient_V = torch.full((10,), 0.1)
    ptx_gradient_V[4] -= 1
    torch.testing.assert_close(moved[1] - moved[0], -2.0 * ptx_gradient_V, atol=1e-3, rtol=1e-2)


def test_a_gradient_that_is_not_finite_stops_the_run_and_spares_the_weights() -> None:
    learner = ToyPPO(TablePolicy(torch.zeros(10)), TableValues(), settings())
    with pytest.raises(NotFinite):
        run_bandit(learner, torch.full((10,), float("nan")))
    assert torch.isfinite(learner.policy.table_V).all() and torch.isfinite(learner.value_model.value_1).all()


def test_saved_states_resume_bit_for_bit() -> None:
    def make() -> ToyPPO:
        return ToyPPO(
            TablePolicy(torch.zeros(10)), TableValues(), settings(ema_decay=0.9, target_kl=0.1, num_updates=6)
        )

    straight, first, second = make(), make(), make()
    reference = TablePolicy(torch.zeros(10))

    def step(learner: ToyPPO, update: int) -> None:
        rollouts = bandit_rollouts(learner.policy, reference, learner.value_model, REWARDS_V, episodes=512, seed=update)
        learner.learn(learner.batch(rollouts), update=update)
        learner.kl_coef = adapted_kl_coef(
            learner.kl_coef, observed_kl=float(rollouts.kl_B.mean()), target_kl=0.1, num_episodes=512, horizon=10_000
        )

    for update in range(6):
        step(straight, update)
    for update in range(3):
        step(first, update)
    second.kl_coef = first.kl_coef
    second.trained_policy.load_state_dict(copy.deepcopy(first.trained_policy.state_dict()))
    second.trained_values.load_state_dict(copy.deepcopy(first.trained_values.state_dict()))
    for update in range(3, 6):
        step(second, update)
    assert torch.equal(straight.policy.table_V, second.policy.table_V)
    assert torch.equal(straight.value_model.value_1, second.value_model.value_1)
    averages = straight.trained_policy.ema, second.trained_policy.ema
    assert averages[0] is not None and averages[1] is not None and straight.trained_values.ema is None
    assert torch.equal(averages[0].shadow["table_V"], averages[1].shadow["table_V"])
    assert straight.kl_coef == second.kl_coef != 0.5


def test_minibatches_partition_the_episodes_and_ranks_share_them() -> None:
    whole = list(minibatch_rows(64, 16, seed=1, update=2))
    assert sorted(torch.cat(whole).tolist()) == list(range(64))
    assert [m.tolist() for m in whole] == [m.tolist() for m in minibatch_rows(64, 16, seed=1, update=2)]
    assert [m.tolist() for m in whole] != [m.tolist() for m in minibatch_rows(64, 16, seed=1, update=3)]
    first, second = whole, list(minibatch_rows(64, 16, seed=1, update=2, epochs=2))[4:]
    assert [m.tolist() for m in first] != [m.tolist() for m in second] and len(second) == 4
    ranks = [list(minibatch_rows(64, 16, seed=1, update=2, rank=rank, world_size=2)) for rank in range(2)]
    for number, minibatch in enumerate(whole):
        both = [2 * row + rank for rank in range(2) for row in ranks[rank][number].tolist()]
        assert sorted(both) == sorted(minibatch.tolist())


def test_learning_rate_warms_up_from_a_tenth_over_ten_updates() -> None:
    def at(update: int, linear_decay: bool = False) -> float:
        return policy_gradient_multiplier(update, warmup_updates=10, num_updates=100, linear_decay=linear_decay)

    assert [at(0), at(5), at(10), at(99)] == pytest.approx([0.1, 0.55, 1, 1])
    assert at(50, linear_decay=True) == pytest.approx(0.5)


def test_share_of_the_start_left_in_the_moving_average() -> None:
    assert ema_initial_share(0.992, 4000) < 1e-13
    assert ema_initial_share(0.992, 64) == pytest.approx(0.598, abs=1e-3)


def test_settings_refuse_what_cannot_work() -> None:
    with pytest.raises(ConfigError, match="minibatch_size"):
        settings(rollout_batch_size=100, minibatch_size=64)
    with pytest.raises(ConfigError, match="ema_decay"):
        settings(ema_decay=1.0)
    with pytest.raises(ConfigError, match="missing_eos_penalty"):
        settings(missing_eos_penalty=0.0)
