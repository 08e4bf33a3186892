"""The hashes that a refactoring is compared by notice what was computed, and only that."""

import json
from pathlib import Path
from typing import Any

from scripts.same_bits import VARIANTS, hashes_of, recipe


def run_folder(out: Path, **row: Any) -> Path:
    (out / "model").mkdir(parents=True)
    (out / "model" / "model.safetensors").write_bytes(b"weights")
    (out / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": 1.0, "objective/kl": 0.5, **row}) + "\n")
    return out


def test_times_change_no_hash_and_metrics_and_weights_do(tmp_path: Path) -> None:
    before = hashes_of(run_folder(tmp_path / "a"))
    assert set(before) == {"model/model.safetensors", "metrics.jsonl"}
    assert hashes_of(run_folder(tmp_path / "b", time=2.0, eps=9.0)) == before
    assert (
        hashes_of(run_folder(tmp_path / "c", **{"objective/kl": 0.5000001}))["metrics.jsonl"] != before["metrics.jsonl"]
    )
    (tmp_path / "b" / "model" / "model.safetensors").write_bytes(b"weightz")
    assert hashes_of(tmp_path / "b")["model/model.safetensors"] != before["model/model.safetensors"]


def test_every_variant_is_a_config_that_its_recipe_takes(tmp_path: Path) -> None:
    for name in VARIANTS:
        assert recipe(name).make(tmp_path, tmp_path / name).rollout_batch_size == 8
