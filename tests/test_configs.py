"""Every file in configs/ is a valid config of its command."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from wuya import cli
from wuya.config import parse_config

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_loads(path: Path) -> None:
    name = path.stem.partition("-")[0]
    verb = cli.VERBS[name]
    config_class = getattr(importlib.import_module(verb.module), verb.config_class)
    required = [
        f"--{field.name}=somewhere"
        for field in dataclasses.fields(config_class)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    config = parse_config(config_class, ["--config", str(path), *required], f"wuya {name}")
    assert dataclasses.is_dataclass(config)


def test_names_say_the_command_and_the_size() -> None:
    assert len(FILES) >= 10
    assert all(path.stem.partition("-")[0] in cli.VERBS and "-" in path.stem for path in FILES)
    assert not [path.name for path in CONFIGS.iterdir() if path.suffix not in {".yaml", ".md"}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_config_says_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
