"""Every recipe that trains adapters has a learning rate for them, unless one is set."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from tests.recipes.recipe_list import RECIPES, write_inputs
from wuya import cli
from wuya.training.rates import peak_rate

TRAINED = [name for name, verb in cli.VERBS.items() if verb.module.startswith("wuya.recipes")]


def config_with_adapters(name: str) -> type | None:
    verb = cli.VERBS[name]
    config_class: type = getattr(importlib.import_module(verb.module), verb.config_class)
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    return config_class if {"lora_rank", "learning_rate"} <= names else None


BY_PROPERTY = ("sft", "reward", "dpo", "kto", "orpo", "simpo")
"""Those whose config has the rate as a property; `ppo` and `grpo` choose it where they make their models."""
WITH_ADAPTERS = {name: found for name in TRAINED if (found := config_with_adapters(name))}


def test_the_list_finds_the_recipes() -> None:
    assert {"sft", "reward", "ppo", "grpo", "dpo", "kto", "orpo", "simpo"} <= set(WITH_ADAPTERS)


@pytest.mark.parametrize("name", BY_PROPERTY)
def test_adapters_get_ten_times_the_rate_of_all_weights(name: str) -> None:
    config_class = WITH_ADAPTERS[name]
    required = {
        field.name: Path("x")
        for field in dataclasses.fields(config_class)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    whole, adapters = config_class(**required), config_class(**required, lora_rank=8)
    rates = [field for field in ("learning_rate", "value_learning_rate") if hasattr(whole, field)]
    for rate in rates:
        assert getattr(whole, f"peak_{rate}") > 0
        assert getattr(adapters, f"peak_{rate}") == pytest.approx(10 * getattr(whole, f"peak_{rate}"))
        asked = config_class(**required, lora_rank=8, **{rate: 3e-5})
        assert getattr(asked, f"peak_{rate}") == 3e-5


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_so_do_the_adapters_of_policy_gradients(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.training.run.write_report", lambda *args, **keywords: None)
    recipe = next(recipe for recipe in RECIPES if recipe.module == name)
    inputs = write_inputs(tmp_path / "inputs")
    rates = []
    for changes in ({"lora_rank": 0}, {"lora_rank": 2}, {"lora_rank": 2, "learning_rate": 3e-5}):
        chosen = {"learning_rate": 0.0, **changes}
        rows = recipe.run(inputs, tmp_path / str(len(rates)), reward=str(inputs / "rm"), **chosen)
        rates.append([row["lr"] for row in rows if "lr" in row][-1])  # PPO's value model learns alone first
    assert rates[1] == pytest.approx(10 * rates[0]) and rates[2] == pytest.approx(3e-5)


def test_a_rate_that_is_set_is_kept() -> None:
    assert peak_rate(2e-5, full=1e-6, lora_rank=16) == 2e-5
