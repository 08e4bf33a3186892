"""Dumped rollouts of a run: episodes token by token, with what PPO made of each (`wuya ppo --dump_rollouts true`).

One parquet file an update, one row a token (rlhf/rollout_files.py writes them). Read with pyarrow alone: no torch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wuya.web.errors import ApiError
from wuya.web.runs.folders import is_inside

FIGURES = ("kl", "logprob", "ref_logprob", "reward", "value", "advantage", "return")
_NAME = re.compile(r"update_(\d+)_rank_\d+\.parquet")


def updates(folder: Path) -> list[int]:
    """Updates whose episodes were kept, in their order."""
    found = (_NAME.fullmatch(path.name) for path in _files(folder, "update_*.parquet"))
    return sorted({int(match[1]) for match in found if match})


def episodes(folder: Path, update: int | None, *, sort: str, limit: int) -> dict[str, Any]:
    """The episodes of an update (None: the last), sorted, each with its tokens' figures."""
    known = updates(folder)
    if update is None and known:
        update = known[-1]
    if update is not None and update not in known:
        raise ApiError(404, "not_found", "no rollouts of this update were kept", param="update")
    found = [] if update is None else list(_read(folder, update))
    names = {"kl": "kl", "-kl": "kl", "score": "score", "-score": "score"}
    if sort in names:
        found.sort(key=lambda episode: float(episode[names[sort]]), reverse=sort.startswith("-"))
    return {"updates": known, "update": update, "items": found[:limit], "total": len(found)}


def _files(folder: Path, pattern: str) -> list[Path]:
    """Those that are the run's own: a link may lead anywhere."""
    return sorted(path for path in (folder / "rollouts").glob(pattern) if is_inside(path, folder))


def _read(folder: Path, update: int) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet  # a fifth of a second: only who looks at rollouts waits for it

    for path in _files(folder, f"update_{update:06d}_rank_*.parquet"):
        columns = parquet.read_table(path).to_pydict()
        count, start = len(columns["episode"]), 0
        for end in range(1, count + 1):
            if end < count and columns["episode"][end] == columns["episode"][start]:
                continue
            tokens = [
                {"text": columns["token"][at]}
                | {name: round(columns[name][at], 4) for name in FIGURES if name in columns}
                for at in range(start, end)
            ]
            yield {
                "prompt_id": columns["prompt_id"][start],
                "score": round(columns["score"][start], 4),
                "kl": round(sum(columns["kl"][start:end]), 4),
                "tokens": tokens,
            }
            start = end
