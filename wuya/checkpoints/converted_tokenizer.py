"""Tokenizers in their older files (vocab.json and merges.txt, SentencePiece's), read through `transformers`."""

import shutil
import tempfile
from pathlib import Path

from wuya.errors import DataError
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.foreign import read_settings

OLD_FILES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.vocab")


def is_convertible(folder: Path) -> bool:
    """Whether a folder has a tokenizer, but none as tokenizer.json."""
    return not (folder / "tokenizer.json").is_file() and any((folder / name).is_file() for name in OLD_FILES)


def convert_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder without tokenizer.json; a checkpoint that is saved with it has one."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            f"the tokenizer in `{folder}` is none that wuya reads: there is no tokenizer.json",
            hint="install what converts it: `pip install 'wuya[hf]'`",
        ) from error
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        try:
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).save_pretrained(place)
        except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
            raise DataError(
                f"transformers cannot convert the tokenizer in `{folder}`",
                found=str(error).strip().splitlines()[0][:200],
                hint="its own Python code is never run: use a checkpoint of this model that comes with tokenizer.json"
                if "auto_map" in read_settings(folder / "tokenizer_config.json")
                else "SentencePiece files need two packages more: `pip install sentencepiece protobuf`",
            ) from error
        if not (place / "tokenizer.json").is_file():
            raise DataError(
                f"the tokenizer in `{folder}` has no form as tokenizer.json",
                found=", ".join(sorted(item.name for item in place.iterdir())),
                hint="use a checkpoint of this model that comes with tokenizer.json",
            )
        for file in ("generation_config.json", "config.json"):  # further ends of an answer may be named there
            if (folder / file).is_file():
                shutil.copy(folder / file, place / file)
        return Tokenizer.load(place)
