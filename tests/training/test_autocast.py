"""Training inside one autocast block: every forward pass sees the weights of its moment, in the run's arithmetic."""

import copy

import pytest
import torch

from tests.inference.naive import random_prompts, sharp_model
from tests.rlhf.ppo_toys import ToyPPO, ppo_config, sequence_logprobs
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel
from wuya.rlhf.ppo_update import PPOBatch
from wuya.training import distributed
from wuya.training.ema import Ema
from wuya.training.optimizer import build_optimizer

CPU = torch.device("cpu")


def batch_of(policy: GPT, *, episodes: int) -> PPOBatch:
    """Equal-length episodes whose old log-probs are the policy's own."""
    torch.manual_seed(1)
    ids_BT = torch.randint(2, policy.config.vocab_size, (episodes, 12))
    mask_BT = torch.zeros(episodes, 11)
    mask_BT[:, 5:] = 1.0
    with torch.no_grad():
        logprobs_BT = sequence_logprobs(policy, ids_BT, mask_BT)
    return PPOBatch(
        ids_BT=ids_BT, mask_BT=mask_BT, old_logprobs_BT=logprobs_BT, old_values_BT=torch.zeros_like(mask_BT),
        advantages_BT=mask_BT * torch.randn(mask_BT.shape), returns_BT=mask_BT,
        lengths_B=torch.full((episodes,), 12),
    )  # fmt: skip


def learned(dtype: torch.dtype, optimizer: str = "adamw") -> dict[str, float]:
    """One update of four minibatches inside one autocast block, as a recipe or a script may write it."""
    torch.manual_seed(0)
    policy = sharp_model(3)
    settings = ppo_config(
        rollout_batch_size=32, minibatch_size=8, learning_rate=0.02 if optimizer == "muon" else 3e-3,
        value_learning_rate=1e-3, warmup_updates=0, value_warmup_updates=0, ema_decay=0.0, optimizer=optimizer,
    )  # fmt: skip
    learner = ToyPPO(policy, ScalarModel(copy.deepcopy(policy)), settings, tolerance=0.1)
    with distributed.autocast(CPU, dtype):
        return learner.learn(batch_of(policy, episodes=32), update=0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_second_minibatch_sees_the_step_of_the_first(optimizer: str) -> None:
    """With the copies from before the first step its ratios would be 1: nothing clipped, an approximate KL of 0."""
    wide, narrow = learned(torch.float32, optimizer), learned(torch.bfloat16, optimizer)
    assert wide["policy/approxkl_avg"] > 0.005 and wide["policy/clipfrac_avg"] > 0.05
    assert narrow["policy/approxkl_avg"] == pytest.approx(wide["policy/approxkl_avg"], rel=0.3)
    assert narrow["policy/clipfrac_avg"] == pytest.approx(wide["policy/clipfrac_avg"], rel=0.3)


def test_the_moving_average_is_what_runs_inside_its_block() -> None:
    model = sharp_model()
    average = Ema(model, 0.5)
    ids_BT = torch.tensor(random_prompts(1)[:1])
    optimizer = build_optimizer(model, name="adamw", lr=0.05)

    def logits() -> torch.Tensor:
        return model.logits(model(ids_BT)).detach()

    with distributed.autocast(CPU, torch.bfloat16):
        before = logits()
        model.logits(model(ids_BT)).sum().backward()
        optimizer.step()
        after = logits()
        with average.applied_to(model):  # it was never updated: the weights of the start
            assert torch.equal(logits(), before)
        assert torch.equal(logits(), after) and not torch.equal(after, before)


def test_scores_keep_their_digits_in_bf16() -> None:
    """The scalar head is computed in float32: bf16 would give two or three digits."""
    model = ScalarModel(sharp_model())
    ids_BT = torch.randint(0, 10, (64, 8))
    with torch.no_grad(), distributed.autocast(CPU, torch.bfloat16):
        scores_BT = model.values(ids_BT)
    assert scores_BT.dtype == torch.float32 and (scores_BT != scores_BT.bfloat16().float()).float().mean() > 0.9
