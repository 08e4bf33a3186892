"""Rounds through the store: simulated labelers, people who take their time, and going on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.data.formats import read_prompts, write_prompts
from wuya.errors import ConfigError, DataError
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import make_labelers
from wuya.feedback.store import FeedbackStore
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_round_ranks_the_current_policy_and_learns_from_all_rounds(
    config: LoopConfig, dtype: Literal["float32", "bfloat16"]
) -> None:
    config = replace(config, dtype=dtype)
    rows = json.loads(loop.run(config).read_text())
    assert [row["round"] for row in rows] == [1, 2]
    assert all(0.0 <= row["win_rate"]["mean"] <= 1.0 for row in rows)
    assert all(0.0 < row["win_rate_at_equal_length"]["mean"] < 1.0 for row in rows)
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
    with pytest.raises(DataError, match="too few prompts for 1 more rounds") as error:
        loop.run(config)  # PPO has trained on all that round 1 did not rank
    assert "append new prompts" in error.value.hint
    with config.prompts.open("a") as file:
        file.writelines(json.dumps({"prompt": f"the bird number {n}"}) + "\n" for n in range(3))
    rows = json.loads(loop.run(config).read_text())
    ranked = [prompt.messages[0].content for prompt in read_prompts(config.out / "round_02" / "prompts.jsonl")]
    assert ranked == [f"the bird number {n}" for n in range(3)]
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
    assert rows[0]["gate"] == "not shown" and "too few rankings" in rows[0]["reason"]
    assert rows[0]["votes_by"] == "the reward model that `policy` was trained against (a proxy, not people)"


def rank_all(config: LoopConfig, *, wanted: str) -> None:
    """One person ranks the queue, the answers with the most of a letter first."""
    with FeedbackStore(config.database) as store:
        while task := store.claim("anna", project="loop", round=1):
            counts = [candidate.text.count(wanted) for candidate in task.candidates]
            levels = sorted(set(counts), reverse=True)
            ranks = dict(zip(task.candidate_ids, (levels.index(n) + 1 for n in counts), strict=True))
            store.submit_ranking(task.assignment_id, ranks)


def test_without_labelers_a_judge_on_held_out_rankings_gates_the_policy(config: LoopConfig, corpus: Path) -> None:
    prompts = [Prompt(f"q{i}", (Message("user", f"the cat sat on mat {i}"),)) for i in range(40)]
    write_prompts(corpus / "many.jsonl", prompts)
    people = replace(config, labelers=None, rounds=1, prompts=corpus / "many.jsonl", prompts_per_round=30, gate=0.5)
    loop.run(people)
    rank_all(people, wanted="a")
    [row] = json.loads(loop.run(people).read_text())
    folder = config.out / "round_01"
    seen = {name: prompts_in(folder / f"{name}_rankings.jsonl") for name in ("training", "judge")}
    assert seen["training"] and seen["judge"] and not seen["training"] & seen["judge"]
    assert f"rankings: {folder / 'judge_rankings.jsonl'}" in (folder / "judge" / "config.yaml").read_text()
    assert f"rankings: {folder / 'training_rankings.jsonl'}" in (folder / "reward" / "config.yaml").read_text()
    assert row["votes_by"] == "a reward model that no policy was trained against (not people)"
    assert row["gate"] in ("held", "failed", "not shown") and row["passed"] == (row["gate"] == "held")


def prompts_in(path: Path) -> set[str]:
    return {json.dumps(json.loads(line)["prompt"]) for line in path.read_text(encoding="utf-8").splitlines()}


def test_the_reward_model_it_was_trained_against_never_gates_a_policy(
    config: LoopConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    people = replace(config, labelers=None, rounds=1, judge_share=0.0)
    loop.run(people)
    rank_all(people, wanted="a")
    capsys.readouterr()
    [row] = json.loads(loop.run(people).read_text())
    assert row["gate"] == "not gated" and not row["passed"]
    assert "not gated (the only judge is the reward model" in capsys.readouterr().err


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


def test_a_loop_does_not_go_on_with_other_demonstrations(config: LoopConfig) -> None:
    people = replace(config, labelers=None, rounds=1)
    loop.run(people)  # waits for people
    with config.demonstrations.open("a") as file:
        file.write(json.dumps({"prompt": "the cat", "completion": "the dog"}) + "\n")
    with pytest.raises(ConfigError, match="has changed since it was started: demonstrations"):
        loop.run(people)
