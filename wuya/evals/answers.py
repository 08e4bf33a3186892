"""Each stage's answers to the same prompts: a chat model asked in its chat format, a base model in a transcript."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from wuya.data.chitchat import transcript, transcript_prompt
from wuya.data.messages import plain_messages
from wuya.files import write_atomic
from wuya.inference.engine import Engine, Generation
from wuya.inference.sampling import SamplingParams
from wuya.models.decoder import Decoder
from wuya.records import Candidate, Demonstration, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_answer, encode_prompt

OnProgress = Callable[[int, int], bool | None]


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers to the evaluation prompts, in the prompts' order."""

    name: str
    candidates: list[Candidate]
    prompt_ids: list[list[int]]
    """What the model was asked, in its own form."""
    is_transcript: bool = False
    """Asked as a transcript: the ids have no end token of a chat."""


def chat_answers(
    name: str, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, max_tokens: int, seed: int,
    temperature: float = 1.0, on_progress: OnProgress | None = None,
) -> Answers:  # fmt: skip
    """One answer per prompt in the chat format, at temperature 1 unless told otherwise."""
    [answers] = chat_samples(
        name, model, tokenizer, prompts, num_samples=1, max_tokens=max_tokens, seed=seed, temperature=temperature,
        on_progress=on_progress,
    )  # fmt: skip
    return answers


def chat_samples(
    name: str, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, num_samples: int, max_tokens: int,
    seed: int, temperature: float = 1.0, on_progress: OnProgress | None = None,
) -> list[Answers]:  # fmt: skip
    """`num_samples` answers per prompt: a list of that many `Answers`."""
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    engine = Engine(model, tokenizer, seed=seed)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    generations = engine.generate(prompt_ids, sampling, num_samples=num_samples, on_progress=on_progress)
    return [
        Answers(name, [_candidate(name, tokenizer, g[k], temperature) for g in generations], prompt_ids)
        for k in range(num_samples)
    ]


def transcript_answers(
    name: str, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, max_tokens: int, seed: int,
    examples: Sequence[Demonstration] = (), on_progress: OnProgress | None = None,
) -> Answers:  # fmt: skip
    """One answer a prompt from a base model, in the form it was pre-trained on and cut at the turn's end.

    Args:
        examples: good exchanges put before the prompt, each a chat of its own (few-shot).
    """
    stops = tuple(id for id in range(tokenizer.vocab_size) if b"\n" in tokenizer.decode_bytes([id]))
    start = tokenizer.document_start
    shots = [[*start, *tokenizer.encode(transcript(shot.messages))] for shot in examples]
    room = model.config.context_length - max_tokens
    prompt_ids = [
        _with_shots([*start, *tokenizer.encode(transcript_prompt(prompt))][-room:], shots, room) for prompt in prompts
    ]
    engine = Engine(model, seed=seed)
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=(*stops, tokenizer.document_end_id))
    generations = engine.generate(prompt_ids, sampling, on_progress=on_progress)
    candidates = [_candidate(name, tokenizer, generation, 1.0, one_line=True) for [generation] in generations]
    return Answers(name, candidates, prompt_ids, is_transcript=True)


def chat_completions(tokenizer: Tokenizer, prompts: Sequence[Prompt], answers: Answers) -> list[list[int]]:
    """The answers' ids in the chat format: those sampled, or a transcript's text encoded anew with an end token."""
    if not answers.is_transcript:
        return [list(candidate.token_ids) for candidate in answers.candidates]
    return [
        encode_answer(tokenizer, prompt, candidate.text, finished=candidate.finished)
        for prompt, candidate in zip(prompts, answers.candidates, strict=True)
    ]


def write_answers(
    path: Path,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
    proxy: Mapping[str, Tensor],
    votes: Mapping[str, Sequence[float]],
) -> None:
    """One JSON line per prompt: every model's answer, its proxy score where there is a reward model, and the votes.

    Args:
        votes: comparison ("ppo_vs_sft") -> share of the votes for the first, one per prompt.
    """
    rows = [
        {
            "id": prompt.id,
            "prompt": plain_messages(prompt.messages),
            "answers": {name: a.candidates[i].text for name, a in answers.items()},
            "scores": {name: round(float(scores[i]), 3) for name, scores in proxy.items()},
            "votes": {name: round(shares[i], 3) for name, shares in votes.items()},
        }
        for i, prompt in enumerate(prompts)
    ]
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _with_shots(prompt: list[int], shots: Sequence[list[int]], room: int) -> list[int]:
    """The prompt after as many examples as fit (GPT-3, section 2.4)."""
    for shot in reversed(shots):
        if len(shot) + len(prompt) <= room:
            prompt = [*shot, *prompt]
    return prompt


def _candidate(
    name: str, tokenizer: Tokenizer, generation: Generation, temperature: float, *, one_line: bool = False
) -> Candidate:
    """
    Args:
        one_line: the answer ends with its line, as a turn of a transcript does: the token that ended it may hold the
            start of the next turn. A chat model ends its own turn, so its answer counts whole, however many lines.
    """
    text = tokenizer.decode(generation.token_ids, skip_special=True)
    if one_line:
        text = text.partition("\n")[0]
    return Candidate(text.strip(), generation.token_ids, name, generation.finish_reason == "stop", temperature)
