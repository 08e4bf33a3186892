"""`wuya tokenizer`: a folder that loads, figures on stdout, nothing overwritten."""

import json
from pathlib import Path

import pytest

from wuya.errors import ConfigError, DataError
from wuya.recipes.train_tokenizer import TokenizerConfig, run
from wuya.tokenizer.bpe import Tokenizer


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and the dog sat on the long red log\n" * 30)
    return str(path)


def test_trains_saves_and_reports_compression(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(TokenizerConfig(inputs=(text,), vocab_size=280, out=tmp_path / "tok"))
    tokenizer = Tokenizer.load(out)
    assert tokenizer.vocab_size == 280
    made = {"tokenizer.json", "tokenizer_config.json", "config.yaml", "inputs.json"}
    assert {file.name for file in out.iterdir()} == made
    assert "bytes per token" in capsys.readouterr().out
    run(TokenizerConfig(inputs=(text,), vocab_size=280, out=tmp_path / "again", json=True))
    whole = Path(text).read_text()
    report = json.loads(capsys.readouterr().out)
    assert report["fingerprint"] == tokenizer.fingerprint
    assert report["inputs"][0]["bytes per token"] == pytest.approx(len(whole) / len(tokenizer.encode(whole)))


def test_an_existing_tokenizer_is_kept_with_resume_and_never_overwritten(text: str, tmp_path: Path) -> None:
    config = TokenizerConfig(inputs=(text,), vocab_size=280, out=tmp_path / "tok")
    run(config)
    with pytest.raises(ConfigError, match="holds this tokenizer already"):
        run(config)
    assert run(TokenizerConfig(inputs=(text,), vocab_size=280, out=tmp_path / "tok", resume=True)) == tmp_path / "tok"
    Path(text).write_text(Path(text).read_text() + "more\n")
    with pytest.raises(ConfigError, match="has changed since it was started: inputs"):
        run(TokenizerConfig(inputs=(text,), vocab_size=280, out=tmp_path / "tok", resume=True))
    with pytest.raises(ConfigError, match="another tokenizer"):
        run(TokenizerConfig(inputs=(text,), vocab_size=281, out=tmp_path / "tok", resume=True))


def test_max_bytes_stops_reading(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("zzzzzz " * 100)
    run(
        TokenizerConfig(inputs=(text, str(tmp_path / "other.txt")), vocab_size=270, out=tmp_path / "tok", max_bytes=100)
    )
    assert "stopped reading" in capsys.readouterr().err
    assert "zz" not in Tokenizer.load(tmp_path / "tok")._backend.get_vocab()


def test_too_little_text_or_none_is_an_error_that_leaves_nothing(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few different pieces"):
        run(TokenizerConfig(inputs=(text,), vocab_size=5000, out=tmp_path / "tok"))
    with pytest.raises(ConfigError, match="no text to train on"):
        TokenizerConfig(inputs=(), out=tmp_path / "tok")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no text"):
        run(TokenizerConfig(inputs=(str(tmp_path / "empty.txt"),), vocab_size=300, out=tmp_path / "tok"))
    with pytest.raises(DataError, match="does not exist"):
        run(TokenizerConfig(inputs=("missing.txt",), vocab_size=300, out=tmp_path / "tok"))
    assert not (tmp_path / "tok").exists()
