"""Prompts as token ids that leave room for an answer; what is left out is counted and named."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from wuya.console import warn
from wuya.data.formats import read_prompts
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.rlhf.rewards import max_length_of
from wuya.rlhf.rollouts import Score
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_prompt, encode_prompt


def load_prompt_ids(
    path: Path,
    tokenizer: Tokenizer,
    *,
    max_prompt_tokens: int,
    max_tokens: int,
    context_length: int,
    read_by: Sequence[Score] = (),
) -> tuple[list[str], list[list[int]]]:
    """Id and token ids of every prompt that has at most `max_prompt_tokens` and leaves room for `max_tokens`.

    Args:
        context_length: of the policy.
        read_by: what scores the answers; a reward model's context may be shorter than the policy's.
    """
    limits = [limit for limit in map(max_length_of, read_by) if limit is not None]
    context_length = min(context_length, *limits) if limits else context_length
    bad, usable = BadRows(), partial(check_prompt, tokenizer)
    limit = min(max_prompt_tokens, context_length - max_tokens)
    encoded = [(prompt.id, encode_prompt(tokenizer, prompt)) for prompt in read_prompts(path, bad, usable)]
    prompts = [(name, ids) for name, ids in encoded if len(ids) <= limit]
    if bad.count:
        warn(bad.summary())
    if len(prompts) < len(encoded):
        warn(f"{len(encoded) - len(prompts)} of {len(encoded)} prompts are longer than {limit} tokens and left out")
    if not prompts:
        raise DataError(
            f"no prompt in `{path}` can be used",
            found=f"{len(encoded)} prompts, {limit} tokens are free for each",
            hint="raise `--max_prompt_tokens`, or lower `--max_tokens`",
        )
    return [name for name, _ in prompts], [ids for _, ids in prompts]
