import numpy as np
import pytest

from wuya.data.dedup import MinHash, document_hash, estimated_jaccard, first_occurrences, near_duplicates
from wuya.data.words import Ints, UInt64s, mix, words_of


def random_words(rng: np.random.Generator, count: int) -> list[str]:
    return [f"w{number}" for number in rng.integers(0, 50_000, count)]


def clusters(texts: list[str], *, threshold: float = 0.75) -> list[int]:
    minhash = MinHash()
    signatures = np.stack([minhash.signature_of(words_of(text)) for text in texts])
    bands = minhash.bands(signatures)
    leaders = near_duplicates(
        minhash.num_bands,
        lambda band: bands[:, band],
        lambda indices: signatures[indices],
        np.ones(len(texts), bool),
        threshold=threshold,
    )
    return [int(leader) for leader in leaders]


def test_equal_texts_have_equal_hashes_but_for_the_space_around_them() -> None:
    assert document_hash("a text\n") == document_hash("  a text")
    assert document_hash("a text") != document_hash("A text")


def test_first_occurrence_is_the_document_itself_or_an_earlier_one() -> None:
    hashes = np.array([5, 3, 5, 9, 3, 5], np.uint64)
    assert first_occurrences(hashes).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_occurrences(np.empty(0, np.uint64)).tolist() == []


@pytest.mark.parametrize("num_hashes", [16, 64, 256])
def test_jaccard_estimate_errs_by_one_over_the_root_of_the_number_of_hashes(num_hashes: int) -> None:
    """Spec section 3, Verify (c): the standard error is sqrt(J (1 - J) / K), at most 1 / (2 sqrt(K))."""
    shared, own = 200, 100  # shingles: J = 200 / 400 = 1/2
    errors = []
    for trial in range(200):
        values = mix(np.arange(shared + 2 * own, dtype=np.uint64) + np.uint64(trial * 1000))
        minhash = MinHash(num_hashes, num_bands=1, seed=trial)
        left = minhash.signature(values[: shared + own])
        right = minhash.signature(np.concatenate([values[:shared], values[shared + own :]]))
        errors.append(float(estimated_jaccard(left, right)) - 0.5)
    root_mean_square = float(np.sqrt(np.mean(np.square(errors))))
    assert root_mean_square == pytest.approx(0.5 / np.sqrt(num_hashes), rel=0.2)
    assert abs(np.mean(errors)) < 3 * 0.5 / np.sqrt(num_hashes * 200)


def test_long_documents_are_signed_in_pieces_to_the_same_signature() -> None:
    hashes_W: UInt64s = mix(np.arange(5000, dtype=np.uint64))
    minhash = MinHash(16, 4)
    parts = np.minimum(minhash.signature(hashes_W[:3000]), minhash.signature(hashes_W[3000:]))
    assert np.array_equal(minhash.signature(hashes_W), parts)


def test_planted_near_duplicates_are_found_and_others_left_alone() -> None:
    rng = np.random.default_rng(0)
    originals = [random_words(rng, 300) for _ in range(60)]
    texts = [" ".join(original) for original in originals]
    for original in originals[:20]:  # four changed words of 300: 20 of 316 shingles differ either way, J = 0.87
        copy = list(original)
        for place in (50, 120, 190, 260):
            copy[place] = "changed"
        texts.append(" ".join(copy).upper())
    for original in originals[20:40]:  # only the first third is the same: J = 0.2
        texts.append(" ".join(original[:100] + random_words(rng, 200)))
    assert clusters(texts) == [*range(60), *range(20), *range(80, 100)]


def test_clusters_follow_chains_and_keep_the_first() -> None:
    words = random_words(np.random.default_rng(1), 400)
    texts = [" ".join(words[start : start + 300]) for start in (0, 20, 40, 60, 80)]  # neighbours: J = 0.87, ends 0.58
    assert clusters(texts) == [0] * 5


def test_documents_that_do_not_take_part_are_never_a_leader() -> None:
    minhash = MinHash()
    signature = minhash.signature_of(words_of("one two three four five six"))
    signatures = np.stack([signature] * 3)
    bands = minhash.bands(signatures)

    def read_signatures(indices: Ints) -> np.ndarray:
        return signatures[indices]

    leaders = near_duplicates(
        32, lambda band: bands[:, band], read_signatures, np.array([False, True, True]), threshold=0.75
    )
    assert leaders.tolist() == [0, 1, 1]


def test_short_documents_are_one_shingle() -> None:
    assert clusters(["Hello there", "hello THERE!", "hello you"]) == [0, 0, 2]
