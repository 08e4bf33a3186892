"""Claims about RLOO and GRPO on bandits whose optimum is known."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.inference.naive import sharp_model
from tests.rlhf.ppo_toys import TablePolicy, TableValues, bandit_rollouts, sequence_logprobs
from wuya.errors import ConfigError
from wuya.losses.groups import grpo_advantages
from wuya.recipes.grpo import GRPOConfig, algorithm, final_scores, learn, trained_policy
from wuya.rlhf.answer_rows import LONGEST_ROW
from wuya.rlhf.group_update import GroupBatch, group_batch, group_minibatches
from wuya.rlhf.rollouts import Rollouts

REWARDS_V = torch.tensor([0.0, 1, 0, 0.5, 0, -1, 0, 0.2, 0, 0.8])


def settings(**changes: Any) -> GRPOConfig:
    defaults: dict[str, Any] = {
        "policy": Path("-"), "reward": "-", "prompts": Path("-"), "out": Path("-"),
        "num_updates": 60, "rollout_batch_size": 512, "minibatch_size": 512, "group_size": 4, "learning_rate": 0.1,
        "warmup_updates": 1, "linear_decay": True, "adam_eps": 1e-8, "kl_coef": 0.5,
    }  # fmt: skip
    return GRPOConfig(**{**defaults, **changes})


class ToyGRPO:
    """A policy in training as `wuya.recipes.grpo.run` trains it, on episodes that a test makes."""

    def __init__(self, policy: Any, config: GRPOConfig) -> None:
        self.policy, self.config, self.max_length = policy, config, LONGEST_ROW
        self.trained = trained_policy(policy, config)
        self.advantage, self.policy_loss = algorithm(config)

    def batch(self, rollouts: Rollouts) -> GroupBatch:
        group = self.config.group_size
        scores_B = final_scores(rollouts, self.config)
        return group_batch(rollouts, self.advantage(scores_B.view(-1, group), rollouts.kl_B.view(-1, group)))

    def learn(self, batch: GroupBatch, *, update: int) -> dict[str, float]:
        return learn(
            self.trained, batch, self.config, update=update, policy_loss=self.policy_loss, max_length=self.max_length
        )


def rloo(policy: Any, chosen: GRPOConfig) -> ToyGRPO:
    return ToyGRPO(policy, dataclasses.replace(chosen, algorithm="rloo"))


def grpo(policy: Any, chosen: GRPOConfig, *, divide_by_std: bool = True) -> ToyGRPO:
    """Without the standard deviation: its advantages with GRPO's loss, not Dr. GRPO's constant length."""
    toy = ToyGRPO(policy, chosen)
    toy.advantage = lambda scores_PG, kl_PG: grpo_advantages(scores_PG, divide_by_std=divide_by_std)
    return toy


def run_bandit(learner: ToyGRPO) -> None:
    """All episodes answer the one prompt there is, so any four neighbours are a group."""
    reference = copy.deepcopy(learner.policy)
    for update in range(learner.config.num_updates):
        rollouts = bandit_rollouts(
            learner.policy,
            reference,
            TableValues(),
            REWARDS_V,
            episodes=learner.config.rollout_batch_size,
            seed=update,
        )
        learner.learn(learner.batch(rollouts), update=update)


def total_variation(learner: ToyGRPO, wanted_V: Tensor) -> float:
    return 0.5 * float((learner.policy.table_V.detach().softmax(-1) - wanted_V).abs().sum())


def test_rloo_ends_at_the_reference_tilted_by_exp_reward_over_beta_as_ppo_does() -> None:
    torch.manual_seed(0)
    start_V = 0.5 * torch.randn(10)
    learner = rloo(TablePolicy(start_V), settings())
    run_bandit(learner)
    assert total_variation(learner, (start_V + REWARDS_V / 0.5).softmax(-1)) < 0.03


def test_grpo_without_std_ends_where_the_other_kl_says() -> None:
    """k3 in the loss penalises KL(ref || pi): at the optimum pi_v (r_v - mean r) (G - 1) / G = beta (pi_v - ref_v).

    (G - 1) / G because a completion is part of the mean it is compared with, which RLOO leaves out.
    """
    learner = grpo(TablePolicy(torch.zeros(10)), settings(), divide_by_std=False)
    run_bandit(learner)
    pi_V = learner.policy.table_V.detach().softmax(-1)
    residual_V = 0.75 * pi_V * (REWARDS_V - pi_V @ REWARDS_V) - 0.5 * (pi_V - 0.1)
    assert residual_V.abs().max() < 0.01 and pi_V[1] > 0.15


@pytest.mark.parametrize("make", [rloo, grpo])
def test_without_kl_they_find_the_best_arm(make: Any) -> None:
    learner = make(TablePolicy(torch.zeros(10)), settings(kl_coef=0.0, linear_decay=False))
    run_bandit(learner)
    assert learner.policy.table_V.softmax(-1)[1] > 0.8


def test_groups_of_equal_scores_leave_the_policy_bit_identical() -> None:
    start_V = torch.randn(10)
    learner = grpo(TablePolicy(start_V), settings(kl_coef=0.0, num_updates=3))
    reference = copy.deepcopy(learner.policy)
    for update in range(3):
        rollouts = bandit_rollouts(learner.policy, reference, TableValues(), torch.ones(10), episodes=512, seed=update)
        learner.learn(learner.batch(rollouts), update=update)
    assert torch.equal(learner.policy.table_V, start_V)


def test_microbatches_change_nothing_and_minibatches_are_whole_groups() -> None:
    tables = []
    for tokens in (10, 10_000):
        learner = rloo(
            TablePolicy(torch.zeros(10)), settings(num_updates=2, microbatch_tokens=tokens, minibatch_size=128)
        )
        run_bandit(learner)
        tables.append(learner.policy.table_V.detach())
        rows = list(group_minibatches(128, 32, group_size=4, seed=0, update=0, epochs=1))
        assert len(rows) == 4 and all((r.view(-1, 4) // 4 == r.view(-1, 4)[:, :1] // 4).all() for r in rows)
        assert torch.equal(torch.cat(rows).sort().values, torch.arange(512))
    torch.testing.assert_close(tables[0], tables[1])


@pytest.mark.parametrize("make", [rloo, grpo])
def test_a_prompt_read_once_for_its_group_teaches_what_one_sequence_an_episode_teaches(make: Any) -> None:
    """Rows of nine tokens, most with one answer, against rows of a whole group; nothing has the same length."""
    torch.manual_seed(1)
    prompt_lengths_B = torch.tensor([5, 5, 5, 5, 2, 2, 2, 2])
    lengths_B = prompt_lengths_B + torch.tensor([4, 1, 3, 2, 2, 4, 1, 3])
    ids_BT = torch.randint(0, 24, (8, 9))
    ids_BT[:4, :5], ids_BT[4:, :2] = ids_BT[0, :5].clone(), ids_BT[4, :2].clone()
    place_T = torch.arange(1, 9)
    mask_BT = ((place_T >= prompt_lengths_B[:, None]) & (place_T < lengths_B[:, None])).float()
    with torch.no_grad():
        logprobs_BT = sequence_logprobs(sharp_model(), ids_BT, mask_BT)
    rollouts = Rollouts(
        ids_BT=ids_BT, mask_BT=mask_BT, old_logprobs_BT=logprobs_BT, ref_logprobs_BT=logprobs_BT * 0.9,
        old_values_BT=torch.zeros_like(mask_BT), scores_B=torch.randn(8), has_eos_B=torch.ones(8, dtype=torch.bool),
        prompt_lengths_B=prompt_lengths_B, completion_lengths_B=lengths_B - prompt_lengths_B,
    )  # fmt: skip
    chosen = settings(
        rollout_batch_size=8, minibatch_size=8, kl_coef=0.1, adam_eps=1.0
    )  # a step as long as its gradient
    found = []
    for max_length in (9, 64):
        learner = make(sharp_model(), chosen)
        learner.max_length = max_length
        batch = learner.batch(rollouts)
        parts = [read for read, _ in batch.microbatches(max_length=max_length, max_tokens=64)]
        metrics = learner.learn(batch, update=0)
        found.append((sum(len(read.ids_NT) for read in parts), metrics, learner.policy.state_dict()))
    (alone, metrics, weights), (together, again, weights_again) = found
    assert (alone, together) == (5, 2)
    assert metrics == pytest.approx(again, rel=1e-3, abs=1e-6) and metrics["policy/grad_norm"] > 0.1
    for name, weight in weights.items():
        torch.testing.assert_close(weight, weights_again[name], atol=1e-5, rtol=1e-4)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        settings(group_size=1)
    with pytest.raises(ConfigError, match="group_size"):
        settings(group_size=3)
