"""Answers in the chat format and as a transcript: where they stop, what fits before them, which ids they keep."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wuya.data.chitchat import transcript_prompt
from wuya.evals.answers import chat_answers, chat_completions, chat_samples, transcript_answers, write_answers
from wuya.models.gpt import GPT
from wuya.models.layers import AttentionCache
from wuya.models.presets import preset
from wuya.records import Demonstration, Message, Prompt
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt

SIZES = {"num_layers": 1, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
PROMPTS = [Prompt(str(i), (Message("user", f"the cat sat {i}"),)) for i in range(3)]
CONTEXT = 64


class Bigrams(GPT):
    """Says exactly what a table of bigrams says: the logits see the last token alone."""

    table_VV: Tensor

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: AttentionCache | None = None,
    ) -> Tensor:
        super().forward(
            ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, cache=cache
        )  # keeps the cache right
        return F.one_hot(ids_BT, self.config.vocab_size).float()

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.table_VV


def speaker(tokenizer: Tokenizer, chain: list[int]) -> Bigrams:
    """A model that says the chain's tokens one after the other."""
    gpt = Bigrams(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=CONTEXT, **SIZES)).eval()
    gpt.table_VV = torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size)
    for previous, following in pairwise(chain):
        gpt.table_VV[previous, following] = 100.0
    return gpt


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["A:\nthe cat sat on the mat and sang a song\nB:\n" * 20], vocab_size=280)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    torch.manual_seed(0)
    return GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=CONTEXT, **SIZES)).eval()


def test_a_transcript_answer_stops_at_the_end_of_its_line(tokenizer: Tokenizer) -> None:
    line, next_line = tokenizer.encode("ok\n"), tokenizer.encode("Q:\nzz")
    chain = [tokenizer.encode(transcript_prompt(PROMPTS[0]))[-1], *line, *next_line]
    gpt = speaker(tokenizer, chain)
    answers = transcript_answers("base", gpt, tokenizer, PROMPTS[:1], max_tokens=16, seed=0)
    [candidate] = answers.candidates
    assert candidate.text == "ok" and candidate.finished
    assert candidate.token_ids == tuple(line)
    assert chat_completions(tokenizer, PROMPTS[:1], answers) == [[*tokenizer.encode("ok"), tokenizer.eos_id]]


def test_a_chat_answer_counts_whole_however_many_lines_it_has(tokenizer: Tokenizer) -> None:
    """Only the model's own end of the turn ends it: a list or a program is not judged by its first line."""
    answer = "the mat:\n- song"
    chain = [encode_prompt(tokenizer, PROMPTS[0].messages)[-1], *tokenizer.encode(answer), tokenizer.turn_end.id]
    assert len(set(chain)) == len(chain), "a table of bigrams can say each token once"
    gpt = speaker(tokenizer, chain)
    [candidate] = chat_answers("sft", gpt, tokenizer, PROMPTS[:1], max_tokens=32, seed=0).candidates
    assert candidate.text == answer and candidate.finished


def test_as_many_examples_as_fit_are_put_before_the_prompt(model: GPT, tokenizer: Tokenizer) -> None:
    shots = [Demonstration(prompt, Message("assistant", "on the mat")) for prompt in PROMPTS * 3]
    long = Prompt("long", (Message("user", "song mat cat " * 40),))
    prompts = [*PROMPTS, long]
    alone, few = (
        transcript_answers("base", model, tokenizer, prompts, max_tokens=8, seed=0, examples=examples)
        for examples in ((), shots)
    )
    room = CONTEXT - 8
    for without, with_shots in zip(alone.prompt_ids[:3], few.prompt_ids[:3], strict=True):
        assert with_shots[-len(without) :] == without
        assert 1 < with_shots.count(tokenizer.document_end_id) < 1 + len(shots)  # some fit, not all
        assert len(with_shots) <= room
    assert few.prompt_ids[3] == alone.prompt_ids[3]  # no room for any; the prompt keeps its end
    assert len(few.prompt_ids[3]) == room and few.prompt_ids[3][-1] == tokenizer.encode("B:\n")[-1]


def test_chat_answers_keep_the_ids_as_sampled(model: GPT, tokenizer: Tokenizer) -> None:
    answers, again = (chat_answers("sft", model, tokenizer, PROMPTS, max_tokens=8, seed=3) for _ in range(2))
    assert answers == again  # the seed decides
    assert chat_completions(tokenizer, PROMPTS, answers) == [
        list(candidate.token_ids) for candidate in answers.candidates
    ]
    for candidate in answers.candidates:
        assert 1 <= len(candidate.token_ids) <= 8
        assert candidate.finished == (candidate.token_ids[-1] in tokenizer.turn_end.ids)
        assert candidate.text == tokenizer.decode(candidate.token_ids, skip_special=True).strip()
    samples = chat_samples("sft", model, tokenizer, PROMPTS, num_samples=2, max_tokens=8, seed=3)
    assert len(samples) == 2 and samples[0].candidates != samples[1].candidates


def test_answers_are_written_one_prompt_a_line(model: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    answers = chat_answers("sft", model, tokenizer, PROMPTS, max_tokens=4, seed=0)
    write_answers(tmp_path / "answers.jsonl", PROMPTS, {"sft": answers}, {"sft": torch.tensor([0.5, -1.0, 2.0])},
                  {"sft_vs_base": [1.0, 0.5, 0.0]})  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    assert [row["scores"]["sft"] for row in rows] == [0.5, -1.0, 2.0]
    assert [row["votes"]["sft_vs_base"] for row in rows] == [1.0, 0.5, 0.0]
    assert [row["answers"]["sft"] for row in rows] == [candidate.text for candidate in answers.candidates]
