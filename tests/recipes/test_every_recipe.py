"""Claims that hold for every recipe that trains: bf16 stays near float32, resuming changes nothing, and so on."""

import ast
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import wuya.recipes
from tests.recipes.processes import two_ranks
from tests.recipes.recipe_list import RECIPES, TinyRecipe, sft, write_inputs
from wuya.checkpoints.checkpoint import load_any
from wuya.checkpoints.hf_folder import read_provenance
from wuya.config import save_config
from wuya.data.shards import TokenShards, write_shards
from wuya.errors import ConfigError, DataError
from wuya.training.run import Run
from wuya.verbs import VERBS

ONE_PER_MODULE = pytest.mark.parametrize(
    "recipe", {recipe.module: recipe for recipe in RECIPES}.values(), ids=lambda recipe: recipe.id
)
WHOLE = tuple(recipe for recipe in RECIPES if not recipe.id.endswith(("-lora", "-nf4", "-int8")))
"""What one process and two train alike (adapters change nothing there)."""
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
UNCOMPARED = {"time", "eps", "time/sampling", "time/training", "tokens_per_second", "alarms"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


@pytest.fixture(autouse=True)
def _only_documented_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run logs what it was opened with, and nothing else."""
    log = Run.log

    def checked(run: Run, step: int, values: Mapping[str, object]) -> None:
        assert set(values) <= set(run.metrics), f"document {set(values) - set(run.metrics)}"
        log(run, step, values)

    monkeypatch.setattr(Run, "log", checked)


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in UNCOMPARED} for row in rows]


def last(rows: list[dict[str, Any]], name: str) -> float:
    return float([row[name] for row in rows if name in row][-1])


def same_bits(a: Path, b: Path) -> bool:
    first, second = (load_any(folder)[0].state_dict() for folder in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def same_values(a: Path, b: Path) -> bool:
    first, second = (load_any(folder)[0].state_dict() for folder in (a, b))
    return all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def newest(out: Path) -> Path:
    return sorted((out / "checkpoints").iterdir())[-1]


def test_the_list_has_every_recipe_that_trains() -> None:
    training = set()
    for path in Path(wuya.recipes.__path__[0]).glob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        loops = {
            ("wuya.training.run", "Run"),
            ("wuya.rlhf.preference_training", "train"),
            ("wuya.evals.policy_run", "PolicyRun"),
        }
        if loops & {(node.module, name.name) for node in imports for name in node.names}:
            training.add(path.stem)
    assert {"ppo", "grpo", "sft", "pretrain", "dpo", "kto"} <= training
    assert training <= {recipe.module for recipe in RECIPES}, "add the recipe to tests/recipes/recipe_list.py"


@EVERY_RECIPE
def test_bf16_is_finite_and_near_float32(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    wide = recipe.run(inputs, tmp_path / "float32")
    narrow = recipe.run(inputs, tmp_path / "bfloat16", dtype="bfloat16")
    assert [sorted(row) for row in narrow] == [sorted(row) for row in wide]
    assert all(math.isfinite(value) for row in narrow for value in row.values() if isinstance(value, float))
    if not recipe.samples:
        assert last(narrow, recipe.loss) == pytest.approx(last(wide, recipe.loss), rel=0.05)
        assert last(narrow, recipe.loss) != last(wide, recipe.loss), "it ran in float32"
    else:  # other tokens may be sampled; how far a step moves the policy is the same
        assert last(narrow, recipe.loss) == pytest.approx(last(wide, recipe.loss), rel=0.5)
        assert 0.3 < last(narrow, "policy/approxkl_avg") / last(wide, "policy/approxkl_avg") < 3


@EVERY_RECIPE
def test_resumed_in_bf16_it_ends_with_the_bits_of_a_straight_run(
    recipe: TinyRecipe, inputs: Path, tmp_path: Path
) -> None:
    straight = recipe.run(inputs, tmp_path / "straight", dtype="bfloat16")
    changes = {"dtype": "bfloat16", "save_every": 1, "keep_last_n": 0}
    recipe.run(inputs, tmp_path / "stopped", **changes)
    assert len(list((tmp_path / "stopped" / "checkpoints").iterdir())) == recipe.steps
    shutil.rmtree(newest(tmp_path / "stopped"))
    resumed = recipe.run(inputs, tmp_path / "stopped", **changes, resume=True)
    assert same_bits(newest(tmp_path / "straight"), newest(tmp_path / "stopped"))
    assert numbers(resumed) == numbers(straight)


@EVERY_RECIPE
def test_recomputing_activations_changes_nothing(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    straight = recipe.run(inputs, tmp_path / "kept")
    again = recipe.run(inputs, tmp_path / "again", activation_checkpointing=True)
    for kept, computed in zip(numbers(straight), numbers(again), strict=True):
        assert computed == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in kept.items()}
    assert same_values(newest(tmp_path / "kept"), newest(tmp_path / "again"))


def change(path: Path) -> None:
    """Put something else where an input was, so that it can still be read."""
    if path.is_file():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        path.write_text(path.read_text(encoding="utf-8") + first + "\n", encoding="utf-8")
    elif (path / "manifest.json").exists():
        tokens = TokenShards(path)
        write_shards(path, [tokens.window(1, len(tokens) - 1)], vocab_size=tokens.vocab_size)
    else:
        file = path / ("config.json" if (path / "config.json").exists() else "tokenizer.json")
        file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        (path / "checksums.json").unlink(missing_ok=True)  # another checkpoint, not a damaged one


@ONE_PER_MODULE
def test_resuming_on_inputs_that_changed_is_refused_naming_each(
    recipe: TinyRecipe, inputs: Path, tmp_path: Path
) -> None:
    own, out = tmp_path / "inputs", tmp_path / "run"
    shutil.copytree(inputs, own)
    recipe.run(own, out, save_every=1, keep_last_n=0)
    read = json.loads((out / "inputs.json").read_text())
    written = read_provenance(newest(out))
    assert read and written["inputs"] == read
    assert all(written["parents"][name]["sha256"] == read[name]["sha256"] for name in written["parents"])
    shutil.rmtree(newest(out))
    for name, was in read.items():
        place = Path(was["path"])
        kept = place.with_name(f"kept-{place.name}")
        (shutil.copytree if place.is_dir() else shutil.copy)(place, kept)
        change(place)
        with pytest.raises(ConfigError, match="has changed since it was started") as error:
            recipe.run(own, out, save_every=1, keep_last_n=0, resume=True)
        assert f"{name} `{place}`" in str(error.value)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        kept.rename(place)
    recipe.run(own, out, save_every=1, keep_last_n=0, resume=True)  # all is back: it goes on


READ_SHARDS = (
    *(recipe for recipe in RECIPES if recipe.id in ("pretrain", "ppo-ptx")),
    TinyRecipe(
        id="sft-ptx", module="sft", config="SFTConfig",
        fields=lambda inputs: {**sft(inputs), "ptx_share": 0.5, "ptx_data": inputs / "train"},
    ),
)  # fmt: skip


@pytest.mark.parametrize("recipe", READ_SHARDS, ids=lambda recipe: recipe.id)
@pytest.mark.parametrize("shards", ["train", "validation"])
def test_shards_of_another_tokenizer_are_refused_whatever_their_size(
    recipe: TinyRecipe, shards: str, inputs: Path, tmp_path: Path
) -> None:
    own = tmp_path / "inputs"
    shutil.copytree(inputs, own)
    if str(own / shards) not in str(recipe.fields(own)):
        pytest.skip("it reads no such shards")
    manifest = json.loads((own / shards / "manifest.json").read_text())
    manifest["tokenizer_fingerprint"] = "f" * 64
    (own / shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="belong to another tokenizer"):
        recipe.run(own, tmp_path / "out")


@pytest.mark.parametrize("recipe", WHOLE, ids=lambda recipe: recipe.id)
def test_two_processes_train_as_one(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    """Data parallelism is a sum: over gloo here, over NCCL below."""
    alone = recipe.run(inputs, tmp_path / "one")

    def work(rank: int) -> None:
        recipe.run(inputs, tmp_path / "two")

    assert two_ranks(work) == [0, 0]
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert last(rows, recipe.loss) == pytest.approx(last(alone, recipe.loss), rel=2e-3)
    assert same_values(newest(tmp_path / "one"), newest(tmp_path / "two"))
    assert same_values(tmp_path / "one" / "model", tmp_path / "two" / "model")  # the same choice, where there is one


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NEEDS_TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.gpu
@NEEDS_GPU
@EVERY_RECIPE
def test_on_cuda_in_bf16_it_is_near_float32_on_the_cpu(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    wide = recipe.run(inputs, tmp_path / "cpu")
    narrow = recipe.run(inputs, tmp_path / "cuda", device="cuda", dtype="bfloat16")
    assert all(math.isfinite(value) for row in narrow for value in row.values() if isinstance(value, float))
    assert last(narrow, recipe.loss) == pytest.approx(last(wide, recipe.loss), rel=0.5 if recipe.samples else 0.05)


@pytest.mark.gpu
@NEEDS_TWO_GPUS
@pytest.mark.parametrize("recipe", WHOLE, ids=lambda recipe: recipe.id)
def test_two_processes_on_nccl_train_as_one(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    alone = recipe.run(inputs, tmp_path / "one", device="cuda", dtype="float32")
    verb = next(name for name, verb in VERBS.items() if verb.module == f"wuya.recipes.{recipe.module}")
    save_config(recipe.make(inputs, tmp_path / "two", device="cuda"), tmp_path / "two.yaml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "wuya"]
    command = [*launch, verb, "--config", str(tmp_path / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert last(rows, recipe.loss) == pytest.approx(last(alone, recipe.loss), rel=0.5 if recipe.samples else 2e-2)
