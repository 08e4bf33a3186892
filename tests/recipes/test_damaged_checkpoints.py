"""A checkpoint with one wrong byte is never trained from: the run goes on from the one before, to the same bits."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recipes.recipe_list import RECIPES, TinyRecipe, write_inputs
from tests.recipes.test_every_recipe import newest, same_bits
from wuya.checkpoints.checkpoint import load_any
from wuya.checkpoints.checksums import damage
from wuya.errors import CheckpointError

ONE_PER_MODULE = {recipe.module: recipe for recipe in reversed(RECIPES)}.values()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


def flip(file: Path) -> None:
    """Change the lowest bit of the byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("recipe", ONE_PER_MODULE, ids=lambda recipe: recipe.id)
def test_every_file_is_checked_and_a_run_goes_on_from_the_last_whole_checkpoint(
    recipe: TinyRecipe, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    changes = {"save_every": 1, "keep_last_n": 0}
    recipe.run(inputs, straight, **changes)
    shutil.copytree(straight, stopped)
    folder = newest(stopped)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"model.safetensors", "state.pt", "config.json", "wuya.json"} <= {file.name for file in files}
    for file in files:
        was = file.read_bytes()
        for harm in (flip, cut, Path.unlink) if file.name != "checksums.json" else (cut,):
            harm(file)
            assert str(file) in damage(folder)
            file.write_bytes(was)
    assert not damage(folder)
    for name, harm in (("model.safetensors", flip), ("resume/state.pt", flip), ("resume/state.pt", cut)):
        harm(newest(stopped) / name)
        recipe.run(inputs, stopped, resume=True, **changes)
        assert f"passing over a damaged checkpoint: `{folder / name}` differs" in capsys.readouterr().err
        assert same_bits(newest(straight), newest(stopped))
    flip(stopped / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"damaged: `.*model.safetensors` differs from what was written"):
        load_any(stopped)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("recipe", ONE_PER_MODULE, ids=lambda recipe: recipe.id)
@pytest.mark.parametrize(
    "name, harm", [("model.safetensors", cut), ("resume/state.pt", flip), ("model.safetensors", remove)]
)
def test_checkpoints_of_an_older_version_without_digests_are_passed_over_when_cut(
    recipe: TinyRecipe, name: str, harm: Callable[[Path], None], inputs: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    changes = {"save_every": 1, "keep_last_n": 0}
    recipe.run(inputs, straight, **changes)
    shutil.copytree(straight, stopped)
    for listed in stopped.rglob("checksums.json"):
        listed.unlink()
    folder = newest(stopped)
    harm(folder / name)
    (stopped / "checkpoints" / "step_000099").mkdir()  # nothing but a name
    recipe.run(inputs, stopped, resume=True, **changes)
    shown = capsys.readouterr().err
    assert f"passing over a damaged checkpoint: `{folder}" in shown and "step_000099` holds no weights" in shown
    assert same_bits(newest(straight), newest(stopped))
