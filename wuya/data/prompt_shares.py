"""Which prompts a round of the loop ranks and which PPO trains on: no prompt does both, however many rounds come."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wuya.data.formats import read_prompts, write_prompts
from wuya.data.messages import prompt_key
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.records import Prompt


@dataclass(frozen=True, slots=True)
class Share:
    """The prompts of one round."""

    ranked: tuple[Prompt, ...]
    """Answered for people to rank."""
    trained: tuple[Prompt, ...]
    """PPO's."""


def next_share(prompts: Sequence[Prompt], earlier: Sequence[Share], *, rounds_left: int, per_round: int) -> Share:
    """The next round's prompts: new ones to rank, and for PPO all that this and the rounds to come don't rank.

    Args:
        prompts: of the whole file, in its order; a prompt that is there twice counts once.
        earlier: the shares of the rounds before, oldest first.
        rounds_left: this round and those after it.
        per_round: prompts to rank in a round.

    Raises: DataError where too few prompts are left that PPO has not trained on and nobody has ranked.
    """
    used = {prompt_key(prompt) for share in earlier for prompt in (*share.ranked, *share.trained)}
    by_key = {prompt_key(prompt): prompt for prompt in prompts}
    fresh = [prompt for key, prompt in by_key.items() if key not in used]
    needed = rounds_left * per_round
    trained = (*(earlier[-1].trained if earlier else ()), *fresh[needed:])
    if len(fresh) < needed or not trained:
        raise DataError(
            f"too few prompts for {rounds_left} more rounds of {per_round} and PPO",
            found=f"{len(fresh)} that no round has ranked or trained on",
            hint="append new prompts to the file, or lower `--rounds` or `--prompts_per_round`",
        )
    return Share(tuple(fresh[:per_round]), trained)


RANKED, TRAINED = "prompts.jsonl", "ppo_prompts.jsonl"


def write_share(folder: Path, number: int, prompts: Path, *, rounds_left: int, per_round: int) -> None:
    """Write a round's two files of prompts, once: later the file, or the number of rounds, may have grown.

    Args:
        folder: of the round; those of the rounds before are beside it, round_01 to round_<number - 1>.
    """
    if (folder / RANKED).exists() and (folder / TRAINED).exists():
        return
    before = [folder.with_name(f"round_{earlier:02d}") for earlier in range(1, number)]
    earlier = [Share(tuple(read_prompts(one / RANKED)), tuple(read_prompts(one / TRAINED))) for one in before]
    every = list(read_prompts(prompts, BadRows()))
    share = next_share(every, earlier, rounds_left=rounds_left, per_round=per_round)
    write_prompts(folder / TRAINED, share.trained)
    write_prompts(folder / RANKED, share.ranked)
