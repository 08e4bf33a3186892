"""One process or two: the same minibatches, the same sums, the same weights."""

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import torch

from tests.training.ppo_toys import TablePolicy, TableValues, bandit_rollouts
from wuya.training import distributed
from wuya.training.ppo_learner import PPOLearner, PPOSettings

SETTINGS = PPOSettings(
    num_updates=3, rollout_batch_size=32, minibatch_size=8, learning_rate=0.1, value_learning_rate=0.1,
    warmup_updates=0, value_warmup_updates=1, ema_decay=0.5,
)  # fmt: skip


def learn() -> dict[str, Any]:
    """A bandit of which every rank holds its own episodes."""
    policy, reference, values = TablePolicy(torch.zeros(10)), TablePolicy(torch.zeros(10)), TableValues()
    learner = PPOLearner(policy, values, SETTINGS)
    metrics: dict[str, float] = {}
    for update in range(SETTINGS.total_updates):
        whole = bandit_rollouts(policy, reference, values, torch.arange(10) / 10, episodes=32, seed=update)
        mine = torch.tensor(list(distributed.local_rows(32)))
        part = dataclasses.replace(whole, **{f.name: getattr(whole, f.name)[mine] for f in dataclasses.fields(whole)})
        metrics = learner.learn(learner.batch(part)[0], update=update)
    return {"policy": policy.table_V.detach(), "value": values.value_1.detach(), "metrics": metrics}


def in_group(rank: int, port: int, out: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init("cpu")
    torch.save(learn(), out / f"{rank}.pt")
    distributed.shutdown()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                in_group(rank, port, tmp_path)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    alone = learn()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=1e-5, atol=1e-6)
