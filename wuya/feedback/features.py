"""What a simulated labeler can see in an answer: seven numbers a reader can check by eye.

Each feature lies in [0, 1] or [-1, 1] and saturates, so that overdoing it earns nothing more: a third kind word is
worth no more than the second, a second question no more than the first, a third shared word no more than the second.
`Normaliser` puts all of them on one scale: mean 0 and standard deviation 1 over human replies.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wuya.data.text import STOP_WORDS, content_words, words
from wuya.records import Message

SHARED_FEATURES = ("kind", "on_topic", "asks_back", "not_repetitive", "sensible_length", "finished")
"""What every labeler may weigh."""
EXTRA_FEATURE = "speaks_of_self"
"""What only held-out labelers weigh: the answer says something of its own ("I love hiking", not only "cool!")."""
FEATURES = (*SHARED_FEATURES, EXTRA_FEATURE)

SHORTEST_SENSIBLE, LONGEST_SENSIBLE = 6, 25
"""Words. Chitchat's human replies have a geometric mean of 12 and quartiles of 7 and 24 words."""
_LENGTH_SHOULDER = 0.5  # standard deviation, in log words, of the fall outside the sensible range
_SMALLEST_STD = 0.2  # human replies are always finished and rarely repeat; dividing by their std would explode

KIND_WORDS = frozenset(
    "amazing appreciate awesome beautiful best better care congrats congratulations cool cute delicious enjoy "
    "enjoyed excellent excited exciting fabulous fantastic favorite fine fun funny generous gentle glad good "
    "gorgeous grateful great happy hope hopefully impressive incredible interested interesting kind love loved "
    "lovely lucky luck neat nice perfect pleasant pleasure please proud smart sorry special super sweet talented "
    "thank thanks thankful thoughtful welcome wish wonderful worth wow yay".split()
)
RUDE_WORDS = frozenset(
    "annoying awful bad boring crap creepy damn dang disgusting dumb evil fool gross hate hated hates hell horrible "
    "idiot jerk kill lame lazy liar loser moron nasty pathetic pissed ridiculous rude screw shit shut stupid suck "
    "sucks terrible trash ugly useless weird worst worthless wrong".split()
)
_NEGATIONS = frozenset(
    "not no never don't dont didn't didnt doesn't doesnt isnt isn't aren't wasn't wasnt can't cant won't".split()
)
_QUESTION_WORDS = frozenset(
    "what what's whats when where who who's which why how how's do does did are is was were have has had can could "
    "would will should you your you're u ya any".split()
)
_FIRST_PERSON = frozenset("i i'm im i've ive i'd i'll my me mine myself we we're our".split())

_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]|[^.!?\n]+$")


def features(messages: Sequence[Message], completion: str, *, finished: bool = True) -> dict[str, float]:
    """The features of one answer, before normalisation, under the names of `FEATURES`."""
    return dict(zip(FEATURES, feature_values(tuple(messages), completion, finished), strict=True))


@lru_cache(maxsize=1 << 17)
def feature_values(messages: tuple[Message, ...], completion: str, finished: bool = True) -> tuple[float, ...]:
    """As `features`, in the order of `FEATURES`; cached, because every labeler reads the same answers."""
    answer = _words(completion)
    if not answer:
        return (0.0, 0.0, 0.0, 0.0, 0.0, float(finished), 0.0)
    prompt_stems, prompt_grams = _prompt_facts(messages)
    copied = _copied_share(answer, prompt_grams)
    overlap = len(prompt_stems.intersection(content_words(completion)))
    return (
        _kind(answer),
        min(overlap, 2) / 2 * (1.0 - copied),
        _asks_back(completion),
        1.0 - max(_repeated_share(answer), copied),
        _sensible_length(len(answer)),
        float(finished),
        _speaks_of_self(completion),
    )


@lru_cache(maxsize=1 << 13)
def _prompt_facts(messages: tuple[Message, ...]) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Content stems of the chat so far, and every run of 2 to 4 words in it."""
    stems = frozenset(s for m in messages if m.role != "system" for s in content_words(m.content))
    grams = {gram for m in messages for n in (2, 3, 4) for gram in _grams(_words(m.content), n)}
    return stems, frozenset(grams)


def _words(text: str) -> list[str]:
    """Words, curly apostrophes made straight."""
    return words(text.replace("\u2019", "'"))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _copied_share(words: list[str], prompt_grams: frozenset[tuple[str, ...]]) -> float:
    """Share of the answer's runs of four words (or of the whole answer, if shorter) that stand in the prompt."""
    grams = _grams(words, min(4, len(words)))
    return sum(gram in prompt_grams for gram in grams) / len(grams)


def _repeated_share(words: list[str]) -> float:
    """Largest share of repeats among the answer's content words, word pairs and word triples."""
    units: list[Sequence[object]] = [[w for w in words if w not in STOP_WORDS], _grams(words, 2), _grams(words, 3)]
    return max((1.0 - len(set(unit)) / len(unit) for unit in units if unit), default=0.0)


def _kind(words: list[str]) -> float:
    """Different kind words less different rude ones, each counted up to two; in [-1, 1]. `not good` is not kind."""
    negated = {w for before, w in pairwise(words) if before in _NEGATIONS}
    kind, rude = len((set(words) & KIND_WORDS) - negated), len((set(words) & RUDE_WORDS) - negated)
    return min(kind, 2) / 2 - min(rude, 2) / 2


def _asks_back(completion: str) -> float:
    """1 if the answer ends with a genuine question, 0.7 if it asks one earlier: at least two words, one that asks."""
    sentences = [s.strip() for s in _SENTENCE.findall(completion) if s.strip(" .!?\n")]
    genuine = [s.endswith("?") and _is_question(_words(s)) for s in sentences]
    if not any(genuine):
        return 0.0
    return 1.0 if genuine[-1] else 0.7


def _is_question(words: list[str]) -> bool:
    return len(words) >= 2 and not _QUESTION_WORDS.isdisjoint(words)


def _sensible_length(num_words: int) -> float:
    """1 between the sensible lengths, falling smoothly (in log words) outside."""
    nearest = min(max(num_words, SHORTEST_SENSIBLE), LONGEST_SENSIBLE)
    distance = math.log(num_words / nearest) / _LENGTH_SHOULDER
    return math.exp(-0.5 * distance * distance)


def _speaks_of_self(completion: str) -> float:
    """1 if a sentence that is no question has at least four words, one of them in the first person."""
    for sentence in _SENTENCE.findall(completion):
        words = _words(sentence)
        if len(words) >= 4 and not sentence.rstrip().endswith("?") and not _FIRST_PERSON.isdisjoint(words):
            return 1.0
    return 0.0


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Brings every feature to mean 0 and standard deviation 1 over human replies."""

    means: tuple[float, ...]
    stds: tuple[float, ...]

    @classmethod
    def fit(cls, replies: Iterable[tuple[Sequence[Message], str]]) -> "Normaliser":
        """From (prompt messages, human reply) pairs. A feature humans hardly vary keeps a std of at least 0.2."""
        values_NF = np.array([feature_values(tuple(messages), reply, True) for messages, reply in replies])
        if values_NF.size == 0:
            raise ValueError("a normaliser needs at least one human reply")
        stds = np.maximum(values_NF.std(axis=0), _SMALLEST_STD)
        return cls(tuple(values_NF.mean(axis=0).tolist()), tuple(stds.tolist()))

    def __call__(self, values_NF: NDArray[np.float64]) -> NDArray[np.float64]:
        """Normalised features, [N, F] in the order of `FEATURES`."""
        normalised_NF: NDArray[np.float64] = (values_NF - np.array(self.means)) / np.array(self.stds)
        return normalised_NF
