"""A reward model learns a separable taste, whatever the microbatches; demonstrations score 0; resume is exact."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wuya.checkpoints.checkpoint import load_scalar_model, save_checkpoint
from wuya.errors import DataError
from wuya.evals.reward_model_report import judge_reward_model
from wuya.files import read_jsonl
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes.reward_model import RewardModelConfig, ranking_gradients, run
from wuya.records import Candidate, Message, Prompt, Ranking
from wuya.rlhf.preference_metrics import PAIR_METRICS
from wuya.rlhf.ranked_prompts import completion_ids, load_ranked_prompts, ranked_prompts
from wuya.rlhf.rewards import load_reward, score_answers
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.training.metrics import METRICS

WORDS = ("cat", "dog", "bird", "sun")
Make = Callable[..., RewardModelConfig]


def write_rankings(path: Path, count: int, *, start: int, labelers: tuple[str, ...] = ("a",)) -> None:
    """Labelers like answers with more cats: linear in the text, without noise."""
    rng = random.Random(start)
    with path.open("w") as file:
        for number in range(start, start + count):
            candidates = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))) for _ in range(4)]
            cats = [text.count("cat") for text in candidates]
            levels = sorted(set(cats), reverse=True)
            for labeler in labelers:
                row = {
                    "prompt_id": f"p{number}",
                    "prompt": [{"role": "user", "content": f"the {rng.choice(WORDS)} {number}"}],
                    "candidates": candidates,
                    "ranks": [levels.index(count) + 1 for count in cats],
                    "labeler": labeler,
                }
                file.write(json.dumps(row) + "\n")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


@pytest.fixture
def make(corpus: Path, tiny_model: dict[str, int], tokenizer: Tokenizer) -> Make:
    torch.manual_seed(0)
    base = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 64}))
    save_checkpoint(corpus / "sft", base, tokenizer, recipe="test")
    write_rankings(corpus / "rankings.jsonl", 160, start=0)
    write_rankings(corpus / "heldout.jsonl", 40, start=10_000, labelers=("b", "c"))

    def config(out: str = "rm", **changes: Any) -> RewardModelConfig:
        fields: dict[str, Any] = {
            "model": corpus / "sft", "rankings": corpus / "rankings.jsonl", "out": corpus / out, "batch_size": 16,
            "learning_rate": 5e-3, "demonstrations": corpus / "demonstrations.jsonl", "device": "cpu", **changes,
        }  # fmt: skip
        return RewardModelConfig(**fields)

    return config


def test_it_learns_a_separable_taste_and_says_how_well(make: Make, corpus: Path, tokenizer: Tokenizer) -> None:
    config = make(num_epochs=2, heldout_rankings=(corpus / "heldout.jsonl",), dtype="float32")
    run(config)
    report = json.loads((config.out / "report.json").read_text())[str(corpus / "heldout.jsonl")]
    assert report["accuracy"]["mean"] > 0.95 and report["accuracy"]["low"] > 0.9
    assert report["agreement"] == 1.0 and report["ceiling"] == 1.0
    assert set(report["accuracy_by_labeler"]) == {"b", "c"}
    assert (
        report["ece"] < 0.1 and report["brier"] < 0.1 and sum(bin["n"] for bin in report["bins"]) == report["num_votes"]
    )
    rows = [row for _, row in read_jsonl(config.out / "metrics.jsonl")]
    assert rows[0]["loss"] == pytest.approx(0.693, abs=0.1) and rows[-1]["loss"] < 0.2
    assert set(rows[0]) - {"step", "time"} <= {*METRICS, *PAIR_METRICS}
    assert rows[0]["lr"] == pytest.approx(config.learning_rate)
    scores = [row for _, row in read_jsonl(config.out / "heldout_scores.jsonl")]
    assert {"prompt_id", "text", "score"} <= set(scores[0])
    # demonstrations score 0 on average, also after loading
    score = load_reward(str(config.out), tokenizer)
    demonstrations = [row["messages"] for _, row in read_jsonl(corpus / "demonstrations.jsonl")]
    prompts = [encode_prompt(tokenizer, [Message("user", user["content"])]) for user, _ in demonstrations]
    answers = [[*tokenizer.encode(assistant["content"]), tokenizer.eos_id] for _, assistant in demonstrations]
    assert abs(float(score(prompts, answers).mean())) < 1e-3


def test_microbatches_do_not_change_the_gradient(make: Make, tokenizer: Tokenizer) -> None:
    config = make()
    model = ScalarModel(GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64)))
    prompts, _ = load_ranked_prompts(config.rankings, tokenizer, max_length=64)
    gradients, metrics = [], []
    for tokens in (100_000, 300, 1):
        model.zero_grad()
        metrics.append(ranking_gradients(model, prompts[:12], microbatch_tokens=tokens))
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in (1, 2):
        assert metrics[other] == pytest.approx(metrics[0], rel=1e-5)
        for ours, whole in zip(gradients[other], gradients[0], strict=True):
            torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-4)


def test_equal_scores_are_half_right_in_training_and_in_the_report_alike(make: Make, tokenizer: Tokenizer) -> None:
    """A head of zeros scores everything alike: it has learned nothing, and both say .5."""
    config = make()
    model = ScalarModel(GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64)))
    with torch.no_grad():
        model.head.weight.zero_()
    prompts, rankings = load_ranked_prompts(config.rankings, tokenizer, max_length=64)
    assert ranking_gradients(model, prompts[:12], microbatch_tokens=300)["accuracy"] == 0.5
    report = judge_reward_model(model, prompts, rankings)
    assert report.calibration.accuracy.mean == 0.5 and set(report.accuracy_by_labeler.values()) == {0.5}


def test_the_report_compares_accuracy_and_agreement_on_the_same_prompts(make: Make, tokenizer: Tokenizer) -> None:
    """Two labelers who never differ agree on all pairs: an indifferent model is .5 below them, in every resample."""
    config = make()
    votes = prompt_with_votes((1, 2, 3), (1, 2, 3))
    rankings = [replace(vote, prompt=replace(vote.prompt, id=f"p{n}")) for n in range(8) for vote in votes]
    model = ScalarModel(GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64)))
    with torch.no_grad():
        model.head.weight.zero_()
    prompts, _ = ranked_prompts(rankings, tokenizer, max_length=64)
    report = judge_reward_model(model, prompts, rankings)
    for difference in (report.accuracy_less_agreement, report.accuracy_less_ceiling):
        assert difference is not None and (difference.mean, difference.low, difference.high) == (-0.5, -0.5, -0.5)
    alone, own = load_ranked_prompts(config.rankings, tokenizer, max_length=64)
    assert judge_reward_model(model, alone, own).accuracy_less_agreement is None  # one vote per prompt


def test_stop_and_resume_equals_a_straight_run_bit_for_bit(make: Make, corpus: Path) -> None:
    run(make("straight"))
    run(make("stopped", save_every=5, keep_last_n=0))
    shutil.rmtree(corpus / "stopped" / "checkpoints" / "step_000009")
    run(make("stopped", save_every=5, keep_last_n=0, resume=True))
    straight, stopped = (load_scalar_model(corpus / name)[0] for name in ("straight", "stopped"))
    assert straight.bias == stopped.bias != 0
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), stopped.parameters(), strict=True))


def test_resuming_a_finished_run_does_not_shift_the_scores_again(make: Make, corpus: Path) -> None:
    run(make())
    before = load_scalar_model(corpus / "rm")[0].bias
    run(make(resume=True))
    assert torch.allclose(load_scalar_model(corpus / "rm")[0].bias, before, atol=1e-6)


def test_adapters_learn_the_taste_and_are_kept_beside_the_merged_model(
    make: Make, corpus: Path, tokenizer: Tokenizer
) -> None:
    config = make(num_epochs=2, lora_rank=8, learning_rate=1e-2, heldout_rankings=(corpus / "heldout.jsonl",))
    run(config)
    report = json.loads((config.out / "report.json").read_text())[str(corpus / "heldout.jsonl")]
    assert report["accuracy"]["mean"] > 0.9
    [adapter] = (config.out / "checkpoints").glob("*/adapter/adapter_model.safetensors")
    assert adapter.stat().st_size < 100_000


def prompt_with_votes(*ranks: tuple[int, ...], texts: tuple[str, ...] = ("cat", "dog", "sun")) -> list[Ranking]:
    prompt = Prompt(id="p", messages=(Message("user", "the cat"),))
    candidates = tuple(Candidate(text) for text in texts)
    return [Ranking(prompt, candidates, vote, labeler=str(i)) for i, vote in enumerate(ranks)]


def test_all_votes_on_a_prompt_are_one_batch_element_with_each_answer_once(tokenizer: Tokenizer) -> None:
    rankings = prompt_with_votes((1, 2, 3), (2, 1, 2)) + prompt_with_votes((1, 2), texts=("sun", "bird"))
    [element], dropped = ranked_prompts(rankings, tokenizer, max_length=64)
    assert dropped == 0 and len(element.sequences) == 4
    assert [vote.rows for vote in element.votes] == [(0, 1, 2), (0, 1, 2), (2, 3)]
    assert element.votes[1].pairs == [(1, 0), (1, 2)]  # the tie is no pair


def test_rankings_of_ties_alone_and_too_long_ones_are_left_out(tokenizer: Tokenizer) -> None:
    elements, dropped = ranked_prompts(prompt_with_votes((1, 1, 1), (1, 2, 3)), tokenizer, max_length=64)
    assert len(elements[0].votes) == 1 and dropped == 1
    assert ranked_prompts(prompt_with_votes((1, 2, 3)), tokenizer, max_length=5) == ([], 1)


PROMPT = Prompt("p", (Message("user", "which pet?"),))


def test_sampled_ids_are_kept_and_foreign_ones_encoded_again(tokenizer: Tokenizer) -> None:
    letters = [tokenizer.encode(letter)[0] for letter in "cat"]  # not how the tokenizer would write it
    assert letters != tokenizer.encode("cat")
    assert completion_ids(Candidate("cat", tuple(letters), finished=False), tokenizer, PROMPT) == letters
    foreign = Candidate("cat", (5, 6, 7, 9_999))
    assert completion_ids(foreign, tokenizer, PROMPT) == [*tokenizer.encode("cat"), tokenizer.eos_id]
    unfinished = Candidate("cat", finished=False)
    assert completion_ids(unfinished, tokenizer, PROMPT) == tokenizer.encode("cat")


def test_padding_and_batch_mates_do_not_change_a_score(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = ScalarModel(GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64))).eval()
    prompts, answers = [[5, 6], [8, 9, 10, 11], [5, 6], [16]], [[7], [12, 13, 14], [15], [17, 18, 19]]
    together = score_answers(model, prompts, answers, max_length=64)
    alone = [score_answers(model, [p], [a], max_length=64) for p, a in zip(prompts, answers, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_an_empty_file_is_refused(make: Make, corpus: Path) -> None:
    (corpus / "rankings.jsonl").write_text("")
    with pytest.raises(DataError, match="no usable rankings"):
        run(make())
