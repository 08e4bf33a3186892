import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml

from wuya import config as c
from wuya.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample."""

    temperature: float = 1.0
    """Divides the logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A corpus."""

    name: str
    """Its name."""
    weight: float = 1.0
    """Its share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig:
    """Do a toy thing.

    Reads nothing."""

    POSITIONAL: ClassVar[str] = "checkpoint"

    checkpoint: Path
    """Where the model is."""
    learning_rate: float = 1e-3
    """Peak rate; 10 % of it at the end."""
    resume: bool = False
    """Go on."""
    dtype: Literal["auto", "float32"] = "auto"
    """Number format."""
    max_steps: int | None = None
    """Stop early."""
    sampling: Sampling = Sampling()
    """Nested settings."""
    corpora: tuple[Source, ...] = ()
    """Sources and weights."""
    prompts: tuple[Path, ...] = ()
    """Files."""
    words: list[str] = field(default_factory=list)
    """Words."""
    batch_size: int = 8
    """Rows."""

    def __post_init__(self) -> None:
        c.require_positive(self, "learning_rate", "max_steps")
        c.require_divides(self, "batch_size", by="_four")

    @property
    def _four(self) -> int:
        return 4


def parse(*argv: str) -> ToyConfig:
    return c.parse_config(ToyConfig, argv, "wuya toy")


def refused(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_flags_override_yaml_which_overrides_defaults(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "checkpoint: runs/sft\nlearning_rate: 1e-5\nsampling: {temperature: 0.7}\n"
        "corpora: [{name: chat, weight: 2}]\nresume: true\n"
    )
    config = parse("--config", str(file), "--learning_rate", "3e-4")
    assert config == ToyConfig(
        checkpoint=Path("runs/sft"),
        learning_rate=3e-4,
        sampling=Sampling(temperature=0.7),
        corpora=(Source(name="chat", weight=2.0),),
        resume=True,
    )


def test_what_people_type_is_understood() -> None:
    config = parse(
        "a", "--learning-rate=1e-2", "--resume", "--prompts", "x", "y", "--words", "hello", "--max_steps", "3"
    )
    assert config == ToyConfig(
        checkpoint=Path("a"),
        learning_rate=0.01,
        resume=True,
        prompts=(Path("x"), Path("y")),
        words=["hello"],
        max_steps=3,
    )
    assert parse("a", "--no-resume") == parse("a", "--resume=false") == ToyConfig(checkpoint=Path("a"))
    assert parse("a", "--words", "[b, c]").words == ["b", "c"]
    assert parse("a", "--sampling.temperature", "0.5").sampling.temperature == 0.5
    assert parse("a", "--corpora", '[{"name": "x"}]').corpora == (Source(name="x"),)


def test_a_flag_that_stands_alone_leaves_the_next_word_to_the_first_field() -> None:
    assert parse("--resume", "a") == parse("a", "--resume") == ToyConfig(checkpoint=Path("a"), resume=True)
    assert (
        parse("--resume", "false", "--checkpoint", "a") == parse("--no_resume", "a") == ToyConfig(checkpoint=Path("a"))
    )
    assert "unexpected argument `b`" in refused("a", "--resume", "b")


def test_unknown_keys_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    assert "unknown setting `--learning_rat`" in (text := refused("a", "--learning_rat", "1"))
    assert "did you mean `--learning_rate`?" in text
    file = tmp_path / "a.yaml"
    for content, unknown, nearest in [
        ("lerning_rate: 1", "lerning_rate", "learning_rate"),
        ("sampling: {temp: 1}", "temp", "temperature"),
        ("corpora: [{name: a, wieght: 1}]", "wieght", "weight"),
    ]:
        file.write_text(f"checkpoint: a\n{content}\n")
        text = refused("--config", str(file))
        assert f"unknown setting `{unknown}` in `{file}`" in text and f"did you mean `{nearest}`?" in text


def test_wrong_values_name_the_setting_and_what_it_takes() -> None:
    assert "`--learning_rate`" in (text := refused("a", "--learning_rate", "fast")) and "Got value: fast" in text
    assert "one of 'auto', 'float32'" in refused("a", "--dtype", "float16")
    assert "missing `--checkpoint`" in refused()
    assert "unexpected argument `b`" in refused("a", "b")
    assert "`checkpoint` comes first" in refused("--learning_rate", "1", "b")
    assert "does not exist" in refused("--config", "nope.yaml")
    assert "`learning_rate` must be greater than 0 (found: -1.0)" in refused("a", "--learning_rate=-1")
    assert "`batch_size` must be a multiple of" in (text := refused("a", "--batch_size", "9"))
    assert "try `--batch_size 8`" in text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FromToConfig:
    """Turn one file into another."""

    POSITIONAL: ClassVar[str] = "source"

    source: Path
    """What to read."""
    out: Path
    """What to write."""


def test_a_second_value_without_a_flag_is_put_behind_the_flag_that_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        c.parse_config(FromToConfig, ["a", "b.gguf"], prog="wuya toy")
    assert "unexpected argument `b.gguf`" in str(caught.value) and "`wuya toy a --out b.gguf`" in str(caught.value)
    with pytest.raises(ConfigError, match="list the fields"):
        c.parse_config(FromToConfig, ["a", "b", "--out", "c"], prog="wuya toy")


@pytest.mark.parametrize("content", ["a: b: c", "[1, 2]", "\x00", "just words"])
def test_a_file_that_is_not_a_config_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    assert "bad.yaml" in refused("--config", str(tmp_path / "bad.yaml"))


def test_save_and_load_give_an_equal_config(tmp_path: Path) -> None:
    config = parse("a", "--words", "1", "true", "", "--prompts", "x", "--sampling.temperature", "0.25")
    assert config.words == ["1", "true", ""]
    c.save_config(config, tmp_path / "config.yaml")
    assert c.load_config(ToyConfig, tmp_path / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == c.to_dict(config)


def test_print_config_is_yaml_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("a", "--learning_rate", "0.5", "--print_config")
    assert stop.value.code == 0
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert parse("--config", str(tmp_path / "a.yaml")) == parse("a", "--learning_rate", "0.5")


def test_help_shows_every_field_with_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "<class" not in text and "Reads nothing." in text
    for item in dataclasses.fields(ToyConfig):
        assert f"--{item.name}" in text
    assert "Peak rate; 10 % of it at the end." in " ".join(text.split())
    assert "usage: wuya toy [CHECKPOINT]" in text
