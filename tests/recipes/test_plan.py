import dataclasses
import json
from pathlib import Path

import pytest

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.cli import main
from wuya.config import save_config
from wuya.errors import ConfigError
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.planning.machine import Machine, this_machine
from wuya.planning.plan import GIB, inference_rows, make_plan, training_rows
from wuya.recipes.plan import PlanConfig, duration, find_model, load_workload, plan_sft
from wuya.recipes.pretrain import PretrainConfig
from wuya.tokenizer.bpe import Tokenizer

LAPTOP = Machine("cpu", "a laptop", 16 * GIB, 12 * GIB, 6e10, 2e9, 2e10)


@pytest.fixture
def _known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.recipes.plan.this_machine", lambda cache, remeasure: LAPTOP)


@pytest.mark.usefixtures("_known_speed")
def test_the_command_prints_tables_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "gpt2-124m"]) == 0
    text = capsys.readouterr().out
    assert "124,439,808 parameters" in text and "int4" in text and "policy step" in text
    assert "training: fits" in text


@pytest.mark.usefixtures("_known_speed")
def test_json_has_the_same_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "gpt2-124m", "--json", "--num_tokens", "1e9"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"]["parameters"] == 124_439_808
    assert plan["inference"][0]["weights"] == 4 * 124_439_808
    assert plan["compute"]["training_flops"] == 1e9 * plan["compute"]["training_flops_per_token"]
    assert len(plan["verdict"]) == 4


def test_what_does_not_fit_is_said_with_what_would() -> None:
    big = load_workload(PlanConfig(model="gpt3-6.7b"))
    inference, training, reward, ppo = make_plan(big, LAPTOP)["verdict"]
    assert "float32 does not fit" in inference and "int8" in inference
    assert "does not fit" in training and "accelerators of 80 GiB" in training
    assert "accelerators" in ppo and "reward: AdamW float32 does not fit" in reward
    tight = dataclasses.replace(LAPTOP, free_bytes=4 * GIB)
    medium = load_workload(PlanConfig(model="gpt2-124m", batch_size=8))
    assert "checkpointing would" in make_plan(medium, tight)["verdict"][1]
    tighter = dataclasses.replace(LAPTOP, free_bytes=2 * GIB)
    assert "one trunk" in make_plan(medium, tighter)["verdict"][3]


def test_rows_that_fit_are_those_within_free_memory() -> None:
    workload = load_workload(PlanConfig(model="gpt2-1558m"))
    for row in [*inference_rows(workload, LAPTOP), *training_rows(workload, LAPTOP)]:
        assert row["fits"] == (row["total"] <= LAPTOP.free_bytes)


def test_a_recipe_config_is_planned_with_its_own_sizes(tmp_path: Path) -> None:
    config = PretrainConfig(
        data=Path("data"), tokenizer=Path("missing"), out=Path("out"), preset="demo", context_length=128,
        batch_size=32, microbatch_size=16, num_tokens=2_000_000, model={"num_layers": 6},
    )  # fmt: skip
    save_config(config, tmp_path / "pretrain.yaml")
    workload = load_workload(PlanConfig(model=str(tmp_path / "pretrain.yaml")))
    assert (workload.architecture.num_layers, workload.architecture.context_length) == (6, 128)
    assert (workload.batch_size, workload.context_length, workload.num_tokens) == (16, 128, 2_000_000)


def test_an_architecture_in_yaml_and_its_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    fields = dataclasses.asdict(find_model("tiny")[0])
    save_config(find_model("tiny")[0], file)
    assert find_model(str(file))[0] == find_model("tiny")[0]
    for text, message in (
        (json.dumps({**fields, "depth": 3}), "depth"),
        ('{"num_layers": 1, "model_dim": 8, "num_heads": 1}', "missing"),
        ("[1]", "no settings"),
        ("{out: x}", "names no model"),
        (": :", "YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            find_model(str(file))


@pytest.mark.parametrize("name", ["gpt9", "some/where"])
def test_unknown_models_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        find_model(name)


def test_speeds_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.planning.machine.SECONDS", 0.01)
    monkeypatch.setattr("wuya.planning.machine.READ_FLOATS", 1 << 20)
    cache = tmp_path / "machine.json"
    first = this_machine(cache)
    assert first.float32_flops > 1e8 and first.read_bytes_per_second > 1e8 and first.memory_bytes > first.free_bytes / 2
    assert this_machine(cache).float32_flops == first.float32_flops
    cache.write_text("{")
    assert this_machine(cache).float32_flops > 0


def test_durations_are_readable() -> None:
    assert [duration(s) for s in (4, 720, 12_240, 500_000, 2.46e8)] == [
        "4 s",
        "12 min",
        "3.4 h",
        "5.8 days",
        "7.79 years",
    ]


@pytest.mark.usefixtures("_known_speed")
def test_sft_is_planned_with_the_rows_it_lays_out(
    corpus: Path, tiny_model: dict[str, int], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same demonstrations and settings: `wuya sft` says what `wuya plan` promised, word for word."""
    base = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 512}))
    save_checkpoint(corpus / "base", base, tokenizer, recipe="test")
    command = ["--base", str(corpus / "base"), "--demonstrations", str(corpus / "demonstrations.jsonl")]
    assert main(["sft", *command, "--out", str(corpus / "sft"), "--num_samples", "0", "--device", "cpu"]) == 0
    done = capsys.readouterr().err
    for planned in ([str(corpus / "base"), *command[2:]], [str(corpus / "sft" / "config.yaml")]):
        assert main(["plan", *planned, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["model"]["context_length"] == plan["sft"]["context_length"] == 64
        assert plan["model"]["batch_size"] == plan["sft"]["microbatch_size"]
        promised = plan["verdict"][-1].removeprefix("sft: fits: ").partition(" in one pass")[0]
        assert promised in done


def test_a_yaml_that_names_demonstrations_but_no_base_is_planned_without_rows(tmp_path: Path) -> None:
    (tmp_path / "reward.yaml").write_text("{preset: tiny, demonstrations: somewhere.jsonl}")
    assert plan_sft(PlanConfig(model=str(tmp_path / "reward.yaml")), LAPTOP) is None
