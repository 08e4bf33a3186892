import numpy as np

from wuya.data.decontaminate import EvaluationNgrams, clean, rare_ngrams
from wuya.data.words import words_of

QUESTION = "Which of the seven wonders of the ancient world stood longest before an earthquake finally brought it down?"


def filler(start: int, words: int) -> str:
    return " ".join(f"filler{number}" for number in range(start, start + words))


def spans_of(evaluation: EvaluationNgrams, text: str) -> list[tuple[int, int]]:
    _, firsts, ends = evaluation.collisions(words_of(text))
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


def test_a_planted_question_is_cut_with_200_characters_on_either_side() -> None:
    evaluation = EvaluationNgrams.from_texts([QUESTION])
    before, after = filler(0, 60) + " ", " " + filler(100, 60)
    text = before + QUESTION.upper().replace(" ", "  ") + after
    fragments, reason = clean(text, spans_of(evaluation, text))
    assert reason == ""
    assert fragments[0] == before[: len(before) - 200]
    assert after.endswith(fragments[1]) and abs(len(after) - len(fragments[1]) - 200) <= 1  # 1: the question mark
    assert not any(spans_of(evaluation, fragment) for fragment in fragments)


def test_twelve_shared_words_are_no_collision() -> None:
    evaluation = EvaluationNgrams.from_texts([QUESTION])
    words = QUESTION.split()
    assert spans_of(evaluation, " ".join(["well", *words[:12], "indeed"])) == []
    assert len(spans_of(evaluation, " ".join(["well", *words[:13], "indeed"]))) == 1


def test_fragments_under_200_characters_are_dropped() -> None:
    evaluation = EvaluationNgrams.from_texts([QUESTION])
    text = filler(0, 20) + " " + QUESTION + " " + filler(50, 60)
    fragments, _ = clean(text, spans_of(evaluation, text))
    assert len(fragments) == 1 and fragments[0].endswith("filler109")
    short = filler(0, 20) + " " + QUESTION + " " + filler(50, 20)
    assert clean(short, spans_of(evaluation, short))[0] == []
    assert "no fragment" in clean(short, spans_of(evaluation, short))[1]


def test_documents_in_more_than_ten_pieces_are_dropped() -> None:
    evaluation = EvaluationNgrams.from_texts([QUESTION])

    def with_questions(count: int) -> str:
        return " ".join([part for i in range(count) for part in (filler(100 * i, 80), QUESTION)] + [filler(5000, 80)])

    nine, ten = with_questions(9), with_questions(10)
    assert len(clean(nine, spans_of(evaluation, nine))[0]) == 10
    assert clean(ten, spans_of(evaluation, ten)) == ([], "contaminated: splits into more than 10 pieces")


def test_ngrams_in_more_than_ten_documents_are_ignored() -> None:
    documents = np.array([*range(10), *range(11), 0, 0])
    ngrams = np.array([0] * 10 + [1] * 11 + [2, 2])
    assert rare_ngrams(documents, ngrams, 4).tolist() == [True, False, True, True]


def test_examples_too_short_to_check_are_counted() -> None:
    evaluation = EvaluationNgrams.from_texts(["Capital of France?", QUESTION])
    assert (evaluation.num_examples, evaluation.num_too_short, len(evaluation.hashes_E)) == (2, 1, 6)


def test_untouched_documents_stay_whole_however_short() -> None:
    assert clean("short", []) == (["short"], "")
