"""The demo shortens InstructGPT's schedule: it must still learn, and not ship the weights it started from."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.rlhf.ppo_toys import ToyPPO, bandit_rollouts
from wuya.demo.alignment import ppo_config
from wuya.demo.sizes import SIZES, Demo
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes.ppo import PPOConfig
from wuya.training.ema import ema_initial_share

SIZE = SIZES["small"]


def schedule() -> PPOConfig:
    return ppo_config(Demo(Path("runs"), SIZE, 0))


def test_at_most_five_percent_of_the_initial_weights_are_left_in_what_the_demo_ships() -> None:
    settings = schedule()
    assert ema_initial_share(settings.ema_decay, settings.num_updates * settings.steps_per_update) <= 0.05


def share_of_the_best(policy: GPT, reference: GPT, rewards_V: Tensor, kl_coef: float) -> float:
    """E[reward] - beta KL(policy || reference), as a share of its maximum, beta * log sum pi_ref exp(reward / beta)."""
    with torch.no_grad():
        logp_V, ref_V = (m.logits(m(torch.tensor([[0]])))[0, 0].log_softmax(-1) for m in (policy, reference))
    objective = (logp_V.exp() * (rewards_V - kl_coef * (logp_V - ref_V))).sum()
    return float(objective / (kl_coef * (ref_V + rewards_V / kl_coef).logsumexp(-1)))


def test_the_demos_schedule_solves_the_ten_token_bandit() -> None:
    """Its architecture, batches, rates, warm-ups, KL coefficient and moving average; one good token of ten."""
    settings = schedule()
    torch.manual_seed(0)
    policy = GPT(preset("tiny", vocab_size=10, context_length=8, **SIZE.model))
    value_model = ScalarModel(copy.deepcopy(policy))
    nn.init.zeros_(value_model.head.weight)
    reference = copy.deepcopy(policy)
    rewards_V = nn.functional.one_hot(torch.tensor(3), 10).float()
    learner = ToyPPO(policy, value_model, settings)
    assert share_of_the_best(policy, reference, rewards_V, settings.kl_coef) < 0.3
    for update in range(settings.total_updates):
        rollouts = bandit_rollouts(
            policy, reference, value_model, rewards_V, episodes=settings.rollout_batch_size, seed=update
        )
        learner.learn(learner.batch(rollouts), update=update)
    assert share_of_the_best(policy, reference, rewards_V, settings.kl_coef) > 0.9
    assert learner.trained_policy.ema is not None
    with learner.trained_policy.averaged():
        assert share_of_the_best(policy, reference, rewards_V, settings.kl_coef) > 0.85
