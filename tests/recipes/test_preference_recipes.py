"""KTO, ORPO, SimPO and DPO's variants through their recipes: they learn what people prefer, or refuse in words."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.recipe_list import write_inputs
from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.errors import ConfigError, DataError
from wuya.files import read_jsonl
from wuya.recipes.dpo import DPOConfig
from wuya.recipes.kto import KTOConfig
from wuya.recipes.kto import run as run_kto
from wuya.recipes.simpo import SimPOConfig
from wuya.rlhf.preference_metrics import DIRECT_METRICS, PAIR_METRICS
from wuya.training.metrics import METRICS


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


def fields(inputs: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {"model": inputs / "sft", "out": out, "batch_size": 8, "num_epochs": 4, "learning_rate": 5e-3,
            "warmup_steps": 0, "device": "cpu", "dtype": "float32",
            "heldout_rankings": (inputs / "rankings.jsonl",)} | changes  # fmt: skip


def trained(verb: str, config: str, inputs: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
    module = import_module(f"wuya.recipes.{verb}")
    module.run(getattr(module, config)(**fields(inputs, out, **changes)))
    return [row for _, row in read_jsonl(out / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("verb", "config", "changes"),
    [
        ("simpo", "SimPOConfig", {"rankings": "rankings.jsonl"}),
        ("orpo", "ORPOConfig", {"rankings": "rankings.jsonl", "odds_coef": 0.5}),
        ("kto", "KTOConfig", {"ratings": "rankings.jsonl"}),
        ("kto", "KTOConfig", {"ratings": "ratings.jsonl", "undesirable_weight": 0.6}),
        ("dpo", "DPOConfig", {"rankings": "rankings.jsonl", "label_smoothing": 0.1, "sft_coef": 0.2}),
        ("dpo", "DPOConfig", {"rankings": "rankings.jsonl", "label_smoothing": 0.1, "loss": "robust"}),
    ],
)
def test_each_method_learns_the_ranking_and_logs_what_is_documented(
    inputs: Path, tmp_path: Path, verb: str, config: str, changes: dict[str, Any]
) -> None:
    paths = {name: inputs / value for name, value in changes.items() if name in ("rankings", "ratings")}
    rows = trained(verb, config, inputs, tmp_path / "run", **{**changes, **paths})
    assert rows[-1]["accuracy"] == 1.0 and rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["objective/margin"] > rows[0]["objective/margin"] + 0.2
    assert {name for row in rows for name in row} - {"step", "time"} <= {*METRICS, *PAIR_METRICS, *DIRECT_METRICS}
    [report] = json.loads((tmp_path / "run" / "report.json").read_text()).values()
    assert report["accuracy"]["mean"] == 1.0 and report["num_votes"] == 32
    provenance = json.loads((tmp_path / "run" / "model" / "wuya.json").read_text())
    assert provenance["recipe"] == verb and "model" in provenance["parents"]


def test_an_sft_share_keeps_the_preferred_answer_likely(inputs: Path, tmp_path: Path) -> None:
    """DPO raises a difference, the share the chosen answer's own log-prob."""
    rankings = inputs / "rankings.jsonl"
    share = trained("dpo", "DPOConfig", inputs, tmp_path / "share", rankings=rankings, sft_coef=1.0)
    plain = trained("dpo", "DPOConfig", inputs, tmp_path / "plain", rankings=rankings)
    assert share[-1]["objective/chosen_logratio"] > plain[-1]["objective/chosen_logratio"] + 0.3
    assert share[-1]["loss/chosen_nll"] < share[0]["loss/chosen_nll"] - 1 and "loss/chosen_nll" not in plain[0]


def test_blocks_recomputed_in_the_backward_pass_give_the_same_run(inputs: Path, tmp_path: Path) -> None:
    rankings = inputs / "rankings.jsonl"
    kept = trained("simpo", "SimPOConfig", inputs, tmp_path / "kept", rankings=rankings)
    again = trained(
        "simpo", "SimPOConfig", inputs, tmp_path / "again", rankings=rankings, activation_checkpointing=True
    )
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in kept], abs=1e-5)


def test_adapters_are_merged_into_an_ordinary_model(inputs: Path, tmp_path: Path) -> None:
    trained("kto", "KTOConfig", inputs, tmp_path / "run", ratings=inputs / "ratings.jsonl", lora_rank=2)
    assert (
        load_checkpoint(tmp_path / "run")[0].state_dict().keys()
        == load_checkpoint(inputs / "sft")[0].state_dict().keys()
    )


def test_thumbs_out_of_balance_are_named_with_the_weight_to_set(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """6 liked, 10 disliked: 1.67 brings them into balance, and then nothing is said."""
    changes = {"ratings": inputs / "ratings.jsonl", "num_epochs": 1, "heldout_rankings": ()}
    trained("kto", "KTOConfig", inputs, tmp_path / "plain", **changes)
    assert "`--desirable_weight 1.67`" in capsys.readouterr().err
    trained("kto", "KTOConfig", inputs, tmp_path / "weighed", desirable_weight=1.67, **changes)
    assert "desirable_weight" not in capsys.readouterr().err


def test_what_cannot_teach_is_refused_in_words(inputs: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "completion": "the mat", "label": True} for i in range(3)]
    (tmp_path / "liked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="liked and disliked"):
        run_kto(KTOConfig(**fields(inputs, tmp_path / "run", ratings=tmp_path / "liked.jsonl")))
    with pytest.raises(ConfigError, match="label_smoothing"):
        DPOConfig(**fields(inputs, tmp_path, rankings=tmp_path, label_smoothing=0.5))
    with pytest.raises(ConfigError, match="negative"):
        SimPOConfig(**fields(inputs, tmp_path, rankings=tmp_path, target_margin=-1.0))


def test_a_setting_without_effect_says_so(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DPOConfig(**fields(inputs, tmp_path, rankings=tmp_path, loss="ipo", label_smoothing=0.1))
    DPOConfig(**fields(inputs, tmp_path, rankings=tmp_path, loss="robust"))
    said = capsys.readouterr().err
    assert "no effect with `loss=ipo`" in said and "plain DPO" in said
