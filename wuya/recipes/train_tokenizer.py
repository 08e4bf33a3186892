"""Train the tokenizer: byte-level BPE (arXiv:1508.07909, section 3.2) with Qwen2's pre-tokenizer.

    wuya tokenizer --inputs books.txt.gz chats.jsonl --vocab_size 8192 --out runs/tokenizer

Reads text, JSONL(.gz), parquet, folders, `hf:` data sets or installed packages; writes <out>/{tokenizer.json,
tokenizer_config.json (with the chat template), config.yaml}, for transformers, vLLM and llama.cpp too. The same inputs
give the same file. Differs from Qwen2: text is not normalised (NFC), so that any bytes can be restored.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wuya.config import load_config, require_positive, save_config
from wuya.console import say, table, warn
from wuya.data.corpus import CorpusSource, read_documents
from wuya.errors import ConfigError, DataError
from wuya.files import BadRows, to_json
from wuya.tokenizer.bpe import Tokenizer, TrainerName, train_tokenizer
from wuya.training.inputs import inputs_of, require_same_inputs, write_inputs

SAMPLE_CHARACTERS = 1 << 20
"""Of each input, so much of its beginning measures the compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """Text -> tokenizer.json."""

    inputs: tuple[str, ...]
    """Corpora: files or folders of text, JSONL(.gz), parquet; `hf:org/name[:split[:field]]`; `package:name`."""
    out: Path
    """Folder to write."""
    vocab_size: int = 8192
    """Tokens: 256 bytes, 3 specials, the rest learned merges. GPT-2: 50,257; small models want small vocabularies."""
    trainer: TrainerName = "tokenizers"
    """Who learns the merges. `rustbpe` (`pip install 'wuya[rustbpe]'`) is several times as fast and compresses the
    same, but breaks ties between equally frequent pairs in another order: other ids."""
    text_field: str = "text"
    """Field of JSON rows, or column of parquet files, that holds the text."""
    max_bytes: int = 1_000_000_000
    """Stop reading after so much text: merges hardly change with more."""
    resume: bool = False
    """Keep the tokenizer in `out` if it was made with these settings."""
    json: bool = False
    """Print the figures as JSON instead of a table."""

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "max_bytes")
        if not self.inputs:
            raise ConfigError("there is no text to train on", hint="name it: `wuya tokenizer --inputs text.txt ...`")


def run(config: TokenizerConfig) -> Path:
    """Train, save, and say how well the tokenizer compresses each input."""
    if _is_done(config):
        say(f"`{config.out}` already holds this tokenizer; nothing to do")
        return config.out
    # 1. Learn merges from one pass over the text; a little of each input is kept to measure with
    bad = BadRows()
    samples: dict[str, list[str]] = {path: [] for path in config.inputs}
    started = time.perf_counter()
    tokenizer = train_tokenizer(_texts(config, samples, bad), vocab_size=config.vocab_size, trainer=config.trainer)
    seconds = time.perf_counter() - started
    if bad.count:
        warn(bad.summary())
    if tokenizer.vocab_size < config.vocab_size:
        raise DataError(
            f"the text holds too few different pieces for vocab_size {config.vocab_size}",
            found=f"{tokenizer.vocab_size} tokens until no pair was left",
            hint=f"give more text, or `--vocab_size {tokenizer.vocab_size}`",
        )
    # 2. Save; tokenizer.json last but for the config, whose presence says that all is there
    tokenizer.save(config.out)
    write_inputs(config.out, inputs_of(config))
    save_config(config, config.out / "config.yaml")
    # 3. Compression: more bytes a token mean shorter sequences for the same text
    rows = [{"input": path} | _compression(tokenizer, texts) for path, texts in samples.items() if texts]
    if config.json:
        report = {"out": config.out, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
        sys.stdout.write(to_json({**report, "seconds": seconds, "bad_rows": bad.count, "inputs": rows}) + "\n")
    else:
        title = f"{tokenizer.vocab_size:,} tokens learned in {seconds:.1f} s; compression on the first MB of each input"
        sys.stdout.write(f"{table(rows, title)}\n\n{config.out}\n")
    return config.out


def _is_done(config: TokenizerConfig) -> bool:
    """Whether `out` holds the tokenizer of these settings; another one is never overwritten."""
    if not (config.out / "tokenizer.json").exists():
        return False
    saved = config.out / "config.yaml"
    same = saved.is_file() and _settings(load_config(TokenizerConfig, saved)) == _settings(config)
    if config.resume and same:
        require_same_inputs(config.out, inputs_of(config), start_anew=f"`--out {config.out}-2`")
        return True
    raise ConfigError(
        f"`{config.out}` holds {'this' if same else 'another'} tokenizer already",
        hint=("keep it and go on: add `--resume`" if same else f"write elsewhere: `--out {config.out}-2`")
        + f"; or remove it: `rm -r {config.out}`",
    )


def _settings(config: TokenizerConfig) -> tuple[Any, ...]:
    return config.inputs, config.vocab_size, config.trainer, config.text_field, config.max_bytes


def _texts(config: TokenizerConfig, samples: dict[str, list[str]], bad: BadRows) -> Iterator[str]:
    """All documents up to `max_bytes`; fills `samples` on the way."""
    room = config.max_bytes
    for path in config.inputs:
        sample_room = SAMPLE_CHARACTERS
        for document in read_documents(CorpusSource(name=path, path=path, text_field=config.text_field), bad):
            text = document.text
            if sample_room > 0:
                samples[path].append(text[:sample_room])
                sample_room -= len(text)
            yield text
            room -= len(text.encode("utf-8", "replace"))
            if room <= 0:
                say(f"stopped reading in `{path}` after max_bytes = {config.max_bytes:,}")
                return


def _compression(tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    words = sum(len(text.split()) for text in texts)
    return {
        "bytes per token": sum(len(text.encode("utf-8", "replace")) for text in texts) / max(tokens, 1),
        "characters per token": sum(map(len, texts)) / max(tokens, 1),
        "tokens per word": tokens / max(words, 1),
    }
