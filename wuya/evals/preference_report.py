"""Does a policy's implicit reward prefer what people prefer, on prompts it has not seen? report.json of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from wuya.console import say
from wuya.data.messages import prompt_key
from wuya.evals.calibration import PairVote, calibrate
from wuya.files import to_json, write_atomic
from wuya.rlhf.ranked_prompts import RankedPrompt
from wuya.training import distributed


def report_implicit_reward(
    out: Path,
    heldout: Mapping[Path, Sequence[RankedPrompt]],
    rewards: Callable[[Sequence[RankedPrompt]], list[tuple[RankedPrompt, Tensor]]],
    *,
    name: str,
    seed: int,
) -> None:
    """Write accuracy and calibration on each held-out file to <out>/report.json, and say them.

    Args:
        rewards: each prompt with the rewards of its answers, [K]; a difference of two is the log-odds of preferring
            the first (Bradley-Terry).
        name: what the reward is, for the line that is printed.
    """
    reports: dict[str, Any] = {}
    for path, prompts in heldout.items():
        votes = [
            PairVote(prompt_key(prompt.prompt), float(reward_K[a]), float(reward_K[b]))
            for prompt, reward_K in rewards(prompts)
            for vote in prompt.votes
            for a, b in vote.pairs
        ]
        judged = calibrate(votes, seed=seed)
        reports[str(path)] = {"num_prompts": len(prompts), "num_votes": len(votes), **judged.to_dict()}
        say(f"{path.stem}: {name} prefers what people prefer in {judged.accuracy} of {len(votes):,} votes")
    with distributed.only_main("write report.json") as main:
        if main and reports:
            write_atomic(out / "report.json", to_json(reports, indent=2) + "\n")
