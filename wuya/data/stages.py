"""The stages of preparation: each looks at the documents still kept, marks those it drops and returns what it did.

`kept_N` is True for the documents of a SpooledCorpus that are still in; stages after the first set entries to False.
Dimension key: N documents of the corpus, H collisions with evaluation sets.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from wuya.console import Progress
from wuya.data.corpus import CorpusSource, Document, read_documents
from wuya.data.decontaminate import EvaluationNgrams, rare_ngrams
from wuya.data.dedup import Bools, first_occurrences, near_duplicates
from wuya.data.ledger import Stage, excerpt
from wuya.data.prepared import (
    BATCH_CHARS,
    BATCH_DOCUMENTS,
    Analysis,
    AnalysisSettings,
    SpooledCorpus,
    Tokenized,
    ToTokenize,
    analyse,
    score,
    tokenize,
)
from wuya.data.quality import QualityClassifier, bottom_k, pareto_keep
from wuya.data.spool import Workers
from wuya.data.token_spool import TokenSpool
from wuya.data.words import Ints, UInt64s, uniforms, words_of
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.tokenizer.bpe import Tokenizer

CLASSIFIER_DOCUMENTS = 20_000
"""Documents of each class the quality classifier learns from, at most."""

Batch = tuple[list[str], list[str], list[int]]
"""Texts, ids and source numbers of consecutive documents."""
TokenizeBatch = tuple[Ints, list[ToTokenize]]
"""Indices of documents, and what is to be encoded of them."""
FEW_DOCUMENTS = 100
"""A source with fewer gives the end of each document to validation, one with more gives whole documents."""


def read_and_filter(
    corpus: SpooledCorpus,
    sources: Sequence[CorpusSource],
    settings: AnalysisSettings,
    *,
    bad: BadRows,
    num_workers: int,
    expected_bytes: int,
) -> Stage:
    """Read every source once, drop what breaks a rule, and put the rest with its numbers into `corpus`."""
    stage = Stage("filter")
    names = [source.name for source in sources]
    documents = chain.from_iterable(
        ((number, document) for document in read_documents(source, bad)) for number, source in enumerate(sources)
    )
    with Progress(expected_bytes, "read and filter", unit="B") as progress, Workers(settings, num_workers) as workers:
        for (texts, ids, numbers), analysis in workers.map(_analyse_batch, _batches(documents)):
            for place, reason in enumerate(analysis.reasons):
                text, num_bytes = texts[place], len(texts[place].encode("utf-8", "surrogatepass"))
                stage.enter(names[numbers[place]], num_bytes)
                progress.update(num_bytes)
                if reason:
                    stage.drop(names[numbers[place]], reason, num_bytes, _read_example, ids[place], text)
            corpus.add(texts, ids, numbers, analysis)
    corpus.flush()
    if not stage.documents_in:
        raise DataError(
            "the corpus is empty: no document was found",
            found=bad.summary() or ", ".join(names),
            hint="check `--inputs`",
        )
    return stage


def drop_exact_duplicates(corpus: SpooledCorpus, names: Sequence[str], kept_N: Bools) -> Stage:
    """Keep the first of documents with the same text."""
    leaders_N = first_occurrences(corpus.hashes.read())
    return _drop_followers("exact duplicates", "exact_duplicate", corpus, names, kept_N, leaders_N)


def drop_near_duplicates(corpus: SpooledCorpus, names: Sequence[str], kept_N: Bools, *, threshold: float) -> Stage:
    """Keep the first of each cluster of similar documents."""
    assert corpus.signatures is not None
    candidates_N = kept_N & (corpus.num_words.read() > 0)
    with Progress(len(corpus.bands), "near duplicates", unit="bands") as progress:

        def read_band(band: int) -> UInt64s:
            progress.update(1)
            return corpus.bands[band].read()

        leaders_N = near_duplicates(
            len(corpus.bands), read_band, corpus.signatures.gather, candidates_N, threshold=threshold
        )
    return _drop_followers("near duplicates", "near_duplicate", corpus, names, kept_N, leaders_N)


def train_classifier(
    corpus: SpooledCorpus,
    names: Sequence[str],
    kept_N: Bools,
    filtered: Sequence[str],
    more_positives: Sequence[CorpusSource],
    *,
    bad: BadRows,
    seed: int,
) -> QualityClassifier:
    """GPT-3's classifier: documents of the `filtered` sources (raw text) against all others and `more_positives`."""
    raw_N, hashes_N = _of_sources(corpus, names, filtered), corpus.hashes.read()
    good = _sampled_words(corpus, np.flatnonzero(kept_N & ~raw_N), hashes_N, seed)
    for source in more_positives:
        documents = islice(read_documents(source, bad), CLASSIFIER_DOCUMENTS)
        good += [words_of(document.text).hashes_W for document in documents]
    raw = _sampled_words(corpus, np.flatnonzero(kept_N & raw_N), hashes_N, seed)
    if not good or not raw:
        raise DataError(
            "the quality classifier needs good text and raw text",
            found=f"{len(good)} good documents, {len(raw)} raw ones",
            hint="name good text: `--quality_positives good.txt`, or drop `--quality_filtered`",
        )
    return QualityClassifier.train(good, raw)


def drop_low_quality(
    corpus: SpooledCorpus,
    names: Sequence[str],
    kept_N: Bools,
    filtered: Sequence[str],
    classifier: QualityClassifier,
    *,
    num_workers: int,
    seed: int,
) -> Stage:
    """Score the documents of the `filtered` sources and apply the Pareto rule."""
    raw_N, hashes_N = kept_N & _of_sources(corpus, names, filtered), corpus.hashes.read()
    stage = Stage("quality")
    _enter(stage, corpus, names, kept_N)
    total = int(corpus.texts.sizes()[raw_N].sum())
    with Progress(total, "score quality", unit="B") as progress, Workers(classifier, num_workers) as workers:
        for (indices, texts), scores in workers.map(_score_batch, corpus.batches(np.flatnonzero(raw_N))):
            keep = pareto_keep(scores, hashes_N[indices], seed=seed)
            for index, text, value in zip(indices[~keep].tolist(), _select(texts, ~keep), scores[~keep], strict=True):
                kept_N[index] = False
                source, num_bytes = names[corpus.sources_N[index]], corpus.texts.num_bytes(index)
                stage.drop(source, "low_quality", num_bytes, _scored_example, corpus.ids[index], text, value)
            progress.update(sum(map(corpus.texts.num_bytes, indices.tolist())))
    return stage


def cut_and_tokenize(
    corpus: SpooledCorpus,
    names: Sequence[str],
    kept_N: Bools,
    tokens: TokenSpool,
    *,
    evaluation: EvaluationNgrams | None,
    tokenizer: Tokenizer,
    validation_fraction: float,
    num_workers: int,
    seed: int,
) -> Stage:
    """Cut the collisions with evaluation sets out of the kept documents, encode the rest and put it into `tokens`."""
    stage = Stage("decontamination")
    _enter(stage, corpus, names, kept_N)
    indices_K = np.flatnonzero(kept_N)
    collisions = _counted_collisions(corpus, kept_N, evaluation)
    validation_N, tail_N = _held_out(corpus, kept_N, validation_fraction, seed)

    def batches() -> Iterator[TokenizeBatch]:
        for indices, texts in corpus.batches(indices_K):
            first, end = np.searchsorted(collisions[:, 0], [indices[0], indices[-1] + 1])
            spans: dict[int, list[tuple[int, int]]] = {}
            for document, _, start, stop in collisions[first:end].tolist():
                spans.setdefault(document, []).append((start, stop))
            yield (
                indices,
                [
                    ToTokenize(text, tuple(spans.get(i, ())), validation_fraction if tail_N[i] else 0.0)
                    for i, text in zip(indices.tolist(), texts, strict=True)
                ],
            )

    total = int(corpus.texts.sizes()[kept_N].sum())
    with Progress(total, "tokenize", unit="B") as progress, Workers(tokenizer, num_workers) as workers:
        for (indices, batch), result in workers.map(_tokenize_batch, batches()):
            left_bytes = np.bincount(result.owners, weights=result.num_bytes, minlength=len(batch)).astype(np.int64)
            for place, (index, reason) in enumerate(zip(indices.tolist(), result.reasons, strict=True)):
                source, num_bytes = names[corpus.sources_N[index]], corpus.texts.num_bytes(index)
                if reason:
                    stage.drop(source, reason, num_bytes, corpus.example, index)
                elif batch[place].spans:
                    stage.cut.add(num_bytes - int(left_bytes[place]))
                progress.update(num_bytes)
            owners = indices[result.owners] if len(result.owners) else result.owners
            sources_N = np.frombuffer(corpus.sources_N, np.uint8)
            tokens.add(result, sources_N[owners], validation_N[owners] | result.tails)
    tokens.flush()
    return stage


def _analyse_batch(settings: AnalysisSettings, batch: Batch) -> Analysis:
    return analyse(settings, batch[0])


def _score_batch(classifier: QualityClassifier, batch: tuple[Ints, list[str]]) -> NDArray[np.float64]:
    return score(classifier, batch[1])


def _tokenize_batch(tokenizer: Tokenizer, batch: TokenizeBatch) -> Tokenized:
    return tokenize(tokenizer, batch[1])


def _batches(documents: Iterator[tuple[int, Document]]) -> Iterator[Batch]:
    """Documents in batches of bounded size."""
    texts: list[str] = []
    ids: list[str] = []
    numbers: list[int] = []
    chars = 0
    for number, document in documents:
        if texts and (chars + len(document.text) > BATCH_CHARS or len(texts) == BATCH_DOCUMENTS):
            yield texts, ids, numbers
            texts, ids, numbers, chars = [], [], [], 0
        texts.append(document.text)
        ids.append(document.id)
        numbers.append(number)
        chars += len(document.text)
    if texts:
        yield texts, ids, numbers


def _drop_followers(
    name: str, reason: str, corpus: SpooledCorpus, names: Sequence[str], kept_N: Bools, leaders_N: Ints
) -> Stage:
    """Drop the kept documents that are not the leader of their group."""
    stage = Stage(name)
    _enter(stage, corpus, names, kept_N)
    for index in np.flatnonzero(kept_N & (leaders_N != np.arange(len(leaders_N)))).tolist():
        kept_N[index] = False
        source, num_bytes = names[corpus.sources_N[index]], corpus.texts.num_bytes(index)
        stage.drop(source, reason, num_bytes, corpus.example, index, int(leaders_N[index]))
    return stage


def _read_example(id: str, text: str) -> dict[str, object]:
    return {"id": id, "text": excerpt(text)}


def _scored_example(id: str, text: str, value: float) -> dict[str, object]:
    return {"id": id, "score": round(float(value), 4), "text": excerpt(text)}


def _enter(stage: Stage, corpus: SpooledCorpus, names: Sequence[str], kept_N: Bools) -> None:
    sources_N, sizes_N = np.frombuffer(corpus.sources_N, np.uint8), corpus.texts.sizes()
    for number, name in enumerate(names):
        chosen_N = kept_N & (sources_N == number)
        stage.enter(name, int(sizes_N[chosen_N].sum()), int(chosen_N.sum()))


def _of_sources(corpus: SpooledCorpus, names: Sequence[str], chosen: Sequence[str]) -> Bools:
    return np.isin(np.frombuffer(corpus.sources_N, np.uint8), [names.index(name) for name in chosen])


def _sampled_words(corpus: SpooledCorpus, indices: Ints, hashes_N: UInt64s, seed: int) -> list[UInt64s]:
    chosen = indices[bottom_k(hashes_N[indices], CLASSIFIER_DOCUMENTS, seed=seed, purpose="classify")]
    return [words_of(text).hashes_W for _, texts in corpus.batches(chosen) for text in texts]


def _counted_collisions(corpus: SpooledCorpus, kept_N: Bools, evaluation: EvaluationNgrams | None) -> Ints:
    """[H, 4] collisions of kept documents, those with common phrases left out."""
    collisions = np.asarray(corpus.collisions.read(), np.int64)
    if evaluation is None or not len(collisions):
        return np.empty((0, 4), np.int64)
    collisions = collisions[kept_N[collisions[:, 0]]]
    rare_E = rare_ngrams(collisions[:, 0], collisions[:, 1], len(evaluation.hashes_E))
    return np.asarray(collisions[rare_E[collisions[:, 1]]], np.int64)


def _held_out(corpus: SpooledCorpus, kept_N: Bools, fraction: float, seed: int) -> tuple[Bools, Bools]:
    """Which documents are held out for validation (chosen by their hash), and which give only their end to it."""
    sources_N = np.frombuffer(corpus.sources_N, np.uint8)
    kept_by_source = np.bincount(sources_N[kept_N], minlength=256)
    tail_N = kept_N & (kept_by_source[sources_N] < FEW_DOCUMENTS) & (fraction > 0)
    chosen_N = uniforms(corpus.hashes.read(), seed=seed, purpose="validate") < fraction
    return np.asarray(kept_N & ~tail_N & chosen_N), np.asarray(tail_N)


def _select(texts: Sequence[str], mask: Bools) -> list[str]:
    return [text for text, chosen in zip(texts, mask.tolist(), strict=True) if chosen]
