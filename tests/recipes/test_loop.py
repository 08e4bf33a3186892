"""Rounds through the store: simulated labelers, people who take their time, and going on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wuya.data.formats import write_prompts
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import make_labelers
from wuya.feedback.store import FeedbackStore
from wuya.models.checkpoint import save_checkpoint
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.recipes import loop
from wuya.recipes.loop import LoopConfig
from wuya.records import Message, Prompt
from wuya.tokenizer.bpe import Tokenizer


@pytest.fixture
def config(corpus: Path, tokenizer: Tokenizer, tiny_model: dict[str, int]) -> LoopConfig:
    model = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64, **tiny_model))
    save_checkpoint(corpus / "sft", model, tokenizer, recipe="test")
    prompts = [Prompt(f"p{i}", (Message("user", f"the cat sat on the log number {i}"),)) for i in range(12)]
    write_prompts(corpus / "prompts.jsonl", prompts[:10])
    write_prompts(corpus / "held_out.jsonl", prompts[10:])
    normaliser = Normaliser.fit([(prompts[0].messages, "a song"), (prompts[0].messages, "the dog sang to the sun?")])
    make_labelers(normaliser).save(corpus / "labelers.json")
    return LoopConfig(
        sft=corpus / "sft",
        prompts=corpus / "prompts.jsonl",
        demonstrations=corpus / "demonstrations.jsonl",
        evaluation_prompts=corpus / "held_out.jsonl",
        labelers=corpus / "labelers.json",
        out=corpus / "loop",
        database=str(corpus / "wuya.db"),
        rounds=2,
        prompts_per_round=3,
        gate=-1.0,
        k=3,
        max_tokens=8,
        reward_model={"batch_size": 2, "learning_rate": 1e-3},
        ppo={"num_updates": 1, "rollout_batch_size": 4, "minibatch_size": 4, "final_kl_prompts": 0},
        dtype="float32",
    )


def test_each_round_ranks_the_current_policy_and_learns_from_all_rounds(config: LoopConfig) -> None:
    rows = json.loads(loop.run(config).read_text())
    assert [row["round"] for row in rows] == [1, 2]
    assert all(0.0 <= row["win_rate"]["mean"] <= 1.0 for row in rows)
    samples = config.out / "round_02" / "samples" / "config.yaml"
    assert f"checkpoint: {config.out / 'round_01' / 'ppo'}\n" in samples.read_text()  # round 2 ranks what 1 made
    frozen = {n: next((config.out / f"round_0{n}" / "snapshot").glob("*.jsonl")).read_text() for n in (1, 2)}
    assert [len(text.splitlines()) for text in frozen.values()] == [3, 6]
    with FeedbackStore(config.database) as store:
        lineage = store.lineage(str(config.out / "round_02" / "ppo"))
        assert {ranking.round for ranking in store.rankings()} == {1, 2}
    assert [row["round"] for row in lineage][:2] == [2, 1]


def test_a_finished_loop_is_not_done_again_and_more_rounds_go_on(config: LoopConfig) -> None:
    first = replace(config, rounds=1)
    loop.run(first)
    weights = config.out / "round_01" / "ppo"
    before = {path: path.stat().st_mtime_ns for path in weights.rglob("*.safetensors")}
    rows = json.loads(loop.run(config).read_text())
    assert len(rows) == 2
    assert before == {path: path.stat().st_mtime_ns for path in weights.rglob("*.safetensors")}


def test_without_simulated_labelers_a_round_waits_for_people(
    config: LoopConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    people = replace(config, labelers=None, rounds=1)
    loop.run(people)
    assert "waits for people: 3 prompts to rank" in capsys.readouterr().err
    assert not (config.out / "round_01" / "reward").exists()
    with FeedbackStore(config.database) as store:
        while task := store.claim("anna", project="loop", round=1):
            store.submit_ranking(task.assignment_id, {c: i + 1 for i, c in enumerate(task.candidate_ids)})
    rows = json.loads(loop.run(people).read_text())
    assert rows[0]["votes_by"].startswith("the reward model")


def test_the_next_round_does_not_start_from_a_policy_that_failed_the_gate(config: LoopConfig) -> None:
    rows = json.loads(loop.run(replace(config, gate=1.0)).read_text())
    assert [row["passed"] for row in rows] == [False, False]
    assert f"checkpoint: {config.sft}\n" in (config.out / "round_02" / "samples" / "config.yaml").read_text()


def test_waiting_goes_on_by_itself_when_enough_is_ranked(config: LoopConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    people = replace(config, labelers=None, judges=config.labelers, rounds=1, wait=True, enough=0.6)

    def rank_one(_seconds: float) -> None:
        with FeedbackStore(config.database) as store:
            task = store.claim("anna", project="loop", round=1)
            assert task is not None
            store.submit_ranking(task.assignment_id, {c: i + 1 for i, c in enumerate(task.candidate_ids)})

    monkeypatch.setattr(loop.time, "sleep", rank_one)
    rows = json.loads(loop.run(people).read_text())
    assert "labelers" in rows[0]["votes_by"]
    with FeedbackStore(config.database) as store:
        assert len(list(store.rankings())) == 2  # 60 % of 3 prompts, rounded up
