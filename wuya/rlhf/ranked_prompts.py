"""Rankings as batch elements: one per prompt, each answer encoded once, every vote on it kept.

Shapes: K answers of one prompt, P votes in a batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wuya.console import warn
from wuya.data.batches import length_sorted_microbatches
from wuya.data.formats import read_rankings
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.records import Candidate, Prompt, Ranking
from wuya.rlhf.answer_rows import AnswerRows, answer_rows
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_ranking, encode_answer, encode_prompt


@dataclass(frozen=True, slots=True)
class Vote:
    """One labeler's ranks of some of a prompt's answers."""

    rows: tuple[int, ...]
    """Which answers of the prompt."""
    ranks: tuple[int, ...]
    """Dense, 1 is best, equal = tie; one a row."""
    labeler: str
    weight: float = 1.0
    """How much it counts beside other votes."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) answers; ties left out."""
        ranked = list(zip(self.rows, self.ranks, strict=True))
        return [(a, b) for a, rank_a in ranked for b, rank_b in ranked if rank_a < rank_b]


@dataclass(slots=True)
class RankedPrompt:
    """One batch element of the reward model: a prompt with its answers and the votes on them."""

    prompt: Prompt
    candidates: list[Candidate] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)
    """Prompt and answer of each candidate as token ids, the end token included if there was one."""
    votes: list[Vote] = field(default_factory=list)
    prompt_length: int = 0
    """Tokens of the prompt, which all sequences start with."""
    ref_logprobs_K: Tensor | None = None
    """nats, of each answer under the reference policy, for methods that have one."""

    @property
    def length(self) -> int:
        """Tokens of the prompt once and all answers."""
        return self.prompt_length + sum(len(sequence) - self.prompt_length for sequence in self.sequences)


def completion_ids(candidate: Candidate, tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The answer's ids as they were sampled, if they are this tokenizer's; else its text in the chat template."""
    if candidate.is_text and candidate.token_ids and max(candidate.token_ids) < tokenizer.vocab_size:
        ids = list(candidate.token_ids)
        if tokenizer.decode(ids, skip_special=True).strip() == candidate.text.strip():
            return ids
    return encode_answer(tokenizer, prompt, candidate.message, finished=candidate.finished)


def load_ranked_prompts(
    path: Path, tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[RankedPrompt], list[Ranking]]:
    """Batch elements from a JSONL file, and the rankings as read; what cannot be used is counted and named."""
    bad = BadRows()
    rankings = list(read_rankings(path, bad, partial(check_ranking, tokenizer)))
    prompts, dropped = ranked_prompts(rankings, tokenizer, max_length=max_length)
    if bad.count:
        warn(bad.summary())
    if dropped:
        warn(f"`{path}`: {dropped} of {len(rankings)} rankings left out: all ties, or longer than {max_length} tokens")
    if not prompts:
        raise DataError(
            f"`{path}` has no ranking to learn from",
            found=f"{len(rankings)} rankings",
            hint="rank some answers first, which freezes them into a file: `wuya label --candidates completions.jsonl`",
        )
    return prompts, rankings


def ranked_prompts(
    rankings: Iterable[Ranking], tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[RankedPrompt], int]:
    """Group rankings by prompt: all pairs of a prompt belong to one batch element, whoever voted and when.

    Args:
        max_length: tokens of prompt and answer; a ranking with a longer answer is left out.

    Returns: prompts that have at least one pair that is no tie, in order of appearance; and how many rankings were left
        out because they are too long or all ties.
    """
    by_prompt: dict[tuple[int, ...], RankedPrompt] = {}  # by what the model reads, whatever ids the rows have
    dropped = 0
    for ranking in rankings:
        prompt_ids = encode_prompt(tokenizer, ranking.prompt)
        answers = [completion_ids(candidate, tokenizer, ranking.prompt) for candidate in ranking.candidates]
        if len(set(ranking.ranks)) < 2 or len(prompt_ids) + max(map(len, answers)) > max_length:
            dropped += 1
            continue
        fresh = RankedPrompt(ranking.prompt, prompt_length=len(prompt_ids))
        element = by_prompt.setdefault(tuple(prompt_ids), fresh)
        rows = []
        for candidate, ids in zip(ranking.candidates, answers, strict=True):
            sequence = prompt_ids + ids
            if sequence not in element.sequences:
                element.sequences.append(sequence)
                element.candidates.append(candidate)
            rows.append(element.sequences.index(sequence))
        element.votes.append(Vote(tuple(rows), ranking.ranks, ranking.labeler, ranking.weight))
    return list(by_prompt.values()), dropped


def prompt_microbatches(prompts: Sequence[RankedPrompt], max_tokens: int) -> list[list[RankedPrompt]]:
    """Prompts of like length together, (prompts x longest) within `max_tokens`; a prompt is never cut in two."""
    groups = length_sorted_microbatches([prompt.length for prompt in prompts], max_tokens)
    return [[prompts[index] for index in group] for group in groups]


def ranked_rows(prompts: Sequence[RankedPrompt], max_length: int) -> AnswerRows:
    """The prompts' answers for one forward pass, each prompt read once; their order is that of `vote_tensors`' rows
    after `in_order`."""
    places = [(prompt.prompt_length, sequence) for prompt in prompts for sequence in prompt.sequences]
    [rows] = answer_rows(
        [sequence[:start] for start, sequence in places],
        [sequence[start:] for start, sequence in places],
        max_length=max_length,
    )
    return rows


def vote_tensors(prompts: Sequence[RankedPrompt]) -> tuple[Tensor, Tensor, Tensor]:
    """Where each vote finds its scores, for `ranking_loss`.

    Returns: rows_PK, indices into the prompts' sequences laid end to end; ranks_PK, 0 where a vote has fewer answers;
        and weights_P, so that the votes on one prompt weigh 1 together (less, if all there is weighs less than 1).
    """
    votes: list[tuple[list[int], tuple[int, ...], float]] = []
    offset = 0
    for prompt in prompts:
        total = max(1.0, sum(vote.weight for vote in prompt.votes))
        votes += [([offset + row for row in vote.rows], vote.ranks, vote.weight / total) for vote in prompt.votes]
        offset += len(prompt.sequences)
    width = max(len(rows) for rows, _, _ in votes)
    rows_PK = torch.zeros(len(votes), width, dtype=torch.int64)
    ranks_PK = torch.zeros(len(votes), width, dtype=torch.int64)
    for number, (rows, ranks, _) in enumerate(votes):
        rows_PK[number, : len(rows)] = torch.tensor(rows)
        ranks_PK[number, : len(rows)] = torch.tensor(ranks)
    return rows_PK, ranks_PK, torch.tensor([weight for _, _, weight in votes])


def pair_rows(prompts: Sequence[RankedPrompt]) -> tuple[list[int], list[int]]:
    """Better and worse answer of every pair of every vote: indices into the prompts' sequences laid end to end."""
    better, worse, offset = [], [], 0
    for prompt in prompts:
        for first, second in (pair for vote in prompt.votes for pair in vote.pairs):
            better.append(offset + first)
            worse.append(offset + second)
        offset += len(prompt.sequences)
    return better, worse
