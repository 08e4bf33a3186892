"""Episodes on disk: one parquet row a completion token, with every number PPO derived from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from wuya.files import make_folder, write_errors
from wuya.rlhf.rollouts import Rollouts
from wuya.training import distributed


@dataclass(frozen=True, slots=True)
class Episode:
    """One dumped completion."""

    update: int
    prompt_id: str
    token_ids: tuple[int, ...]
    score: float
    kl: float
    """Sum over the tokens of logprob - ref_logprob, nats."""


def read_episodes(path: Path) -> Iterator[Episode]:
    """The episodes of one file that `dump_rollouts` wrote, in their order."""
    columns = pq.read_table(path).to_pydict()
    start = 0
    count = len(columns["episode"])
    for end in range(1, count + 1):
        if end == count or columns["episode"][end] != columns["episode"][start]:
            yield Episode(
                update=columns["update"][start],
                prompt_id=columns["prompt_id"][start],
                token_ids=tuple(columns["token_id"][start:end]),
                score=columns["score"][start],
                kl=sum(columns["kl"][start:end]),
            )
            start = end


def dump_rollouts(
    folder: Path,
    rollouts: Rollouts,
    *,
    rewards_BT: Tensor,
    advantages_BT: Tensor,
    returns_BT: Tensor,
    decode: Callable[[Sequence[int]], str],
    update: int,
    prompt_names: Sequence[str] | None = None,
) -> None:
    """Write one row per completion token to a parquet file: what was sampled and every number PPO derives from it.

    Args:
        folder: `update_000001_rank_0.parquet` is written there.
        rewards_BT: per token, KL penalty and score, as GAE received them.
        advantages_BT: as the policy loss receives them (whitened).
        returns_BT: targets of the value model.
        decode: token ids to text, called with one id at a time.
        prompt_names: the prompts' ids in the data, one an episode.
    """
    path = folder / f"update_{update:06d}_rank_{distributed.rank()}.parquet"
    rows_N, positions_N = (rollouts.mask_BT > 0).nonzero(as_tuple=True)
    tokens_N = rollouts.ids_BT[rows_N, positions_N + 1]
    columns: dict[str, object] = {
        "update": [update] * len(rows_N),
        "prompt_id": [prompt_names[row] if prompt_names else "" for row in rows_N.tolist()],
        "episode": rows_N.tolist(),
        "position": (positions_N + 1 - rollouts.prompt_lengths_B[rows_N]).tolist(),
        "token_id": tokens_N.tolist(),
        "token": [decode([token]) for token in tokens_N.tolist()],
    }
    for name, values_BT in {
        "logprob": rollouts.old_logprobs_BT,
        "ref_logprob": rollouts.ref_logprobs_BT,
        "kl": rollouts.old_logprobs_BT - rollouts.ref_logprobs_BT,
        "value": rollouts.old_values_BT,
        "advantage": advantages_BT,
        "return": returns_BT,
        "reward": rewards_BT,
    }.items():
        columns[name] = values_BT[rows_N, positions_N].tolist()
    columns["score"] = rollouts.scores_B[rows_N].tolist()
    make_folder(path.parent)
    with write_errors(path):
        pq.write_table(pa.table(columns), path)
