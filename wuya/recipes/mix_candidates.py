"""Which answers people shall rank: a mix of policies, temperatures and human references, the doubtful prompts first.

    wuya mix --sources '{runs/a/completions.jsonl: 2, runs/b/completions.jsonl: 1}' --references demos.jsonl --out mix
    wuya mix --sources '{runs/a/completions.jsonl: 4}' --reward rm_1,rm_2 --model runs/sft --keep 500 --out mix

Reads answers of several `wuya sample` runs (one for each checkpoint and temperature; InstructGPT's labelers saw answers
of several models side by side, section 3.4) and demonstrations for the human reference; writes
<out>/{completions.jsonl, summary.json} in the form of `wuya sample`, for `wuya label --candidates`, and queues them
where `--database` says so. The same answer twice is one answer; a prompt left with fewer than two is counted.

With `--reward rm` prompts come first whose answers the reward model finds most alike, and `--keep` takes the first:
active collection. Pairs chosen so need half of random's votes in docs/experiments.md; those on which an ensemble
disagrees (`--doubt disagreement --reward a,b,c`; Christiano et al. 2017, section 2.2.4) are worse than random ones.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, pstdev
from typing import Literal

from wuya.console import say, warn
from wuya.data.formats import read_demonstrations
from wuya.data.messages import prompt_key
from wuya.data.prompt_ids import PromptIds
from wuya.errors import ConfigError, DataError
from wuya.feedback.bulk import HUMAN
from wuya.feedback.importers import read_answers
from wuya.feedback.rows import candidate_to_row, prompt_to_row
from wuya.feedback.store import FeedbackStore
from wuya.files import BadRows, make_folder, to_json, write_atomic
from wuya.records import Candidate, Prompt

Answers = tuple[Prompt, tuple[Candidate, ...]]
SLICES = 10
"""Steps of priority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """Put answers of several models, temperatures and people side by side for ranking."""

    sources: dict[str, int]
    """File of `wuya sample` -> how many of its answers each prompt gets."""
    out: Path
    """Folder to write."""
    references: Path | None = None
    """Demonstrations (JSONL) of the same prompts: one human answer is added where there is one."""
    reward: str = ""
    """A reward model, or several with commas between (their mean): doubtful prompts come first."""
    doubt: Literal["margin", "disagreement"] = "margin"
    """margin: answers that score alike. disagreement: pairs that the members of `reward` order differently."""
    model: Path | None = None
    """The checkpoint whose tokenizer encodes what `reward` scores. Needed with `reward`."""
    keep: int = 0
    """Only the first so many prompts; 0 keeps all."""
    database: str = ""
    """Feedback store to queue the answers in: a path or a database URL. Empty: write files only."""
    project: str = "default"
    """Labeling project whose queue gets them; doubtful prompts with a higher priority."""
    round: int = 0
    """Round of the loop, kept with every task."""
    overlap: int | None = None
    """People who rank each prompt; the project's number when not given."""
    seed: int = 0
    """Of the draw of answers and of their order."""
    device: str = "auto"
    """Where `reward` scores: auto, cpu, cuda."""

    def __post_init__(self) -> None:
        if not self.sources or any(count < 1 for count in self.sources.values()):
            raise ConfigError("`sources` needs files, each with a count of at least 1", found=str(self.sources))
        if self.reward and self.model is None:
            raise ConfigError("`reward` needs the model whose tokenizer it reads", hint="`--model runs/sft`")
        if self.reward and self.doubt == "disagreement" and "," not in self.reward:
            raise ConfigError("disagreement needs two reward models or more", hint="`--reward runs/rm_1,runs/rm_2`")


def run(config: MixConfig) -> Path:
    """Returns the path of completions.jsonl."""
    # 1. One mix a prompt, of what the sources hold for it
    mixed, dropped = mix(config)
    # 2. The doubtful ones first
    doubts = [0.0] * len(mixed)
    if config.reward:
        mixed, doubts = with_doubts(mixed, config)
        order = sorted(range(len(mixed)), key=lambda i: -doubts[i])
        mixed, doubts = [mixed[i] for i in order], [doubts[i] for i in order]
    if config.keep:
        mixed, doubts = mixed[: config.keep], doubts[: config.keep]
    # 3. A file as `wuya sample` writes it, and the queue
    rows = [prompt_to_row(p) | {"candidates": [candidate_to_row(c) for c in group]} for p, group in mixed]
    path = make_folder(config.out) / "completions.jsonl"
    write_atomic(path, "".join(to_json(row) + "\n" for row in rows))
    models = Counter(candidate.model or "unknown" for _, group in mixed for candidate in group)
    summary = {
        "prompts": len(mixed),
        "prompts_with_fewer_than_two_answers": dropped,
        "answers_by_model": dict(models),
        "mean_answers": mean(len(group) for _, group in mixed),
        "doubt_first": doubts[0],
        "doubt_last": doubts[-1],
    }
    write_atomic(config.out / "summary.json", to_json(summary, indent=1) + "\n")
    say(f"{len(mixed):,} prompts with {summary['mean_answers']:.1f} answers each: {dict(models)}")
    if config.database:
        queue(config, mixed)
    return path


def mix(config: MixConfig) -> tuple[list[Answers], int]:
    """(prompts with their answers, how many prompts were left with fewer than two)."""
    bad = BadRows()
    prompts: dict[str, Prompt] = {}
    sources: list[tuple[dict[str, tuple[Candidate, ...]], int]] = []
    for path, count in config.sources.items():
        given: dict[str, tuple[Candidate, ...]] = {}
        for prompt, candidates in read_answers(path, bad):
            key = prompt_key(prompt)
            prompts.setdefault(key, prompt)
            given[key] = (*given.get(key, ()), *candidates)
        sources.append((given, count))
    written = read_demonstrations(config.references, bad) if config.references else ()
    human = {prompt_key(row.prompt): row.completion for row in written if not row.answer.tool_calls}
    if bad.count:
        say(bad.summary())
    mixed: list[Answers] = []
    ids = PromptIds()
    for key, prompt in prompts.items():
        rng = random.Random(f"{config.seed} {prompt.id}")
        found = draw([(given.get(key, ()), count) for given, count in sources], human.get(key), rng)
        if len(found) >= 2:
            mixed.append((ids.settled(prompt), tuple(found)))
    if not mixed:
        raise DataError("no prompt has two different answers", found=f"{len(prompts)} prompts with fewer")
    return mixed, len(prompts) - len(mixed)


def draw(sources: Sequence[tuple[Sequence[Candidate], int]], human: str | None, rng: random.Random) -> list[Candidate]:
    """So many answers of each source and the human one, each text once, in a shuffled order."""
    taken: dict[str, Candidate] = {human.strip(): Candidate(human, model=HUMAN)} if human else {}
    for candidates, count in sources:
        wanted = len(taken) + count
        for candidate in rng.sample(list(candidates), len(candidates)):
            if len(taken) < wanted and candidate.text.strip():
                taken.setdefault(candidate.text.strip(), candidate)
    mixed = list(taken.values())
    rng.shuffle(mixed)
    return mixed


def with_doubts(mixed: Sequence[Answers], config: MixConfig) -> tuple[list[Answers], list[float]]:
    """Prompts with how unsure the reward models are of their pairs, 0 to .5; those that can't be scored are named."""
    from wuya.checkpoints.checkpoint import load_checkpoint
    from wuya.rlhf.ranked_prompts import completion_ids
    from wuya.rlhf.rewards import load_reward, max_length_of  # torch is needed only here
    from wuya.tokenizer.chat_format import encode_prompt
    from wuya.training.distributed import resolve_device

    assert config.model is not None
    _, tokenizer = load_checkpoint(config.model)
    device = resolve_device(config.device)
    members = [load_reward(name.strip(), tokenizer, device=device) for name in config.reward.split(",")]
    limit = min((length for length in map(max_length_of, members) if length is not None), default=1 << 62)
    bad, kept = BadRows(), []
    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    for number, (prompt, group) in enumerate(mixed, start=1):
        try:
            ids = encode_prompt(tokenizer, prompt)
            mine = [completion_ids(candidate, tokenizer, prompt) for candidate in group]
        except DataError as reason:
            bad.add(f"prompt {prompt.id}", number, reason.brief)
            continue
        if len(ids) + max(map(len, mine)) > limit:
            bad.add(f"prompt {prompt.id}", number, f"longer than the {limit:,} tokens that a reward model reads")
            continue
        kept.append((prompt, group))
        prompts += [ids] * len(mine)
        answers += mine
    if bad.count:
        warn(bad.summary())
    if not kept:
        raise DataError("no prompt can be scored", found=bad.summary(), hint="mix without `--reward`")
    scores = [member(prompts, answers).tolist() for member in members]
    doubt = closeness if config.doubt == "margin" else disagreement
    doubts, start = [], 0
    for _, group in kept:
        doubts.append(doubt([one[start : start + len(group)] for one in scores]))
        start += len(group)
    return kept, doubts


def closeness(scores: Sequence[Sequence[float]]) -> float:
    """Mean over pairs of answers of the chance that the worse one wins, by the members' mean score. A row a member."""
    means = [mean(column) for column in zip(*scores, strict=True)]
    return mean(1 / (1 + math.exp(min(abs(a - b), 700.0))) for a, b in combinations(means, 2))


def disagreement(scores: Sequence[Sequence[float]]) -> float:
    """Mean over pairs of answers of the spread of the members' probabilities. One row of scores a member."""
    pairs = combinations(range(len(scores[0])), 2)
    return mean(pstdev(1 / (1 + math.exp(-(one[a] - one[b]))) for one in scores) for a, b in pairs)


def queue(config: MixConfig, mixed: Sequence[Answers]) -> None:
    """Into the database; with a reward, the first tenth gets the highest priority, and so on."""
    size = max(1, -(-len(mixed) // SLICES)) if config.reward else len(mixed)
    count = 0
    with FeedbackStore(config.database) as store:
        for number, start in enumerate(range(0, len(mixed), size)):
            count += store.queue_tasks(
                mixed[start : start + size],
                project=config.project,
                round=config.round,
                overlap=config.overlap,
                priority=SLICES - number if config.reward else 0,
            )
    say(f"queued {count:,} prompts in `{config.database}`")
