import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wuya.cli import main
from wuya.data.corpus import CorpusSource
from wuya.data.shards import TokenShards
from wuya.errors import ConfigError, DataError
from wuya.recipes.prepare_data import PrepareConfig, run
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

QUESTION = "Which of the seven wonders of the ancient world stood longest before an earthquake finally brought it down?"


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(f"w{number}" for number in rng.integers(0, 3000, words))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources with planted duplicates, near-duplicates, bad rows, spam and a test question."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    books = [sentence(rng, 120) for _ in range(150)]
    (folder / "books.txt").write_text("\f".join(books))
    near = books[1].split()
    near[60] = "changed"
    rows = [{"text": sentence(rng, 100)} for _ in range(200)]
    rows += [{"text": books[0]}, {"text": rows[3]["text"]}, {"text": " ".join(near)}, {"text": "Hi"}]
    rows += [{"text": sentence(rng, 80) + " " + QUESTION + " " + sentence(rng, 80)}]
    lines = [json.dumps(row) for row in rows]
    (folder / "crawl.jsonl").write_text("\n".join([*lines[:5], "{broken", '{"other": 1}', *lines[5:]]) + "\n")
    (folder / "eval.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n" + json.dumps({"question": "Who?"}))
    train_tokenizer([" ".join(books)], vocab_size=600).save(folder / "tokenizer")
    return folder


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(
        out=tmp_path / "prepared",
        tokenizer=corpus / "tokenizer",
        inputs=(str(corpus / "books.txt"), str(corpus / "crawl.jsonl")),
        decontaminate_against=(corpus / "eval.jsonl",),
        validation_fraction=0.1,
        workers=1,
    )


def documents_of(folder: Path, tokenizer: Tokenizer) -> Iterator[str]:
    shards = TokenShards(folder)
    text = tokenizer.decode(shards.window(0, shards.num_tokens).tolist())
    return iter(text.split("<|endoftext|>")[:-1])


def reasons(manifest: dict[str, list[dict[str, dict[str, dict[str, int]]]]]) -> dict[str, int]:
    return {
        reason: dropped["documents"] for stage in manifest["stages"] for reason, dropped in stage["dropped"].items()
    }


def test_everything_planted_is_found_and_the_rest_arrives(config: PrepareConfig, corpus: Path) -> None:
    run(config)
    manifest = json.loads((config.out / "manifest.json").read_text())
    assert reasons(manifest) == {"too_few_words": 1, "exact_duplicate": 2, "near_duplicate": 1}
    assert [stage["stage"] for stage in manifest["stages"]][-1] == "decontamination"
    assert manifest["stages"][-1]["cut"]["documents"] == 1
    assert manifest["evaluation"] == {"examples": 2, "too_short_to_check": 1, "ngrams": 6}
    assert manifest["bad_rows"]["count"] == 2 and "crawl.jsonl:6" in manifest["bad_rows"]["examples"][0]
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    train, held_out = (list(documents_of(config.out / name, tokenizer)) for name in ("train", "validation"))
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 150 + 200 + 2  # the document with the question became two
    assert len(held_out) == pytest.approx(35, abs=17)
    books = (corpus / "books.txt").read_text().split("\f")
    assert set(books) <= {*train, *held_out}  # of duplicates the one in the first source stays
    everything = "\n".join([*train, *held_out])
    assert " ".join(QUESTION.split()[:13]) not in everything
    assert [source["epochs"] for source in manifest["sources"]] == [1.0, 1.0]
    example = manifest["stages"][2]["dropped"]["near_duplicate"]["examples"][0]
    assert example["same_as"]["id"] == "books.txt#2"


def test_two_workers_write_the_same_bytes_as_one(config: PrepareConfig, tmp_path: Path) -> None:
    run(config)
    two = dataclasses.replace(config, out=tmp_path / "two", workers=2)
    run(two)
    for name in ("train/00000.bin", "validation/00000.bin", "train/manifest.json"):
        assert (config.out / name).read_bytes() == (two.out / name).read_bytes()
    one_manifest, two_manifest = (json.loads((x.out / "manifest.json").read_text()) for x in (config, two))
    for manifest in (one_manifest, two_manifest):
        manifest.pop("settings")
    assert one_manifest == two_manifest


def test_weighted_mixture_follows_the_weights(config: PrepareConfig, corpus: Path) -> None:
    sources = (
        CorpusSource(name="books", path=str(corpus / "books.txt"), weight=3.0),
        CorpusSource(name="crawl", path=str(corpus / "crawl.jsonl"), weight=1.0),
    )
    run(dataclasses.replace(config, inputs=(), sources=sources, mixture="weighted", total_tokens=300_000))
    manifest = json.loads((config.out / "manifest.json").read_text())
    books, crawl = manifest["sources"]
    assert (books["share"], crawl["share"]) == (0.75, 0.25)
    assert books["epochs"] > 2.5 and crawl["epochs"] < 1
    shards = TokenShards(config.out / "train")
    assert shards.num_tokens == pytest.approx(300_000, rel=0.01)


def test_quality_classifier_keeps_text_like_the_good_source(
    config: PrepareConfig, corpus: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    like_books = [{"text": sentence(rng, 120)} for _ in range(60)]
    spam = [{"text": " ".join(f"spam{i}" for i in rng.integers(0, 400, 60))} for _ in range(300)]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, like_books + spam)))
    inputs = (str(corpus / "books.txt"), str(tmp_path / "raw.jsonl"))
    run(dataclasses.replace(config, inputs=inputs, quality_filtered=("raw",)))
    text = (config.out / "manifest.json").read_text()
    manifest = json.loads(text)
    [stage] = [stage for stage in manifest["stages"] if stage["stage"] == "quality"]
    dropped = stage["dropped"]["low_quality"]
    assert dropped["documents"] > 250 and "books" not in dropped["by_source"]
    assert all(0 <= example["score"] < 0.6 for example in dropped["examples"])


def test_the_same_preparation_is_kept_and_another_refused(config: PrepareConfig) -> None:
    run(config)
    before = (config.out / "manifest.json").stat().st_mtime_ns
    assert run(dataclasses.replace(config, resume=True, workers=2)) == config.out
    assert (config.out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="exists already"):
        run(config)
    with pytest.raises(ConfigError, match="other inputs or settings"):
        run(dataclasses.replace(config, resume=True, seed=1))
    (config.out / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="exists already"):
        run(dataclasses.replace(config, resume=True))


def test_a_small_source_gives_its_end_to_validation(config: PrepareConfig, corpus: Path, tmp_path: Path) -> None:
    lines = [f"line {number} of the play\n" for number in range(1000)]
    (tmp_path / "play.txt").write_text("".join(lines))
    run(dataclasses.replace(config, inputs=(str(tmp_path / "play.txt"),), decontaminate_against=()))
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    [train], [held_out] = (list(documents_of(config.out / name, tokenizer)) for name in ("train", "validation"))
    assert train + held_out == "".join(lines)
    assert len(held_out) == pytest.approx(0.1 * len(train), rel=0.15)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inputs": ("missing.txt",)}, DataError, "does not exist"),
        ({"tokenizer": Path("nowhere")}, DataError, "does not exist"),
        ({"quality_filtered": ("crawl", "books")}, DataError, "good text and raw text"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(
    config: PrepareConfig, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    assert not config.out.exists() and list(config.out.parent.iterdir()) == []


def test_an_empty_corpus_is_an_error(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="empty"):
        run(dataclasses.replace(config, inputs=(str(tmp_path / "empty.txt"),)))
    (tmp_path / "short.txt").write_text("Hi")
    with pytest.raises(DataError, match="nothing is left"):
        run(dataclasses.replace(config, inputs=(str(tmp_path / "short.txt"),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ()}, "nothing to prepare"),
        ({"quality_filtered": ("nope",)}, "names no source"),
        ({"num_hashes": 100}, "multiple"),
        ({"validation_fraction": 1.5}, "validation_fraction"),
    ],
)
def test_contradictory_settings_are_refused(config: PrepareConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def test_the_command_prints_tables_or_json(
    config: PrepareConfig, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prepare", "--inputs", str(corpus / "crawl.jsonl"), "--tokenizer", str(corpus / "tokenizer")]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr()
    assert "exact duplicates" in shown.out and "2 bad rows were skipped" in shown.err
    assert main([*arguments, "--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["name"] == "crawl"
