"""One process or two: the same minibatches, the same sums, the same weights."""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from tests.inference.naive import random_prompts, sharp_model
from tests.recipes.processes import two_ranks
from tests.rlhf.ppo_toys import TablePolicy, TableValues, ToyPPO, bandit_rollouts, ppo_config
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.rlhf.dynamic_sampling import sample_groups
from wuya.rlhf.episodes import EpisodeSource
from wuya.rlhf.ppo_models import NoValues
from wuya.rlhf.rollouts import Score
from wuya.tokenizer.bpe import Tokenizer
from wuya.training import distributed

SETTINGS = ppo_config(
    num_updates=3, rollout_batch_size=32, minibatch_size=8, learning_rate=0.1, value_learning_rate=0.1,
    warmup_updates=0, value_warmup_updates=1, ema_decay=0.5,
)  # fmt: skip


def learn() -> dict[str, Any]:
    """A bandit of which every rank holds its own episodes."""
    policy, reference, values = TablePolicy(torch.zeros(10)), TablePolicy(torch.zeros(10)), TableValues()
    learner = ToyPPO(policy, values, SETTINGS)
    metrics: dict[str, float] = {}
    for update in range(SETTINGS.total_updates):
        whole = bandit_rollouts(policy, reference, values, torch.arange(10) / 10, episodes=32, seed=update)
        mine = torch.tensor(list(distributed.local_rows(32)))
        part = dataclasses.replace(whole, **{f.name: getattr(whole, f.name)[mine] for f in dataclasses.fields(whole)})
        metrics = learner.learn(learner.batch(part), update=update)
    return {"policy": policy.table_V.detach(), "value": values.value_1.detach(), "metrics": metrics}


def in_group(rank: int, out: Path) -> None:
    distributed.init("cpu")
    torch.save(learn(), out / f"{rank}.pt")
    distributed.shutdown()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    assert two_ranks(partial(in_group, out=tmp_path)) == [0, 0]
    alone = learn()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=1e-5, atol=1e-6)


def toy_source(score: Score) -> EpisodeSource:
    """Seven prompts, two answers to each."""
    policy, tokenizer = sharp_model(), cast(Tokenizer, SimpleNamespace(pad_id=0))
    return EpisodeSource(
        engine=Engine(policy), tokenizer=tokenizer, prompts=random_prompts(7), prompt_names=list("abcdefg"),
        sampling=SamplingParams(max_tokens=12, stop_token_ids=(1,)), policy=policy, reference=policy,
        value_model=NoValues(), score=score, seed=3,
        microbatch_tokens=1_000, device=torch.device("cpu"), dtype=torch.float32, num_samples=2,
    )  # fmt: skip


def sampled(rank: int, out: Path) -> None:
    """Answers of a run's second update, two to each of five prompts, by the names of the prompts."""
    distributed.init("cpu")
    source = toy_source(lambda prompts, answers: torch.zeros(len(answers)))
    rollouts = source.sample(1, 5)
    answers = [rollouts.completion(row) for row in range(len(rollouts.scores_B))]
    torch.save(list(zip(source.names(1, 5), answers, strict=True)), out / f"{rank}.pt")
    distributed.shutdown()


def test_an_episode_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    """Episode g of an update is that of (seed, update, g), whoever samples it and beside which others."""
    assert two_ranks(partial(sampled, out=tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first) == 6 and len(second) == 4
    sampled(0, tmp_path)
    alone = torch.load(tmp_path / "0.pt")
    assert sorted(first + second) == sorted(alone)
    assert [pair for start in range(0, 10, 4) for pair in alone[start : start + 2]] == first


def resampled(rank: int, out: Path) -> None:
    """The groups that a second update of five learns from, where answers to some prompts all score the same."""
    distributed.init("cpu")
    source = toy_source(
        lambda prompts, answers: torch.tensor([
            float(sum(answer)) if sum(prompt) % 3 == 0 else 0.0
            for prompt, answer in zip(prompts, answers, strict=True)
        ])
    )  # fmt: skip
    found = sample_groups(
        lambda attempt, rows: source.sample(1, 5, attempt=attempt, rows=rows), lambda rollouts: rollouts.scores_B,
        group_size=2, num_groups=len(distributed.local_rows(5)), max_resampling=4, pad_id=0,
    )  # fmt: skip
    kept = [(found.kept.prompt(row), found.kept.completion(row)) for row in range(len(found.kept.scores_B))]
    torch.save({"kept": kept, "counts": found.counts}, out / f"{rank}.pt")
    distributed.shutdown()


def test_groups_of_equal_scores_are_replaced_by_the_same_groups_on_any_number_of_processes(tmp_path: Path) -> None:
    assert two_ranks(partial(resampled, out=tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    resampled(0, tmp_path)
    alone = torch.load(tmp_path / "0.pt")
    assert alone["counts"]["rollout/resampled_groups"] >= 3 and first["counts"] == second["counts"] == alone["counts"]
    groups = {
        rank: [part["kept"][start : start + 2] for start in range(0, len(part["kept"]), 2)]
        for rank, part in enumerate((first, second, alone))
    }
    assert groups[0] == groups[2][0::2] and groups[1] == groups[2][1::2]
