"""`wuya mix`: so many answers of each source and a human one, each text once, the doubtful prompts first."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.errors import ConfigError, DataError
from wuya.feedback.importers import read_answers
from wuya.feedback.store import FeedbackStore
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes import mix_candidates
from wuya.recipes.mix_candidates import MixConfig, closeness, disagreement, draw, run
from wuya.records import Candidate
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.templates import CHATML_OF_TEXTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models' answers to five prompts, and human answers to three of them."""
    for model, copies in (("sft", 4), ("ppo", 3)):
        rows = [
            {"id": f"p{n}", "prompt": f"question {n}",
             "candidates": [{"text": f"{model} {n} {k}", "model": model} for k in range(copies)]}
            for n in range(5)
        ]  # fmt: skip
        (tmp_path / f"{model}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = [{"prompt": f"question {n}", "completion": f"by hand {n}"} for n in range(3)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    return tmp_path


def config(folder: Path, **changes: Any) -> MixConfig:
    fields: dict[str, Any] = {
        "sources": {str(folder / "sft.jsonl"): 2, str(folder / "ppo.jsonl"): 1}, "references": folder / "demos.jsonl",
        "out": folder / "mix", **changes,
    }  # fmt: skip
    return MixConfig(**fields)


def test_each_prompt_gets_what_the_mix_says_and_a_human_answer_where_there_is_one(folder: Path) -> None:
    path = run(config(folder, database=str(folder / "wuya.db")))
    mixed = {prompt.id: [c.model for c in group] for prompt, group in read_answers(path)}
    assert len(mixed) == 5
    assert sorted(mixed["p0"]) == ["human", "ppo", "sft", "sft"] and sorted(mixed["p4"]) == ["ppo", "sft", "sft"]
    summary = json.loads((folder / "mix" / "summary.json").read_text())
    assert summary["answers_by_model"] == {"sft": 10, "ppo": 5, "human": 3}
    assert run(config(folder)).read_bytes() == path.read_bytes()  # the same seed, the same mix
    with FeedbackStore(folder / "wuya.db") as store:
        assert len(list(store.open_answers())) == 5


def test_a_text_is_taken_once_and_a_prompt_with_one_answer_is_left_out(folder: Path) -> None:
    same = [Candidate("hi", model="a"), Candidate(" hi ", model="a"), Candidate("", model="a")]
    assert len(draw([(same, 3), ([Candidate("hi", model="b")], 1)], None, random.Random(0))) == 1
    row = {"id": "p", "prompt": "?", "candidates": ["yes", "yes"]}
    (folder / "one.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="two different answers"):
        run(config(folder, sources={str(folder / "one.jsonl"): 2}, references=None))


def test_doubt_is_none_where_the_members_agree_and_most_where_they_contradict_each_other() -> None:
    assert disagreement([[1.0, 0.0], [2.0, 1.0]]) == pytest.approx(0.0)
    assert disagreement([[9.0, 0.0], [0.0, 9.0]]) == pytest.approx(0.5, abs=1e-3)


def test_answers_that_score_alike_are_close() -> None:
    assert closeness([[1.0, 1.0, 1.0]]) == pytest.approx(0.5)
    assert closeness([[0.0, 3.0], [3.0, 0.0]]) == pytest.approx(0.5)  # of the mean: members may contradict each other
    assert closeness([[0.0, 1.0]]) > closeness([[0.0, 2.0]]) > closeness([[0.0, 2000.0]]) == pytest.approx(0.0)


def test_doubtful_prompts_come_first_and_the_rest_may_be_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix_candidates, "with_doubts", lambda mixed, _: (mixed, [float(p.id[1:]) for p, _ in mixed]))
    chosen = config(folder, reward="a,b", model=folder / "sft", keep=2, database=str(folder / "wuya.db"))
    assert [prompt.id for prompt, _ in read_answers(run(chosen))] == ["p4", "p3"]
    with FeedbackStore(folder / "wuya.db") as store:
        assert [prompt.id for prompt, _ in store.open_answers()] == ["p4", "p3"]


def test_a_prompt_that_cannot_be_scored_is_named_and_left_out(
    folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that the chat template refuses, and one longer than the reward model's context."""
    template = CHATML_OF_TEXTS.replace("{%- for", "{%- if 'question 1' in messages[0].content %}"
                              "{{ raise_exception('no ones') }}{% endif %}\n{%- for", 1)  # fmt: skip
    assert template != CHATML_OF_TEXTS
    tokenizer.save(folder / "plain")
    strict = Tokenizer.load(folder / "plain")
    strict.chat_template = template
    model = GPT(preset("tiny", vocab_size=strict.vocab_size, context_length=64))
    save_checkpoint(folder / "model", model, strict)
    save_checkpoint(folder / "rm", ScalarModel(model), strict)
    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    rows.append({"id": "p9", "prompt": "question 9 " * 100, "candidates": ["yes", "no"]})
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = config(folder, sources={str(folder / "sft.jsonl"): 2}, reward=str(folder / "rm"), model=folder / "model")
    names = {prompt.id for prompt, _ in read_answers(run(chosen))}
    assert names == {"p0", "p2", "p3", "p4"}
    said = capsys.readouterr()
    assert "2 bad rows" in said.out + said.err and "no ones" in said.out + said.err


def test_disagreement_of_one_model_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="two reward models"):
        config(folder, reward="runs/rm", model=folder / "sft", doubt="disagreement")
    with pytest.raises(ConfigError, match="tokenizer"):
        config(folder, reward="runs/rm")
    with pytest.raises(ConfigError, match="sources"):
        config(folder, sources={})


def test_answers_meet_by_their_prompt_and_never_by_an_id_two_files_share(folder: Path) -> None:
    rows = {"one": [("7", "first?", "a"), ("8", "first?", "b")], "two": [("7", "second?", "c"), ("x", "first?", "d")]}
    for name, given in rows.items():
        text = [json.dumps({"id": i, "prompt": p, "candidates": [f"{a}1", f"{a}2"]}) + "\n" for i, p, a in given]
        (folder / f"{name}.jsonl").write_text("".join(text))
    sources = {str(folder / f"{name}.jsonl"): 4 for name in rows}
    path = run(config(folder, sources=sources, references=None))
    mixed = {prompt.messages[0].content: {c.text for c in group} for prompt, group in read_answers(path)}
    assert mixed == {"first?": {"a1", "a2", "b1", "b2", "d1", "d2"}, "second?": {"c1", "c2"}}
    assert len({prompt.id for prompt, _ in read_answers(path)}) == 2
