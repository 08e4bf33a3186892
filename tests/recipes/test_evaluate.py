"""An evaluation of models too small to be good: every figure is there, and those known beforehand are right."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.data.formats import write_demonstrations, write_prompts
from wuya.errors import ConfigError
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import make_labelers
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes import evaluate
from wuya.recipes.evaluate import EvaluateConfig
from wuya.records import Demonstration, Message, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.system_prompt import with_system_prompt

SIZES = {"num_layers": 1, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
ODD_NAME = "<script>alert(1)</script>"
NUM_PROMPTS = 10


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> EvaluateConfig:
    """Untrained models: `same` is the SFT model, the oddly named policy another one."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("base", "sft", "other", "judge")):
        torch.manual_seed(seed)
        save_checkpoint(folder / name, _model(tokenizer), tokenizer, recipe="test")
    save_checkpoint(folder / "reward", ScalarModel(_model(tokenizer)), tokenizer, recipe="test")
    prompts = [Prompt(f"p{i}", (Message("user", f"the cat sat on the log {i}"),)) for i in range(NUM_PROMPTS)]
    write_prompts(folder / "prompts.jsonl", prompts)
    write_demonstrations(
        folder / "replies.jsonl",
        [Demonstration(p, Message("assistant", f"the bird {i}")) for i, p in enumerate(prompts)],
    )
    (folder / "texts.txt").write_text("the cat sat on the mat\fthe dog sat on the log", encoding="utf-8")
    replies = [(prompts[0].messages, "a song"), (prompts[0].messages, "the dog sang to the sun?")]
    make_labelers(Normaliser.fit(replies)).save(folder / "labelers.json")
    return EvaluateConfig(
        out=folder / "evaluation",
        base=folder / "base",
        shots=folder / "replies.jsonl",
        sft=folder / "sft",
        policies={"same": folder / "sft", ODD_NAME: folder / "other"},
        tax_only={"also_sft": folder / "sft"},
        prompts=folder / "prompts.jsonl",
        texts=folder / "texts.txt",
        labelers=folder / "labelers.json",
        reward_model=str(folder / "reward"),
        judge=folder / "judge",
        judge_turns=folder / "replies.jsonl",
        num_prompts=NUM_PROMPTS,
        max_tokens=8,
    )


@pytest.fixture(scope="module")
def report(config: EvaluateConfig) -> dict[str, Any]:
    return dict(json.loads(evaluate.run(config).read_text(encoding="utf-8")))


def _model(tokenizer: Tokenizer, context_length: int = 64) -> GPT:
    return GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=context_length, **SIZES))


def test_a_policy_that_is_the_sft_model_differs_from_it_in_nothing(report: dict[str, Any]) -> None:
    rate = report["win_rate"]["same_vs_sft"]
    assert rate["low"] <= 0.5 <= rate["high"] and rate["n"] == NUM_PROMPTS
    assert report["kl"]["same"]["per_response"] == pytest.approx(0.0, abs=1e-6)
    assert report["tax"]["same"]["mean"] == report["tax"]["also_sft"]["mean"] == 0.0
    assert report["diversity"]["same"] == report["diversity"]["sft"]
    worse = [row["mean"] for row in report["outside_judges"]["same_worse_than_sft"].values()]
    assert worse == pytest.approx([0.0, 0.0], abs=1e-6)  # they lie elsewhere in a row


def test_another_policy_differs(report: dict[str, Any]) -> None:
    assert report["kl"][ODD_NAME]["per_response"] > 0.0
    assert report["tax"][ODD_NAME]["mean"] != 0.0


def test_best_of_n_scores_at_least_what_sft_scores(report: dict[str, Any]) -> None:
    assert report["scores"]["best_of_n"]["proxy"] >= report["scores"]["sft"]["proxy"]
    assert report["kl"]["best_of_n"]["per_token"] is None  # only the whole answer's is known: log n - (n - 1) / n
    assert report["kl"]["best_of_n"]["per_response"] == pytest.approx(0.636, abs=1e-3)
    assert "best_of_4_vs_sft" in report["win_rate"]


@pytest.mark.parametrize("n", [2, 3])
def test_the_table_shows_the_win_rate_of_best_of_n_whatever_n_is(
    config: EvaluateConfig, n: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"base": None, "judge": None, "policies": {}, "tax_only": {}, "texts": None, "num_prompts": 4}
    report = json.loads(evaluate.run(replace(config, out=tmp_path, best_of=n, **small)).read_text(encoding="utf-8"))
    rate = report["win_rate"][f"best_of_{n}_vs_sft"]
    [line] = [line for line in capsys.readouterr().out.splitlines() if f"best_of_{n}" in line]
    assert f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]" in line


def test_differences_of_models_are_paired_by_prompt_and_by_text(report: dict[str, Any]) -> None:
    beside = report["paired"][f"same_less_{ODD_NAME}"]
    rates = report["win_rate"]
    assert beside["win_rate"]["mean"] == pytest.approx(
        rates["same_vs_sft"]["mean"] - rates[f"{ODD_NAME}_vs_sft"]["mean"]
    )
    assert beside["tax"]["mean"] == pytest.approx(-report["tax"][ODD_NAME]["mean"])
    assert beside["tax_beyond_half"]["mean"] == pytest.approx(-report["tax"][ODD_NAME]["mean"] / 2)
    assert "tax" not in report["paired"]["same_less_best_of_n"]  # best-of-n has no weights of its own
    assert report["variety_beside_sft"]["same"]["distinct_2"]["mean"] == 1.0
    assert report["length"]["same"]["longer_share"] == 0.0
    assert set(report["length_controlled"]) == set(report["win_rate"])
    assert report["length_controlled"]["same_vs_sft"]["mean"] == pytest.approx(0.5)


def test_a_prompt_too_long_for_one_is_left_out_for_all_and_named(
    config: EvaluateConfig, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`short` reads 40 tokens: `middle` fits everybody else, `long` nobody; neither ends the evaluation."""
    words = {"middle": "song " * 16, "long": "song " * 200}
    prompts = [Prompt(name, (Message("user", text),)) for name, text in words.items()]
    prompts += [Prompt(f"p{i}", (Message("user", f"the cat {i}"),)) for i in range(3)]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    save_checkpoint(tmp_path / "short", _model(tokenizer, context_length=40), tokenizer, recipe="test")
    for judge in ("policies", "judge", "reward_model"):
        if judge == "reward_model":
            shorter = ScalarModel(_model(tokenizer, context_length=40))
            save_checkpoint(tmp_path / "short_reward", shorter, tokenizer, recipe="test")
        one: dict[str, Any] = {
            "policies": {"policies": {"short": tmp_path / "short"}},
            "judge": {"judge": tmp_path / "short"},
            "reward_model": {"reward_model": str(tmp_path / "short_reward")},
        }[judge]
        run = replace(config, out=tmp_path / judge, prompts=tmp_path / "prompts.jsonl", **one)
        report = json.loads(evaluate.run(run).read_text(encoding="utf-8"))
        assert report["num_prompts"] == 3 and [row["id"] for row in report["left_out"]] == ["middle", "long"]
        rows = (run.out / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(row)["id"] for row in rows] == ["p0", "p1", "p2"]
        says = capsys.readouterr().err
        assert "prompt long" in says and "prompt middle" in says and "left out" in says


@pytest.mark.parametrize("role", ["policies", "judge"])
def test_a_model_of_another_chat_template_is_not_asked_in_the_sft_models(
    config: EvaluateConfig, tokenizer: Tokenizer, tmp_path: Path, role: str
) -> None:
    """The vocabulary is the same, so it would answer, but to a form of prompt it was never trained on."""
    polite = with_system_prompt(tokenizer, "Be polite.")
    save_checkpoint(tmp_path / "polite", _model(tokenizer), polite, recipe="test")
    polite_one = tmp_path / "polite"
    fields: dict[str, Any] = {"policies": {"policies": {"polite": polite_one}}, "judge": {"judge": polite_one}}
    with pytest.raises(ConfigError, match=r"different chat templates.*Be polite"):
        evaluate.run(replace(config, out=tmp_path / "out", **fields[role]))


def test_only_a_reward_model_that_no_policy_met_votes_without_a_warning(
    config: EvaluateConfig, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = [tmp_path / name for name in ("trained_on", "held_out")]
    for path in rewards:
        save_checkpoint(path, ScalarModel(_model(tokenizer)), tokenizer, recipe="test")
    parents: dict[str, Path | str] = {"policy": config.sft, "reward": str(rewards[0])}
    save_checkpoint(tmp_path / "policy", _model(tokenizer), tokenizer, recipe="ppo", parents=parents)
    small: dict[str, Any] = {"base": None, "judge": None, "texts": None, "tax_only": {}, "labelers": None, "best_of": 1}
    run = replace(config, out=tmp_path / "out", policies={"mine": tmp_path / "policy"}, **small)

    def voted(**fields: str) -> tuple[str, str]:
        report = json.loads(evaluate.run(replace(run, **fields)).read_text(encoding="utf-8"))
        return report["votes_by"], capsys.readouterr().err

    votes_by, says = voted(reward_model=str(rewards[0]))
    assert votes_by == "the reward model that `mine` was trained against (a proxy, not people)"
    assert "do not show that the policy is better" in says
    votes_by, says = voted(reward_model=str(rewards[0]), judge_reward_model=str(rewards[1]))
    assert votes_by == "a reward model that no policy was trained against (not people)"
    assert "was trained against, so" not in says


def test_every_model_has_every_figure(report: dict[str, Any], config: EvaluateConfig) -> None:
    asked = {"base", "fewshot_base", "sft", "best_of_n", *config.policies}
    for figure in ("diversity", "finished", "scores"):
        assert set(report[figure]) == asked
    for figure in ("bits_per_byte", "real_turn"):
        assert set(report["outside_judges"][figure]) == asked
    assert set(report["bits_per_byte"]) == {"base", "sft", *config.policies, *config.tax_only}
    assert set(report["checkpoints"]) == {"base", "sft", *config.policies, *config.tax_only}
    assert report["votes_by"] == "held-out simulated labelers"
    rows = (config.out / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == NUM_PROMPTS and set(json.loads(rows[0])["answers"]) == asked


def test_the_page_names_every_model_and_runs_nothing(report: dict[str, Any], config: EvaluateConfig) -> None:
    page = (config.out / "report.html").read_text(encoding="utf-8")
    for name in ("base", "fewshot_base", "sft", "best_of_n", "same", "also_sft", "&lt;script&gt;alert(1)"):
        assert name in page
    assert "<script" not in page


def test_settings_that_cannot_be_evaluated_are_refused(config: EvaluateConfig) -> None:
    with pytest.raises(ConfigError, match="nobody to vote"):
        replace(config, labelers=None, reward_model="")
    with pytest.raises(ConfigError, match="shots"):
        replace(config, shots=None)
    with pytest.raises(ConfigError, match="judge_turns"):
        replace(config, judge_turns=None)
    with pytest.raises(ConfigError, match="another row"):
        replace(config, policies={"sft": config.sft})
