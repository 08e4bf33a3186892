"""Turn raw corpora into token shards the way GPT-3's text was prepared (arXiv:2005.14165, appendices A and C).

    wuya prepare --inputs books.txt.gz chats.jsonl --tokenizer runs/tokenizer --out data/mine

Reads text, JSONL(.gz), parquet, folders, `hf:` data sets or installed packages; writes <out>/{config.yaml,
manifest.json, train/, validation/}. Stages: heuristic filters -> exact duplicates -> near duplicates -> quality
classifier -> contamination -> tokens -> mixture. The result depends on the inputs, the settings and the seed, never on
the number of workers, and memory does not grow with the text: documents lie on disk, and some 100 bytes a document are
held.

Differs from the paper: (1) near duplicates by 128 hash functions instead of 10, looked for across sources as well;
(2) heuristic filters and exact duplicates first, which GPT-3 does not mention; (3) a held-out share of documents.
"""

import json
import os
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from wuya.config import require_positive, save_config, to_dict
from wuya.console import say, table, warn
from wuya.data.corpus import CorpusSource
from wuya.data.decontaminate import EvaluationNgrams
from wuya.data.dedup import MinHash
from wuya.data.evaluation_sets import evaluation_texts
from wuya.data.mixture import SourceShare, natural_shares, weighted_shares
from wuya.data.prepared import AnalysisSettings, SpooledCorpus
from wuya.data.quality import QualityRules
from wuya.data.shards import write_shards
from wuya.data.stages import (
    cut_and_tokenize,
    drop_exact_duplicates,
    drop_low_quality,
    drop_near_duplicates,
    read_and_filter,
    train_classifier,
)
from wuya.data.token_spool import TokenSpool
from wuya.errors import ConfigError, DataError
from wuya.files import BadRows, atomic_folder, sha256_file, sha256_json, to_json, write_atomic
from wuya.tokenizer.bpe import Tokenizer

MIN_BYTES_PER_WORKER = 20_000_000
"""Below this much text a worker takes longer to start than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """Corpora -> filtered, de-duplicated, decontaminated and mixed token shards."""

    out: Path
    """Folder to write."""
    tokenizer: Path
    """Folder (or tokenizer.json) of the tokenizer."""
    inputs: tuple[str, ...] = ()
    """Corpora by path, `hf:name[:split]` or `package:name`: the short way to name sources of equal weight."""
    sources: tuple[CorpusSource, ...] = ()
    """Corpora with names, weights and limits (in a YAML file). Best first: of duplicates the first one stays."""
    rules: QualityRules = field(default_factory=QualityRules)
    """Heuristic filters, each with its limit."""
    exact_dedup: bool = True
    """Drop documents whose text occurred before."""
    fuzzy_dedup: bool = True
    """Drop documents similar to an earlier one (MinHash over word 5-grams)."""
    fuzzy_threshold: float = 0.75
    """Estimated Jaccard similarity from which a document is a near-duplicate."""
    num_hashes: int = 128
    """MinHash functions; the estimate's error is about 1 / sqrt(num_hashes). Paper: 10."""
    num_bands: int = 32
    """Bands the hash functions are divided into to find candidates; more bands find less similar pairs."""
    quality_filtered: tuple[str, ...] = ()
    """Names of raw sources that must pass the quality classifier (GPT-3: Common Crawl); the others are good text."""
    quality_positives: tuple[str, ...] = ()
    """More good text for the classifier, by path; it isn't trained on."""
    decontaminate_against: tuple[Path, ...] = ()
    """Evaluation sets (files or folders) whose 13-grams are cut out of the text."""
    mixture: Literal["natural", "weighted"] = "natural"
    """`natural`: every document once. `weighted`: shares of tokens follow the sources' weights."""
    total_tokens: int | None = None
    """Training tokens of a weighted mixture; by default as many as all sources hold."""
    validation_fraction: float = 0.01
    """Share held out for validation: documents chosen by hash; of a source with under 100 the end of each."""
    shard_tokens: int = 100_000_000
    """Tokens a shard file."""
    workers: int = 0
    """Processes; 0 = one per core for large corpora, none extra for small ones. Changes the speed, never the result."""
    resume: bool = False
    """Keep what is in `out` if it was made from the same inputs and settings, and continue to the next command."""
    seed: int = 0
    """Of the validation split, the quality draws and the order of documents."""
    json: bool = False
    """Print the manifest as JSON instead of tables."""

    def __post_init__(self) -> None:
        require_positive(self, "fuzzy_threshold", "num_hashes", "num_bands", "total_tokens", "shard_tokens")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                "`validation_fraction` must be at least 0 and below 1", found=str(self.validation_fraction)
            )
        if not self.inputs and not self.sources:
            raise ConfigError("nothing to prepare", hint="name a corpus: `wuya prepare --inputs text.txt ...`")
        if self.num_hashes % self.num_bands:
            raise ConfigError(
                "`num_hashes` must be a multiple of `num_bands`", found=f"{self.num_hashes}, {self.num_bands}"
            )
        names = [source.name for source in self.all_sources]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError("two sources have the same name", found=", ".join(sorted(twice)), hint="rename one")
        if unknown := set(self.quality_filtered) - set(names):
            raise ConfigError(
                f"`quality_filtered` names no source: {', '.join(sorted(unknown))}",
                found=f"sources: {', '.join(names)}",
            )
        if len(names) > 255:
            raise ConfigError("at most 255 sources", found=str(len(names)), hint="put files of one kind in one folder")

    @property
    def all_sources(self) -> list[CorpusSource]:
        """`sources`, then one for each of `inputs`, named after its last part."""
        named = [CorpusSource(name=Path(path).name.partition(".")[0] or path, path=path) for path in self.inputs]
        return [*self.sources, *named]


def run(config: PrepareConfig) -> Path:
    """Prepare the corpora; the manifest says what was dropped and why."""
    sources = config.all_sources
    fingerprint = _fingerprint(config)
    if _is_done(config, fingerprint):
        say(f"`{config.out}` already holds this preparation; nothing to do")
        return config.out
    tokenizer = Tokenizer.load(config.tokenizer)
    minhash = MinHash(config.num_hashes, config.num_bands) if config.fuzzy_dedup else None
    evaluation = _evaluation_ngrams(config.decontaminate_against)
    expected_bytes = sum(_text_bytes(source.path) for source in sources)
    workers = config.workers or _default_workers(expected_bytes)
    names = [source.name for source in sources]
    bad = BadRows()
    with (
        atomic_folder(config.out) as folder,
        TemporaryDirectory(prefix="work-", dir=folder) as work,
        closing(SpooledCorpus(Path(work), minhash)) as corpus,
        closing(TokenSpool(Path(work), vocab_size=tokenizer.vocab_size)) as tokens,
    ):
        # 1. Read everything once: heuristic filters, hashes, MinHash signatures, collisions with evaluation sets
        settings = AnalysisSettings(config.rules, minhash, evaluation)
        stages = [
            read_and_filter(corpus, sources, settings, bad=bad, num_workers=workers, expected_bytes=expected_bytes)
        ]
        kept_N = np.ones(len(corpus), bool)
        # 2. Duplicates: the first of each group stays
        if config.exact_dedup:
            stages.append(drop_exact_duplicates(corpus, names, kept_N))
        if minhash:
            stages.append(drop_near_duplicates(corpus, names, kept_N, threshold=config.fuzzy_threshold))
        # 3. Quality classifier with the Pareto rule
        if config.quality_filtered:
            more = [CorpusSource(name=path, path=path) for path in config.quality_positives]
            classifier = train_classifier(
                corpus, names, kept_N, config.quality_filtered, more, bad=bad, seed=config.seed
            )
            stages.append(
                drop_low_quality(
                    corpus, names, kept_N, config.quality_filtered, classifier, num_workers=workers, seed=config.seed
                )
            )
        # 4. Cut out what evaluation sets hold, and encode what is left
        contamination = cut_and_tokenize(
            corpus,
            names,
            kept_N,
            tokens,
            evaluation=evaluation,
            tokenizer=tokenizer,
            validation_fraction=config.validation_fraction,
            num_workers=workers,
            seed=config.seed,
        )
        stages += [contamination] if evaluation else []
        # 5. Mix the sources and write the shards
        shares = _shares(config, tokens)
        manifest = {
            "recipe": "prepare_data",
            "fingerprint": fingerprint,
            "settings": to_dict(config),
            "tokenizer": {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint},
            "bad_rows": {"count": bad.count, "examples": bad.examples},
            "evaluation": _describe_evaluation(evaluation),
            "stages": [stage.as_dict() for stage in stages],
            "sources": (mixture := _describe_sources(config, tokens, shares)),
        }
        splits = {"train": tokens.training(shares, seed=config.seed), "validation": tokens.validation()}
        for name, arrays in splits.items():
            if name == "train" or tokens.num_held_out:
                write_shards(
                    folder / name,
                    arrays,
                    vocab_size=tokenizer.vocab_size,
                    shard_tokens=config.shard_tokens,
                    manifest={
                        "fingerprint": fingerprint,
                        "tokenizer_fingerprint": tokenizer.fingerprint,
                        "split": name,
                    },
                )
        save_config(config, folder / "config.yaml")
        write_atomic(folder / "manifest.json", to_json(manifest, indent=2) + "\n")
    # 6. Tell
    if bad.count:
        warn(bad.summary())
    if config.json:
        sys.stdout.write(to_json(manifest) + "\n")
    else:
        columns = ("name", "training_tokens", "share", "epochs")
        rows = [{column: row[column] for column in columns} for row in mixture]
        sys.stdout.write(
            table([stage.row() for stage in stages], "Preparation") + "\n\n" + table(rows, "Mixture") + "\n"
        )
        sys.stdout.write(f"\n{config.out}\n")
    return config.out


def _fingerprint(config: PrepareConfig) -> str:
    """Hash of all that determines the result: settings, tokenizer and the contents of every input file."""
    settings = {key: value for key, value in to_dict(config).items() if key not in {"out", "workers", "resume", "json"}}
    named = [source.path for source in config.all_sources] + list(config.quality_positives)
    paths = [config.tokenizer, *(Path(path) for path in named if _is_local(path)), *config.decontaminate_against]
    return sha256_json({"settings": settings, "inputs": {str(path): _content_hash(path) for path in paths}})


def _content_hash(path: Path) -> str | list[list[str]]:
    if path.is_dir():
        return [[file.name, sha256_file(file)] for file in sorted(path.rglob("*")) if file.is_file()]
    if not path.exists():
        raise DataError(f"`{path}` does not exist", hint=f"look for it: `ls {path.parent}`")
    return sha256_file(path)


def _is_done(config: PrepareConfig, fingerprint: str) -> bool:
    """Whether `out` holds this very result; anything else in its place is an error, never overwritten."""
    if not config.out.exists():
        return False
    try:
        found = json.loads((config.out / "manifest.json").read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError, AttributeError):  # no manifest, or a damaged one
        found = None
    if config.resume and found == fingerprint:
        return True
    what = "was made from other inputs or settings" if found and found != fingerprint else "exists already"
    hint = "keep it and go on: add `--resume`" if found == fingerprint else f"write elsewhere: `--out {config.out}-2`"
    raise ConfigError(f"`{config.out}` {what}", hint=f"{hint}; or remove it: `rm -r {config.out}`")


def _evaluation_ngrams(paths: tuple[Path, ...]) -> EvaluationNgrams | None:
    if not paths:
        return None
    evaluation = EvaluationNgrams.from_texts(text for path in paths for text in evaluation_texts(path))
    if evaluation.num_too_short:
        warn(
            f"{evaluation.num_too_short:,} of {evaluation.num_examples:,} evaluation examples are shorter than "
            f"{evaluation.ngram_words} words, so the text can't be searched for them"
        )
    return evaluation


def _is_local(path: str) -> bool:
    return not path.startswith(("hf:", "package:"))


def _text_bytes(source: str) -> int:
    """About how much text a source holds, for progress: sizes of its files, unpacked."""
    if not _is_local(source):
        return 0
    path = Path(source)
    return sum(_unpacked_bytes(file) for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _unpacked_bytes(file: Path) -> int:
    if file.suffix != ".gz":
        return file.stat().st_size
    with file.open("rb") as packed:  # the last four bytes of a gzip file are its unpacked size modulo 4 GB
        packed.seek(-min(4, file.stat().st_size), os.SEEK_END)
        return int.from_bytes(packed.read(4), "little")


def _default_workers(num_bytes: int) -> int:
    return max(1, min(os.cpu_count() or 1, num_bytes // MIN_BYTES_PER_WORKER))


def _shares(config: PrepareConfig, tokens: TokenSpool) -> list[SourceShare]:
    sources = config.all_sources
    available = {source.name: tokens.totals(number, held_out=False)["tokens"] for number, source in enumerate(sources)}
    total = sum(available.values())
    if not total:
        raise DataError("nothing is left to train on: every document was dropped", hint="relax `--rules` or the limits")
    if config.mixture == "natural":
        if len({source.weight for source in sources}) > 1 or config.total_tokens:
            warn("weights and `total_tokens` have no effect on a natural mixture; ask for `--mixture weighted`")
        return natural_shares(available)
    return weighted_shares(
        available,
        {source.name: source.weight for source in sources},
        total_tokens=config.total_tokens or total,
        max_epochs={source.name: source.max_epochs for source in sources},
    )


def _describe_evaluation(evaluation: EvaluationNgrams | None) -> dict[str, int] | None:
    if evaluation is None:
        return None
    return {
        "examples": evaluation.num_examples,
        "too_short_to_check": evaluation.num_too_short,
        "ngrams": len(evaluation.hashes_E),
    }


def _describe_sources(config: PrepareConfig, tokens: TokenSpool, shares: list[SourceShare]) -> list[dict[str, Any]]:
    return [
        {
            "name": source.name,
            "path": source.path,
            "sha256": _content_hash(Path(source.path)) if _is_local(source.path) else None,
            "weight": source.weight,
            "available": tokens.totals(number, held_out=False),
            "validation": tokens.totals(number, held_out=True),
            "share": round(share.share, 6),
            "training_tokens": share.tokens,
            "epochs": round(share.epochs, 4),
        }
        for number, (source, share) in enumerate(zip(config.all_sources, shares, strict=True))
    ]
