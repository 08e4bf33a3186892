"""Simulated labelers: people for a demo that has none. Every table made with them must say so.

A labeler's utility of an answer is

    shared taste (normalised features)  +  scale * (own taste + noise)

The *shared taste* is what all labelers have in common, hence what a reward model can learn. The *own tastes* of a group
sum to zero, so that the shared taste really is the group's mean. The *noise* is a mood added to the utility: a fixed
function of (labeler, prompt, answer), so that asking again gives the same vote. One `scale` is set once, on SFT
answers, so that two training labelers agree on about 75 % of pairs (people do on 73 to 77 %: InstructGPT section
3.4), and is then frozen. Held-out labelers are other people, and weigh one feature that no training labeler weighs.
Models never see a utility, only rankings.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wuya.errors import DataError
from wuya.feedback.features import EXTRA_FEATURE, FEATURES, SHARED_FEATURES, Normaliser, feature_values, features
from wuya.feedback.rankings import dense_ranks
from wuya.files import write_atomic
from wuya.records import Candidate, Message, Prompt, Ranking

__all__ = [
    "EXTRA_FEATURE",
    "FEATURES",
    "SHARED_FEATURES",
    "Labeler",
    "Labelers",
    "Normaliser",
    "SharedTaste",
    "calibrate_noise",
    "features",
    "make_labelers",
    "rank_all",
]

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "kind": 0.7,
    "on_topic": 1.0,
    "asks_back": 0.8,
    "not_repetitive": 0.7,
    "sensible_length": 0.7,
    "finished": 0.25,
}
"""Utility per standard deviation of human replies. Humans always finish, so that one's unit is the floor of .2 (see
`Normaliser`): an answer cut off by the token limit loses 1.25."""


@dataclass(frozen=True)
class SharedTaste:
    """What every labeler values: a weight per feature, in utility per human standard deviation."""

    weights: Mapping[str, float]
    normaliser: Normaliser

    def __post_init__(self) -> None:
        _check_features(self.weights, SHARED_FEATURES, "the shared taste")

    def utility(self, messages: Sequence[Message], completion: str, *, finished: bool = True) -> float:
        """Noiseless utility of an answer; its mean over human replies is 0."""
        return self._linear(feature_values(tuple(messages), completion, finished))

    @cached_property
    def _linear(self) -> "_Linear":
        return _Linear.of(self.weights, self.normaliser)


@dataclass(frozen=True)
class Labeler:
    """One simulated person."""

    name: str
    taste: SharedTaste
    own_weights: Mapping[str, float]
    """Added to the shared weights after multiplication with `scale`."""
    noise_std: float
    """Standard deviation of the mood added to each utility, before `scale`."""
    seed: int
    scale: float = 1.0
    tie_threshold: float = 0.1
    """Answers whose utilities lie at most this far apart are tied."""
    drift: Mapping[str, float] = field(default_factory=dict)
    """Added to the own weights once a round: a taste that wanders, or care that wears off."""
    spam_share: float = 0.0
    """Share of prompts ranked without reading: 1 is a spammer, .2 somebody tired."""

    def __post_init__(self) -> None:
        _check_features(self.own_weights, FEATURES, f"labeler {self.name}")
        _check_features(self.drift, FEATURES, f"the drift of labeler {self.name}")

    def utility(self, prompt: Prompt, candidate: Candidate, *, round: int = 0) -> float:
        """Utility with own taste and noise; the same whenever asked. A prompt that is spammed gets a random number."""
        if self.spam_share and _uniform(f"spam\0{self.seed}\0{prompt.id}") < self.spam_share:
            return 10.0 * self.mood(f"spam {prompt.id}", candidate.text)
        values = feature_values(prompt.messages, candidate.text, candidate.finished)
        drifted = self.scale * round * self._drift(values) if self.drift and round else 0.0
        return self._linear(values) + drifted + self.scale * self.noise_std * self.mood(prompt.id, candidate.text)

    def mood(self, prompt_id: str, completion: str) -> float:
        """A standard normal number that depends on nothing but (seed, prompt, completion)."""
        key = f"{self.seed}\0{prompt_id}\0{completion}".encode(errors="surrogatepass")
        digest = hashlib.blake2b(key, digest_size=16).digest()
        uniform = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 1)  # in (0, 1): its logarithm exists
        angle = 2 * math.pi * int.from_bytes(digest[8:], "big") / 2**64
        return math.sqrt(-2 * math.log(uniform)) * math.cos(angle)

    def rank(self, prompt: Prompt, candidates: Sequence[Candidate], *, round: int = 0) -> Ranking:
        """Dense ranks of the candidates, with ties where the labeler sees no difference."""
        utilities = [self.utility(prompt, candidate, round=round) for candidate in candidates]
        ranks = dense_ranks(utilities, tie_threshold=self.tie_threshold)
        return Ranking(prompt, tuple(candidates), ranks, self.name, round=round, source="simulated")

    def prefer(self, prompt: Prompt, a: Candidate, b: Candidate) -> float:
        """1.0 if `a` is better, 0.0 if `b` is, 0.5 if the labeler sees no difference."""
        difference = self.utility(prompt, a) - self.utility(prompt, b)
        return 0.5 if abs(difference) <= self.tie_threshold else float(difference > 0)

    @cached_property
    def _drift(self) -> "_Linear":
        return _Linear.of(self.drift, self.taste.normaliser)

    @cached_property
    def _linear(self) -> "_Linear":
        own, shared = self.own_weights, self.taste.weights
        weights = {name: shared.get(name, 0.0) + self.scale * own.get(name, 0.0) for name in FEATURES}
        return _Linear.of(weights, self.taste.normaliser)


@dataclass(frozen=True)
class Labelers:
    """The people of one demo: whom the reward model learns from, and others who judge the result."""

    taste: SharedTaste
    training: tuple[Labeler, ...]
    held_out: tuple[Labeler, ...]
    agreement: float | None = None
    """Share of pairs on which two training labelers agreed when the noise was calibrated; None before."""
    seed: int = field(default=0)

    def shared_utility(self, prompt: Prompt, candidate: Candidate) -> float:
        """The noiseless utility all labelers share: what accuracy 'against utility' is measured with."""
        return self.taste.utility(prompt.messages, candidate.text, finished=candidate.finished)

    def named(self, name: str) -> Labeler:
        """The labeler of that name."""
        for labeler in (*self.training, *self.held_out):
            if labeler.name == name:
                return labeler
        raise DataError(
            f"there is no labeler {name!r}", found=", ".join(x.name for x in (*self.training, *self.held_out))
        )

    def scaled(self, scale: float) -> "Labelers":
        """The same people with own taste and noise multiplied by `scale` instead of the present one."""
        training, held_out = (tuple(replace(x, scale=scale) for x in group) for group in (self.training, self.held_out))
        return replace(self, training=training, held_out=held_out, agreement=None)

    def with_spammers(self, names: Sequence[str], *, spam_share: float = 1.0) -> "Labelers":
        """The same people, some of whom rank that share of their prompts at random."""
        for name in names:
            self.named(name)

        def changed(group: Sequence[Labeler]) -> tuple[Labeler, ...]:
            return tuple(replace(x, spam_share=spam_share) if x.name in names else x for x in group)

        return replace(self, training=changed(self.training), held_out=changed(self.held_out))

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        people = [
            {k: getattr(x, k) for k in _SAVED} | {"held_out": x in self.held_out}
            for x in (*self.training, *self.held_out)
        ]
        row = {
            "simulated": True,
            "seed": self.seed,
            "agreement": self.agreement,
            "weights": dict(self.taste.weights),
            "normaliser": {"features": FEATURES, **asdict(self.taste.normaliser)},
            "labelers": people,
        }
        write_atomic(path, json.dumps(row, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Labelers":
        """Read what `save` wrote."""
        try:
            row = json.loads(Path(path).read_text(encoding="utf-8"))
            normaliser = Normaliser(tuple(row["normaliser"]["means"]), tuple(row["normaliser"]["stds"]))
            if tuple(row["normaliser"]["features"]) != FEATURES:
                raise DataError(f"`{path}` was made with other features", found=str(row["normaliser"]["features"]))
            taste = SharedTaste(row["weights"], normaliser)
            groups: dict[bool, list[Labeler]] = {False: [], True: []}
            for person in row["labelers"]:
                held_out = person.pop("held_out")
                groups[held_out].append(Labeler(taste=taste, **person))
        except FileNotFoundError as error:
            raise DataError(f"there is no labelers file `{path}`", hint="`wuya demo` writes one") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"`{path}` is not a labelers file", found=str(error)) from error
        return cls(taste, tuple(groups[False]), tuple(groups[True]), row["agreement"], row["seed"])


def make_labelers(
    normaliser: Normaliser,
    *,
    num_training: int = 5,
    num_held_out: int = 3,
    seed: int = 0,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    own_taste_std: float = 0.25,
    noise_std: float = 1.0,
    extra_weight: float = 0.3,
    tie_threshold: float = 0.1,
) -> Labelers:
    """A group of labelers to learn from and another to judge, before calibration.

    Args:
        weights: the shared taste, utility per human standard deviation of each of `SHARED_FEATURES`.
        own_taste_std: spread of each own weight between the people of a group; a group's own weights sum to zero.
        noise_std: of the mood; only its ratio to `own_taste_std` and `extra_weight` matters after calibration.
        extra_weight: mean own weight of held-out labelers on `EXTRA_FEATURE`, which training labelers weigh 0.
    """
    taste = SharedTaste(dict(weights), normaliser)
    groups: list[tuple[Labeler, ...]] = []
    for purpose, count in enumerate((num_training, num_held_out)):
        rng = np.random.default_rng((seed, purpose))
        own_LF = rng.normal(size=(count, len(SHARED_FEATURES)))
        if count > 1:  # the factor keeps the spread that taking out the mean takes away
            own_LF = (own_LF - own_LF.mean(axis=0)) * math.sqrt(count / (count - 1))
        extra_L = extra_weight * rng.uniform(0.5, 1.5, size=count) * purpose
        prefix = ("labeler", "held_out")[purpose]
        groups.append(
            tuple(
                Labeler(
                    name=f"{prefix}_{index + 1}",
                    taste=taste,
                    own_weights=dict(
                        zip(FEATURES, [*(own_taste_std * own_LF[index]).tolist(), float(extra_L[index])], strict=True)
                    ),
                    noise_std=noise_std,
                    seed=int(rng.integers(2**31)),
                    tie_threshold=tie_threshold,
                )
                for index in range(count)
            )
        )
    return Labelers(taste, groups[0], groups[1], seed=seed)


def calibrate_noise(
    labelers: Labelers,
    answers: Sequence[tuple[Prompt, Sequence[Candidate]]],
    *,
    target_agreement: float = 0.75,
    tolerance: float = 0.03,
) -> Labelers:
    """Set the one scale of own taste and noise so that training labelers agree as often as people do.

    Args:
        answers: prompts with K >= 2 sampled answers of the SFT model each, from tuning data.
        target_agreement: mean over pairs of labelers and answers, pairs that either labeler ties left out.
        tolerance: how far off the target the result may be before this raises.
    Returns: the same people with the scale set and the agreement it gave.
    """
    noiseless_N = np.array([labelers.shared_utility(p, c) for p, group in answers for c in group])
    ends = np.cumsum([0, *(len(group) for _, group in answers)])
    pairs = [ij for low, high in pairwise(ends.tolist()) for ij in combinations(range(low, high), 2)]
    if not pairs or len(labelers.training) < 2:
        raise DataError(
            "calibration needs two training labelers and a prompt with two answers", found=f"{len(pairs)} pairs"
        )
    pair_P2 = np.array(pairs)
    shared_P = noiseless_N[pair_P2[:, 0]] - noiseless_N[pair_P2[:, 1]]
    own_LP = np.array(
        [
            (own_N := _deviations(labeler, answers))[pair_P2[:, 0]] - own_N[pair_P2[:, 1]]
            for labeler in labelers.training
        ]
    )
    ties_L1 = np.array([[labeler.tie_threshold] for labeler in labelers.training])

    def agreement(scale: float) -> float:
        difference_LP = shared_P + scale * own_LP
        vote_LP = np.sign(difference_LP) * (np.abs(difference_LP) > ties_L1)
        product = [vote_LP[i] * vote_LP[j] for i, j in combinations(range(len(vote_LP)), 2)]
        decided = np.abs(product).sum()
        return float((np.array(product) > 0).sum() / decided) if decided else float("nan")

    low, high = 0.0, 1.0
    while agreement(high) > target_agreement and high < 1e6:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if agreement(middle) > target_agreement else (low, middle)
    reached = agreement(high)
    if not abs(reached - target_agreement) <= tolerance:
        raise DataError(
            f"labelers can't be made to agree on {target_agreement:.0%} of pairs",
            found=f"{reached:.1%} at scale {high:.3g}",
            hint="are the answers all alike? sample more of them, at temperature 1",
        )
    return replace(labelers.scaled(high), agreement=reached)


def rank_all(
    labelers: Sequence[Labeler],
    answers: Sequence[tuple[Prompt, Sequence[Candidate]]],
    *,
    overlap: int | None = None,
    round: int = 0,
) -> Iterator[Ranking]:
    """Rankings of every prompt by `overlap` labelers in turn (all of them if None)."""
    each = len(labelers) if overlap is None else min(overlap, len(labelers))
    for index, (prompt, candidates) in enumerate(answers):
        for offset in range(each):
            yield labelers[(index * each + offset) % len(labelers)].rank(prompt, candidates, round=round)


@dataclass(frozen=True, slots=True)
class _Linear:
    """weights . normalised(values), folded into one dot product and a constant."""

    factors: tuple[float, ...]
    constant: float

    @classmethod
    def of(cls, weights: Mapping[str, float], normaliser: Normaliser) -> "_Linear":
        factors = tuple(weights.get(n, 0.0) / s for n, s in zip(FEATURES, normaliser.stds, strict=True))
        return cls(factors, -sum(f * m for f, m in zip(factors, normaliser.means, strict=True)))

    def __call__(self, values: Sequence[float]) -> float:
        return self.constant + sum(f * v for f, v in zip(self.factors, values, strict=True))


def _deviations(labeler: Labeler, answers: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> NDArray[np.float64]:
    """Own taste plus noise of one labeler for every answer, at scale 1."""
    own = _Linear.of(labeler.own_weights, labeler.taste.normaliser)
    return np.array(
        [
            own(feature_values(p.messages, c.text, c.finished)) + labeler.noise_std * labeler.mood(p.id, c.text)
            for p, group in answers
            for c in group
        ]
    )


_SAVED = ("name", "own_weights", "noise_std", "seed", "scale", "tie_threshold", "drift", "spam_share")
"""Fields of a labeler in the file; the taste is written once for all."""


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on nothing but the key."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "big") / 2**64


def _check_features(weights: Mapping[str, float], known: Sequence[str], whose: str) -> None:
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise DataError(f"{whose} weighs unknown features", found=", ".join(unknown), hint=f"known: {', '.join(known)}")
