"""Training a byte-pair tokenizer and encoding with it, against tokenizers, tiktoken and rustbpe.

    python -m benchmarks.tokenizer                       # the demo's chats; or --text book.txt.gz --megabytes 20

Peers: rustbpe (`pip install 'wuya[rustbpe]'`; left out where it is missing) and dependencies of ours. All encoders
hold the same vocabulary, ours, and must give the same tokens. rustbpe learns its own, with the same pre-tokenizer: its
merges must compress as well (within 1 %).
"""

import gzip
import os
from pathlib import Path

import tiktoken
import torch
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from benchmarks.common import Side, alternate, finish, parser_of, row_of
from wuya.data.chitchat import load_chats, transcript
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--text", type=Path, help="a text file, .gz too; default: the chats of chitchat-dataset")
    parser.add_argument("--megabytes", type=float, default=20, help="of text at most")
    parser.add_argument("--vocab_size", type=int, default=8192)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    documents = load_documents(arguments.text, int(arguments.megabytes * 1e6))
    num_bytes = sum(len(document.encode()) for document in documents)
    ours = train_tokenizer(documents, vocab_size=arguments.vocab_size)
    twin = Backend.from_str(ours.to_json())
    tiktokens = tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=mergeable_ranks(ours), special_tokens={})
    training: dict[str, Side] = {
        "ours": lambda: void(train_tokenizer(documents, vocab_size=arguments.vocab_size)),
        "tokenizers": lambda: void(train_tokenizers(documents, arguments.vocab_size)),
    }
    encoding: dict[str, Side] = {
        "ours": lambda: void(ours.encode_batch(documents)),
        "tokenizers": lambda: void(twin.encode_batch_fast(documents, add_special_tokens=False)),
        "tiktoken": lambda: void(tiktokens.encode_ordinary_batch(documents, num_threads=arguments.threads)),
    }
    ids = ours.encode_batch(documents)
    assert ids == [e.ids for e in twin.encode_batch(documents, add_special_tokens=False)], "tokenizers differs"
    shift = len(ours.special_ids)  # ours begin with the specials
    assert ids == [[id + shift for id in row] for row in tiktokens.encode_ordinary_batch(documents)], "tiktoken differs"
    checks: dict[str, object] = {"bytes a token": round(num_bytes / sum(map(len, ids)), 3), "same tokens": True}
    try:
        rust = train_rustbpe(documents, arguments.vocab_size)
    except ImportError:
        print("rustbpe is not installed: left out")
    else:
        training["rustbpe"] = lambda: void(train_rustbpe(documents, arguments.vocab_size))
        training["ours, rustbpe"] = lambda: void(
            train_tokenizer(documents, vocab_size=arguments.vocab_size, trainer="rustbpe")
        )
        encoding["rustbpe"] = lambda: void(rust.batch_encode(documents))
        rust_ratio = num_bytes / sum(map(len, rust.batch_encode(documents)))
        checks["bytes a token, rustbpe"] = round(rust_ratio, 3)
        assert abs(rust_ratio * sum(map(len, ids)) / num_bytes - 1) < 0.01, "rustbpe compresses differently"
    megabytes = num_bytes / 1e6
    rounds = alternate(training, pairs=arguments.pairs)
    peers = [side for side in training if not side.startswith("ours")]
    rows = [
        *(row_of(
            f"train BPE, {megabytes:.1f} MB, vocabulary {arguments.vocab_size:,}{side.removeprefix('ours')}",
            rounds.of([side, *peers]), amount=megabytes, unit="MB/s", ours=side, target=0.5,
        ) for side in training if side.startswith("ours")),
        row_of(
            f"encode {megabytes:.1f} MB in documents", alternate(encoding, pairs=arguments.pairs), amount=megabytes,
            unit="MB/s", target=0.9, checks=checks,
        ),
    ]  # fmt: skip
    finish("tokenizer", rows, arguments, ["tokenizers", "tiktoken"])


def load_documents(path: Path | None, max_bytes: int) -> list[str]:
    """Documents of a few kB: chats, or paragraphs of a book."""
    if path is None:
        documents = [transcript(chat.turns) for chat in load_chats()]
    else:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data[:max_bytes].decode(errors="ignore")
        documents = [text[start : start + 4000] for start in range(0, len(text), 4000)]
    kept, room = [], max_bytes
    for document in documents:
        room -= len(document.encode())
        if room < 0:
            break
        kept.append(document)
    return kept


def train_tokenizers(documents: list[str], vocab_size: int) -> Backend:
    """The library's own trainer, as its documentation shows it."""
    backend = Backend(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(documents, trainer)
    return backend


def train_rustbpe(documents: list[str], vocab_size: int):  # type: ignore[no-untyped-def]
    """nanochat's trainer."""
    import rustbpe  # type: ignore[import-not-found]

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(documents), vocab_size, pattern=PATTERN)
    return tokenizer


def mergeable_ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes of every token that is text, in the order of the merges."""
    specials = set(tokenizer.special_ids.values())
    tokens = [tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size) if id not in specials]
    return {token: rank for rank, token in enumerate(tokens)}


def void(_: object) -> None:
    """A side returns figures, not what it made."""


if __name__ == "__main__":
    main()
