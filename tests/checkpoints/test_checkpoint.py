"""Checkpoint folders: round trips, provenance, which folder a path means, and every way one can be broken."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.architectures import ARCHITECTURES, random_ids, random_model
from wuya.checkpoints import checkpoint
from wuya.checkpoints.checkpoint import load_checkpoint, load_scalar_model, resolve_checkpoint, save_checkpoint
from wuya.errors import CheckpointError, RunError
from wuya.files import sha256_file
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the quick brown fox jumps over the lazy dog " * 3], vocab_size=290)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_checkpoint(tmp_path / "model", random_model("qwen3"), tokenizer, recipe="pretrain")
    return tmp_path / "model"


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_language_models_come_back_bit_for_bit(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(name)
    save_checkpoint(tmp_path / "model", model, tokenizer)
    again, again_tokenizer = load_checkpoint(tmp_path / "model")
    ids_BT = random_ids(model.config, 2, 30)
    assert again.config == model.config
    assert torch.equal(again.eval()(ids_BT), model(ids_BT))
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert again_tokenizer.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_reward_models_come_back_bit_for_bit(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = ScalarModel(random_model(name)).eval()
    model.bias.fill_(-1.5)
    save_checkpoint(tmp_path / "reward", model, tokenizer)
    again, _ = load_scalar_model(tmp_path / "reward")
    ids_BT, last_B = random_ids(model.trunk.config, 2, 30), torch.tensor([29, 3])
    assert torch.equal(again.eval().scores(ids_BT, last_B), model.scores(ids_BT, last_B))
    assert again.bias.item() == -1.5


def test_weights_are_copied_out_of_the_file(folder: Path) -> None:
    """A view of the file would change, or crash, when the file is replaced."""
    model, _ = load_checkpoint(folder)
    before = model.embedding.weight.clone()
    (folder / "model.safetensors").write_bytes(b"\0" * 100_000)
    assert torch.equal(model.embedding.weight, before)
    with torch.no_grad():
        model.embedding.weight.add_(1)


def test_dtype_is_an_argument(folder: Path) -> None:
    model, _ = load_checkpoint(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.cos_TC.dtype == torch.bfloat16


def test_wuya_json_says_where_a_model_came_from(folder: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = tmp_path / "snapshot.jsonl"
    data.write_text("{}\n")
    parents = {"policy": folder, "data": data}
    save_checkpoint(
        tmp_path / "child", random_model("qwen3"), tokenizer, recipe="sft", parents=parents, extra={"step": 7}
    )
    facts = json.loads((tmp_path / "child" / "wuya.json").read_text())
    assert facts["recipe"] == "sft" and facts["extra"] == {"step": 7} and facts["created_at"]
    assert facts["parents"]["policy"]["sha256"] == sha256_file(folder / "model.safetensors")
    assert facts["parents"]["data"] == {"path": str(data), "sha256": sha256_file(data)}


def test_generation_config_ends_at_the_turn(folder: Path, tokenizer: Tokenizer) -> None:
    facts = json.loads((folder / "generation_config.json").read_text())
    assert facts == {"eos_token_id": [tokenizer.eos_id, tokenizer.document_end_id], "pad_token_id": tokenizer.pad_id}


def test_a_failed_save_leaves_the_old_checkpoint(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sha256_file(folder / "model.safetensors")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full_disk)
    with pytest.raises(RunError, match="no space left"):
        save_checkpoint(folder, random_model("qwen3", seed=5), tokenizer)
    assert sha256_file(folder / "model.safetensors") == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_under_safetensors_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.write_tensors({"a": torch.zeros(3)}, tmp_path / "missing" / "x.safetensors")


def test_files_are_readable_by_others(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


# ---- which folder a path means
def test_a_run_folder_means_its_newest_step(tmp_path: Path, folder: Path) -> None:
    for step in ("step_000002", "step_000010", "step_000100"):
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
    for step in ("step_000002", "step_000010"):  # step 100 was never finished
        (tmp_path / "run" / "checkpoints" / step / "config.json").write_text("{}")
    assert resolve_checkpoint(tmp_path / "run").name == "step_000010"
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    assert resolve_checkpoint(tmp_path / "run").name == "model"
    assert resolve_checkpoint(folder) == folder


def test_a_path_without_anything_is_named_with_its_neighbours(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*mdel(.|\n)*holds: model"):
        resolve_checkpoint(folder.with_name("mdel"))


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        resolve_checkpoint(folder / "model.safetensors")


def test_a_device_or_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in ("/dev/zero", "/dev/null", tmp_path / "pipe.gguf"):
        with pytest.raises(CheckpointError, match=r"is not a checkpoint(.|\n)*neither a file nor a folder"):
            resolve_checkpoint(path)


def test_a_folder_beside_the_steps_is_none_of_them(folder: Path, tmp_path: Path) -> None:
    steps = tmp_path / "run" / "checkpoints"
    for name in ("step_000002", "step_3.tmp", "step_4 (copy)"):
        shutil.copytree(folder, steps / name)
    assert resolve_checkpoint(tmp_path / "run").name == "step_000002"


# ---- broken folders
@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named_with_what_is_there(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"`{missing}` is missing \(found: .*tokenizer.json") as error:
        load_checkpoint(folder)
    assert "--resume" in error.value.hint and error.value.exit_code == 2


@pytest.mark.parametrize("keep", [0, 4, 500, -100])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(folder)


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights.*pytorch_model\.bin"):
        load_checkpoint(folder)


def test_broken_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match=r"config\.json.*JSON"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        load_checkpoint(folder)


def test_foreign_architectures_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(CheckpointError, match="bert"):
        load_checkpoint(folder)


def test_a_config_without_a_needed_field_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        load_checkpoint(folder)


def test_wrong_shapes_are_refused(folder: Path) -> None:
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(hf | {"vocab_size": 999}))
    with pytest.raises(CheckpointError, match=r"embedding\.weight \(320, 32\).*\(999, 32\)"):
        load_checkpoint(folder)


def test_missing_and_extra_tensors_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors | {"model.layers.0.extra": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no place for.*layers\.0\.extra"):
        load_checkpoint(folder)
    tensors.pop("model.layers.1.self_attn.k_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing.*layers\.1\.self_attn\.k_proj"):
        load_checkpoint(folder)


def test_our_own_form_with_wrong_names_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "model", random_model("speedrun"), tokenizer)
    save_file({"x": torch.zeros(2)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json"):
        load_checkpoint(tmp_path / "model")


def test_another_tokenizer_is_refused(folder: Path) -> None:
    train_tokenizer(["an entirely different text about cats and mice " * 3], vocab_size=280).save(folder)
    with pytest.raises(CheckpointError, match="vocabulary mismatch"):
        load_checkpoint(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [letters[i : i + n] for n in (3, 4, 5) for i in range(20)]
    bigger = train_tokenizer([" ".join(words)], vocab_size=325)
    assert bigger.vocab_size > 320
    with pytest.raises(CheckpointError, match="325 tokens, 320 embeddings"):
        save_checkpoint(folder.with_name("other"), random_model("qwen3"), bigger)
    (folder / "wuya.json").unlink()  # as in a foreign folder
    bigger.save(folder)
    with pytest.raises(CheckpointError, match="325 tokens, 320 embeddings"):
        load_checkpoint(folder)


def test_reward_models_and_language_models_are_not_taken_for_each_other(
    folder: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(CheckpointError, match="is a language model"):
        load_scalar_model(folder)
    save_checkpoint(tmp_path / "reward", ScalarModel(random_model("qwen3")), tokenizer)
    with pytest.raises(CheckpointError, match="is a reward model"):
        load_checkpoint(tmp_path / "reward")


def test_a_classifier_with_several_classes_is_no_reward_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "reward", ScalarModel(random_model("qwen3")), tokenizer)
    file = tmp_path / "reward" / "model.safetensors"
    save_file(load_file(file) | {"score.weight": torch.zeros(3, 32)}, file)
    with pytest.raises(CheckpointError, match="has 3"):
        load_scalar_model(tmp_path / "reward")
