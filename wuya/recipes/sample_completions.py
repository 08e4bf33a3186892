"""InstructGPT step 2a: sample K completions of every prompt, for people to rank (arXiv:2203.02155, section 3.2).

    wuya sample runs/sft --prompts prompts.jsonl --out runs/samples --k 4 --database workspace/wuya.db

Reads a chat model and prompts (any format of `wuya.data.formats`; answers in it are left out); writes
<out>/{config.yaml, completions.jsonl, summary.json} and, with `--database`, queues each prompt with its K completions
in the feedback store. A row of completions.jsonl is {id, prompt, candidates: [{text, token_ids, model, ...}]}.
The ids are kept as sampled, end token included: text may encode to other ids, and training must see what was sampled.
Differs from the paper: one checkpoint a call (queue several calls to mix models, as the paper's labelers saw).
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from wuya.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from wuya.config import load_config, require_positive, save_config, to_dict
from wuya.console import Progress, say, warn
from wuya.data.formats import read_prompts
from wuya.data.messages import prompt_key
from wuya.errors import ConfigError, DataError, Interrupted
from wuya.feedback.rows import candidate_to_row, prompt_from_row, prompt_to_row
from wuya.feedback.store import FeedbackStore
from wuya.files import BadRows, FileLock, append_jsonl, make_folder, read_jsonl, sha256_json, to_json, write_atomic
from wuya.inference.engine import Engine, Generation
from wuya.inference.sampling import SamplingParams
from wuya.records import Candidate, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import fit_prompt
from wuya.tokenizer.chat_notes import tell_chat_format
from wuya.training.distributed import resolve_device, resolve_dtype
from wuya.training.inputs import inputs_of, require_same_inputs, write_inputs

COMPLETIONS = "completions.jsonl"
UNFINISHED = "completions.unfinished.jsonl"
CHUNK = 128
"""Prompts sampled and saved together; a resumed run starts at a multiple of it, so it draws the same."""
ANY_RUN: tuple[str, ...] = (
    "resume",
    "device",
    "dtype",
    "batch_size",
    "json",
    "database",
    "project",
    "overlap",
    "round",
)
"""Fields that may change when a run goes on: they do not change what is sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """Sample K completions of every prompt and queue them for ranking."""

    POSITIONAL: ClassVar[str] = "checkpoint"

    checkpoint: Path
    """The model that answers: SFT model or policy (run folder, Hugging Face folder, GGUF file)."""
    prompts: Path
    """JSONL (or parquet) of prompts, in any of wuya's formats."""
    out: Path
    """Folder to write."""
    k: int = 4
    """Completions per prompt. Paper: 4 to 9."""
    ranking: bool = True
    """The completions will be ranked, so K must be at least 2; `--no_ranking` allows one, to look at a model."""
    max_prompts: int | None = None
    """Only the first so many prompts."""
    max_tokens: int = 256
    """Most tokens of a completion, its end token included."""
    temperature: float = 1.0
    """Logits are divided by it; 0 gives K times the same."""
    top_k: int = 0
    """Keep only so many of the likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that hold this share of probability; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the likeliest; 0 keeps all."""
    database: str = ""
    """Feedback store to queue the completions in: a path or a database URL. Empty: write files only."""
    project: str = "default"
    """Labeling project whose queue gets them."""
    overlap: int | None = None
    """People who rank each prompt; the project's number when not given."""
    round: int = 0
    """Round of the loop, kept with every task."""
    batch_size: int = 256
    """Completions decoded at once; the text does not depend on it."""
    resume: bool = False
    """Skip the prompts that are done; the completions are those of a run that never stopped."""
    seed: int = 0
    """Of the samples; with the prompt's place in the file it decides each completion."""
    device: str = "auto"
    """auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; auto is bfloat16 where the hardware has it."""
    json: bool = False
    """Print summary.json to stdout."""

    def __post_init__(self) -> None:
        require_positive(self, "k", "max_prompts", "batch_size", "overlap")
        if self.k < 2 and (self.ranking or self.database):
            raise ConfigError(
                "`k` must be at least 2: a single completion can't be ranked",
                found=str(self.k),
                hint="use `--k 4`, or `--no_ranking` (and no `--database`) to look at single answers",
            )
        if self.k > 1 and self.temperature == 0:
            raise ConfigError(f"at temperature 0 all {self.k} completions are the same", hint="use `--temperature 1`")
        _ = self.sampling  # its own checks

    @property
    def sampling(self) -> SamplingParams:
        """How each completion is drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k,
                              top_p=self.top_p, min_p=self.min_p)  # fmt: skip


def run(config: SampleConfig) -> Path:
    """Returns the path of completions.jsonl."""
    make_folder(config.out)
    with FileLock(config.out / ".lock"):
        if config.database:
            FeedbackStore(config.database).close()  # it can be opened: known before an hour of sampling, not after
        # 1. Prompts, as many as are new
        prompts = load_prompts(config)
        done = _prepare_folder(config, prompts)
        # 2. The model, then K completions of each, in chunks that are saved as they come
        seconds = 0.0
        if done < len(prompts):
            seconds = _sample(config, prompts, done)
        if not (config.out / COMPLETIONS).exists():
            _finish(config)
        # 3. Into the queue: all or nothing, and twice is once
        rows = list(read_completions(config.out / COMPLETIONS))
        if config.database:
            with FeedbackStore(config.database) as store:
                queued = store.queue_tasks(rows, project=config.project, round=config.round, overlap=config.overlap)
            say(f"queued {queued:,} prompts with {config.k} completions each in `{config.database}`")
        # 4. What came out
        summary = summarize(rows, load_tokenizer_of(config)) | {"seconds": round(seconds, 3)}
    write_atomic(config.out / "summary.json", to_json(summary, indent=2) + "\n")
    say(
        f"{summary['completions']:,} completions, {summary['finished_share']:.1%} finished, "
        f"{summary['mean_tokens']:.1f} tokens on average; {summary['reencodes_differently']:.1%} would be encoded to "
        "other ids than were sampled (the sampled ids are kept)"
    )
    sys.stdout.write((to_json(summary) if config.json else str(config.out / COMPLETIONS)) + "\n")
    return config.out / COMPLETIONS


def load_prompts(config: SampleConfig) -> list[Prompt]:
    """The file's prompts in order; a row that is there twice, id and all, counts once; bad rows are named."""
    bad = BadRows()
    by_id: dict[str, Prompt] = {}  # equal ids are equal prompts: a reader gives others an id of their own
    repeated = 0
    for prompt in islice(read_prompts(config.prompts, bad), config.max_prompts):
        repeated += prompt.id in by_id
        by_id.setdefault(prompt.id, prompt)
    if bad.count:
        warn(bad.summary())
    if repeated:
        warn(f"{repeated:,} prompts are in `{config.prompts}` more than once; each is answered once")
    if not by_id:
        raise DataError(f"`{config.prompts}` holds no prompt", found=bad.summary() or "an empty file")
    return list(by_id.values())


def read_completions(path: Path) -> Iterator[tuple[Prompt, tuple[Candidate, ...]]]:
    """The rows of a completions.jsonl that this recipe wrote."""
    for _, row in read_jsonl(path):
        yield (
            prompt_from_row(row),
            tuple(
                Candidate(**{**candidate, "token_ids": tuple(candidate["token_ids"])})
                for candidate in row["candidates"]
            ),
        )


def summarize(rows: Sequence[tuple[Prompt, tuple[Candidate, ...]]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Counts and shares over all completions."""
    candidates = [candidate for _, group in rows for candidate in group]
    total = max(1, len(candidates))
    return {
        "prompts": len(rows),
        "completions": len(candidates),
        "finished_share": sum(c.finished for c in candidates) / total,
        "mean_tokens": sum(len(c.token_ids) for c in candidates) / total,
        "reencodes_differently": sum(reencodes_differently(c, tokenizer) for c in candidates) / total,
        "distinct_share": len({c.text for c in candidates}) / total,
    }


def reencodes_differently(candidate: Candidate, tokenizer: Tokenizer) -> bool:
    """Whether the text, encoded, is not the ids that were sampled (specials left out)."""
    specials = set(tokenizer.special_ids.values())
    return tokenizer.encode(candidate.text) != [id for id in candidate.token_ids if id not in specials]


def load_tokenizer_of(config: SampleConfig) -> Tokenizer:
    """The checkpoint's tokenizer."""
    folder = resolve_checkpoint(config.checkpoint)
    return Tokenizer.load(folder) if folder.is_dir() else load_checkpoint(folder)[1]


# -- helpers -----------------------------------------------------------------------------------------------------------


def _prepare_folder(config: SampleConfig, prompts: Sequence[Prompt]) -> int:
    """Write config.yaml, or check that this is the run to go on with; returns how many prompts are done."""
    started, finished = config.out / UNFINISHED, config.out / COMPLETIONS
    inputs = inputs_of(config)
    if not (started.exists() or finished.exists()):
        save_config(config, config.out / "config.yaml")
        write_inputs(config.out, inputs)
        return 0
    if not config.resume:
        raise ConfigError(
            f"`{config.out}` already holds completions",
            found=", ".join(path.name for path in (started, finished) if path.exists()),
            hint="go on with `--resume`, or write to another folder with `--out`",
        )
    before, now = to_dict(load_config(SampleConfig, config.out / "config.yaml")), to_dict(config)
    if changed := [name for name in now if name not in ANY_RUN and before[name] != now[name]]:
        name = changed[0]
        raise ConfigError(
            f"`{config.out}` was started with another `{name}`",
            found=f"{before[name]}, now {now[name]}",
            hint=f"use `--{name} {before[name]}`, or another `--out`",
        )
    require_same_inputs(config.out, inputs, start_anew="another `--out`")
    if finished.exists():
        return len(prompts)
    rows = [row for _, row in read_jsonl(started, BadRows())]  # a row cut by a power failure is dropped
    rows = rows[: len(rows) // CHUNK * CHUNK]
    if [prompt_key(prompt_from_row(row)) for row in rows] != [prompt_key(p) for p in prompts[: len(rows)]]:
        raise ConfigError(
            f"`{config.prompts}` has changed since `{config.out}` was started", hint="use another `--out`"
        )
    write_atomic(started, "".join(to_json(row) + "\n" for row in rows))
    return len(rows)


def _sample(config: SampleConfig, prompts: Sequence[Prompt], done: int) -> float:
    """Append the completions of prompts[done:] to the unfinished file; returns the seconds it took."""
    device = resolve_device(config.device)
    model, tokenizer = load_checkpoint(config.checkpoint, device=device, dtype=resolve_dtype(config.dtype, device))
    tell_chat_format(tokenizer)
    engine = Engine(model, tokenizer, max_batch_size=config.batch_size)
    if config.max_tokens >= engine.max_length:
        raise ConfigError(
            "`max_tokens` leaves no room for a prompt",
            found=f"{config.max_tokens}, the context holds {engine.max_length}",
            hint=f"try `--max_tokens {max(1, engine.max_length // 2)}`",
        )
    too_long = BadRows()
    began = time.perf_counter()
    with Progress(len(prompts) * config.k, "sample", unit="answer", start=done * config.k) as progress:
        for start in range(done, len(prompts), CHUNK):
            chunk = prompts[start : start + CHUNK]
            engine.generator.manual_seed(int(sha256_json(["sample", config.seed, start])[:15], 16))
            try:
                groups = _sample_chunk(engine, tokenizer, chunk, config, progress, too_long)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped after {start:,} of {len(prompts):,} prompts, which are saved",
                    hint=f"go on: `wuya sample --config {config.out / 'config.yaml'} --resume`",
                ) from None
            for prompt, group in zip(chunk, groups, strict=True):
                row = prompt_to_row(prompt) | {"candidates": [candidate_to_row(candidate) for candidate in group]}
                append_jsonl(config.out / UNFINISHED, row)
    if too_long.count:
        warn(too_long.summary())
    return time.perf_counter() - began


def _sample_chunk(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    config: SampleConfig,
    progress: Progress,
    too_long: BadRows,
) -> list[list[Candidate]]:
    """K candidates a prompt; none for a prompt whose last message alone is too long, which is counted and named."""
    prompt_ids: list[list[int]] = []
    for prompt in prompts:
        try:
            room = engine.max_length - config.max_tokens
            prompt_ids.append(fit_prompt(tokenizer, prompt, max_tokens=room))
        except DataError as error:
            too_long.add(f"{config.prompts}: prompt {prompt.id}", 0, f"{error.what} (found: {error.found})")
            prompt_ids.append([])
    reported = 0

    def show(_tokens: int, finished: int) -> None:
        nonlocal reported
        progress.update(finished - reported)
        reported = finished

    fitting = [ids for ids in prompt_ids if ids]
    answered = iter(engine.generate(fitting, config.sampling, num_samples=config.k, on_progress=show))
    name = str(resolve_checkpoint(config.checkpoint))
    return [
        [to_candidate(generation, tokenizer, name, config.temperature) for generation in next(answered)] if ids else []
        for ids in prompt_ids
    ]


def _finish(config: SampleConfig) -> None:
    """Give the file its final name, without the prompts that could not be answered."""
    rows = [row for _, row in read_jsonl(config.out / UNFINISHED) if row["candidates"]]
    if not rows:
        raise DataError(f"no prompt of `{config.prompts}` fits into the context", hint="see the warnings above")
    write_atomic(config.out / COMPLETIONS, "".join(to_json(row) + "\n" for row in rows))
    (config.out / UNFINISHED).unlink()


def to_candidate(generation: Generation, tokenizer: Tokenizer, model: str, temperature: float) -> Candidate:
    """A completion with where it came from."""
    return Candidate(
        tokenizer.decode(generation.token_ids, skip_special=True),
        token_ids=generation.token_ids,
        model=model,
        finished=generation.finish_reason == "stop",
        temperature=temperature,
    )
