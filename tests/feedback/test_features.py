"""What simulated labelers see: each feature saturates, and no cheap trick earns more than a real answer."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from wuya.feedback.features import FEATURES, Normaliser, feature_values, features
from wuya.records import Message

PROMPT = (
    Message("assistant", "How was your weekend?"),
    Message("user", "Great, we went hiking with my two dogs at the lake."),
)


def feature(name: str, completion: str, **kwargs: bool) -> float:
    return features(PROMPT, completion, **kwargs)[name]


def test_features_of_a_good_answer_are_all_high() -> None:
    found = features(PROMPT, "That sounds lovely, I love hikes by a lake! What are your dogs called?")
    assert found == {
        "kind": 1.0,
        "on_topic": 1.0,
        "asks_back": 1.0,
        "not_repetitive": 1.0,
        "sensible_length": 1.0,
        "finished": 1.0,
        "speaks_of_self": 1.0,
    }
    assert tuple(found) == FEATURES


@pytest.mark.parametrize(
    ("name", "enough", "exploit"),
    [
        ("kind", "What a lovely and wonderful day!", "Lovely wonderful awesome great amazing sweet nice happy day!"),
        ("kind", "How lovely, lucky you", "lovely lovely lovely lovely lovely lovely lovely lucky"),
        ("on_topic", "I walk my dogs at a lake too", "dogs lake hiking weekend dogs lake hiking weekend"),
        ("asks_back", "Nice. Which lake was it?", "Which lake was it? Who are you? What do you do? How do you do?"),
        ("speaks_of_self", "I like lakes a lot.", "I like lakes a lot. I like me a lot. We like my lakes a lot."),
        ("sensible_length", "one two three four five six seven", " ".join(map(chr, range(97, 122)))),
    ],
)
def test_more_of_the_same_earns_no_more(name: str, enough: str, exploit: str) -> None:
    assert feature(name, exploit) <= feature(name, enough)


def test_repeating_oneself_costs() -> None:
    assert feature("not_repetitive", "Dogs are the best company at a lake") == 1.0
    assert feature("not_repetitive", "so nice so nice so nice so nice") < 0.4
    assert feature("not_repetitive", "dogs and dogs and dogs and more dogs") <= 0.25


def test_copying_the_prompt_earns_nothing() -> None:
    copied = "we went hiking with my two dogs at the lake"
    assert feature("on_topic", copied) == 0.0
    assert feature("not_repetitive", copied) == 0.0
    assert feature("on_topic", "two dogs") == 0.0, "short copies count as well"
    assert feature("on_topic", "Did the dogs swim in the lake?") == 1.0, "taking up single words is no copy"


def test_negated_and_rude_words_are_not_kind() -> None:
    assert feature("kind", "that is not nice") == 0.0
    assert feature("kind", "that is stupid") == -0.5
    assert feature("kind", "boring stupid ugly awful") == -1.0


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("And you?", 1.0),
        ("Which lake? I like lakes.", 0.7),
        ("?", 0.0),
        ("???? !!", 0.0),
        ("What?", 0.0),
        ("lake dog?", 0.0),
        ("No question at all.", 0.0),
        ("Wow! What kind of dogs do you have??", 1.0),
    ],
)
def test_only_genuine_questions_count(completion: str, value: float) -> None:
    assert feature("asks_back", completion) == value


def test_length_falls_smoothly_outside_the_sensible_range() -> None:
    lengths = [feature_values(PROMPT, " ".join(["word"] * n))[4] for n in range(1, 100)]
    assert lengths[5:25] == [1.0] * 20
    assert lengths[:6] == sorted(lengths[:6]) and lengths[24:] == sorted(lengths[24:], reverse=True)
    assert 0 < lengths[0] < 0.01 and lengths[-1] < 0.05


@pytest.mark.parametrize("completion", ["", "   ", "!!!", "\u4f60\u597d"])
def test_an_answer_without_words_has_no_merit(completion: str) -> None:
    assert set(feature_values(PROMPT, completion, False)) == {0.0}


def test_every_feature_is_bounded_on_noise() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [*"i you love nice dogs lake what ? . ! not bad great hiking the and".split()]
    for _ in range(300):
        text = " ".join(rng.choice(vocabulary, size=int(rng.integers(0, 60))))
        values = np.array(feature_values(PROMPT, text))
        assert (values <= 1).all() and (values >= -1).all() and (values[1:] >= 0).all()


def test_the_normaliser_gives_human_replies_mean_0_and_std_1() -> None:
    rng = np.random.default_rng(1)
    words = "i love that lake what a nice day do you like dogs they are great fun".split()
    replies = [
        (PROMPT, " ".join(rng.choice(words, size=int(rng.integers(1, 40)))) + "?" * int(rng.integers(2)))
        for _ in range(400)
    ]
    normaliser = Normaliser.fit(replies)
    normal_NF = normaliser(np.array([feature_values(m, t) for m, t in replies]))
    np.testing.assert_allclose(normal_NF.mean(axis=0), 0.0, atol=1e-9)
    for name, std in zip(FEATURES, normal_NF.std(axis=0), strict=True):
        assert std == pytest.approx(1.0) or name in ("finished", "not_repetitive")
    assert Normaliser(**{k: tuple(v) for k, v in json.loads(json.dumps(asdict(normaliser))).items()}) == normaliser


def test_the_normaliser_needs_replies() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Normaliser.fit([])
