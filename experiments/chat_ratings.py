"""What do the partners' own ratings of their chats teach? The demo's real chats, honestly (docs/experiments.md).

    python experiments/chat_ratings.py --out runs/chat_ratings        # seconds; no model is trained

Reads PyPI `chitchat-dataset`: 5,988 of its chats carry ratings (witty, upbeat, interesting, 1 to 10), one set a chat,
without saying which partner gave it. The question is a reward model's: of two chats, which is rated higher? Fitted on
chats of training people, judged on chats of people held out (`wuya.data.chitchat.split_chats`); each figure is the
share of pairs ordered rightly (.5 is chance), ties left out, with a 95 % interval that resamples chats. Writes
ratings.json and ratings.md.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from wuya.data.chitchat import Chat, load_chats, split_chats
from wuya.files import make_folder, to_json, write_atomic

Floats = NDArray[np.float64]
RIDGES = (1.0, 10.0, 100.0)


def main() -> None:
    """Fit each idea on training people, judge on held-out people."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    splits = split_chats(load_chats())
    train, validation, test = ([c for c in splits[s] if c.ratings] for s in ("train", "validation", "test"))
    rating = {chat.id: float(np.mean([value for _, value in chat.ratings])) for chat in (*train, *validation, *test)}
    wanted_N = np.array([rating[chat.id] for chat in train])
    scores: dict[str, tuple[Floats, Floats]] = {
        "words in the chat": (words(validation), words(test)),
        "who talks: mean rating of the partners' other chats": (
            partner_means(train, rating, validation), partner_means(train, rating, test),
        ),
        "what is said: ridge on TF-IDF of the text": text_model(train, wanted_N, rating, validation, test),
    }  # fmt: skip
    scores["all three, standardised and fitted on validation"] = combined(scores, validation, rating)
    truth_N = np.array([rating[chat.id] for chat in test])
    found = {name: concordance(score_N, truth_N, seed=arguments.seed) for name, (_, score_N) in scores.items()}
    length_N = scores["words in the chat"][1]
    found |= {
        f"{name}, among chats of like length (within 10 %)": concordance(
            score_N, truth_N, like_N=length_N, seed=arguments.seed
        )
        for name, (_, score_N) in scores.items()
    }
    facts = describe(train, test, rating)
    text = report(facts, found)
    make_folder(arguments.out)
    write_atomic(arguments.out / "ratings.json", to_json({"facts": facts, "pair_accuracy": found}, indent=1) + "\n")
    write_atomic(arguments.out / "ratings.md", text)
    print(text)


def words(chats: Sequence[Chat]) -> Floats:
    """Length, in log words: the simplest thing a rating may follow."""
    return np.array([np.log1p(sum(len(turn.text.split()) for turn in chat.turns)) for chat in chats])


def partner_means(train: Sequence[Chat], rating: dict[str, float], chats: Sequence[Chat]) -> Floats:
    """Mean over a chat's partners of their mean rating in training chats; the overall mean for the unknown."""
    given: dict[str, list[float]] = defaultdict(list)
    for chat in train:
        for person in people(chat):
            given[person].append(rating[chat.id])
    overall = float(np.mean([rating[chat.id] for chat in train]))
    mean = {person: (sum(values) + 2 * overall) / (len(values) + 2) for person, values in given.items()}
    return np.array([np.mean([mean.get(person, overall) for person in people(chat)]) for chat in chats])


def text_model(
    train: Sequence[Chat], wanted_N: Floats, rating: dict[str, float], validation: Sequence[Chat], test: Sequence[Chat]
) -> tuple[Floats, Floats]:
    """A linear reward on words; its ridge is chosen on validation."""
    vectorizer = TfidfVectorizer(max_features=5000, min_df=5, sublinear_tf=True)
    x_train = vectorizer.fit_transform([text_of(chat) for chat in train])
    x_validation, x_test = (vectorizer.transform([text_of(c) for c in chats]) for chats in (validation, test))
    truth_N = np.array([rating[chat.id] for chat in validation])
    models = [Ridge(alpha=alpha, solver="sparse_cg").fit(x_train, wanted_N) for alpha in RIDGES]
    best = max(models, key=lambda model: pair_accuracy(model.predict(x_validation), truth_N))
    return best.predict(x_validation), best.predict(x_test)


def combined(
    scores: dict[str, tuple[Floats, Floats]], validation: Sequence[Chat], rating: dict[str, float]
) -> tuple[Floats, Floats]:
    """Least squares of the ratings on the standardised scores, fitted on validation."""
    x_ND = np.stack([validation_N for validation_N, _ in scores.values()], axis=1)
    y_ND = np.stack([test_N for _, test_N in scores.values()], axis=1)
    mean_D, std_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-9
    x_ND, y_ND = (x_ND - mean_D) / std_D, (y_ND - mean_D) / std_D
    wanted_N = np.array([rating[chat.id] for chat in validation])
    weights_D = np.linalg.lstsq(x_ND, wanted_N - wanted_N.mean(), rcond=None)[0]
    return x_ND @ weights_D, y_ND @ weights_D


def pair_accuracy(score_N: Floats, truth_N: Floats, like_N: Floats | None = None) -> float:
    """Share of the pairs with different ratings that the score orders as the ratings do; equal scores count half.

    `like_N`: only pairs in which this differs by less than log 1.1.
    """
    upper = np.triu_indices(len(truth_N), 1)
    truth = np.sign(truth_N[:, None] - truth_N)[upper]
    score = np.sign(score_N[:, None] - score_N)[upper]
    decided = truth != 0
    if like_N is not None:
        decided &= np.abs(like_N[:, None] - like_N)[upper] < np.log(1.1)
    return float(((score[decided] == truth[decided]) + 0.5 * (score[decided] == 0)).mean())


def concordance(
    score_N: Floats, truth_N: Floats, *, like_N: Floats | None = None, seed: int, num_samples: int = 200
) -> dict[str, float]:
    """`pair_accuracy` with a percentile interval over resampled chats."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_samples):
        s = rng.integers(len(truth_N), size=len(truth_N))
        drawn.append(pair_accuracy(score_N[s], truth_N[s], None if like_N is None else like_N[s]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": pair_accuracy(score_N, truth_N, like_N), "low": float(low), "high": float(high)}


def describe(train: Sequence[Chat], test: Sequence[Chat], rating: dict[str, float]) -> dict[str, float]:
    """How the ratings are spread, how far the three questions differ, and how much of them is who talks."""
    rows_NQ = np.array([[value for _, value in chat.ratings] for chat in (*train, *test)], dtype=np.float64)
    overall = np.mean(rows_NQ, axis=1)
    given: dict[str, list[float]] = defaultdict(list)
    for chat in (*train, *test):
        for person in people(chat):
            given[person].append(rating[chat.id])
    busiest = Counter({person: len(values) for person, values in given.items()})
    return {
        "rated chats of two people, training": len(train),
        "rated chats of two people, held out": len(test),
        "mean rating": float(overall.mean()),
        "share of chats rated 10 10 10": float((rows_NQ == 10).all(axis=1).mean()),
        "share with three equal ratings": float((rows_NQ == rows_NQ[:, :1]).all(axis=1).mean()),
        "mean correlation of the three questions": float((np.corrcoef(rows_NQ.T).sum() - 3) / 6),
        "share of the ratings' variance that is who talks": between_people(given),
        "chats of the busiest person": max(busiest.values()),
    }


def between_people(given: dict[str, list[float]]) -> float:
    """Intraclass correlation of ratings by person (one-way, people with at least 5 chats)."""
    groups = [np.array(values) for values in given.values() if len(values) >= 5]
    total, count = sum(map(len, groups)), len(groups)
    mean = sum(float(group.sum()) for group in groups) / total
    between = sum(len(g) * (float(g.mean()) - mean) ** 2 for g in groups) / (count - 1)
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / (total - count)
    size = (total - sum(len(g) ** 2 for g in groups) / total) / (count - 1)
    return (between - within) / (between + (size - 1) * within)


def people(chat: Chat) -> list[str]:
    """The two who talk."""
    return sorted({turn.sender for turn in chat.turns})


def text_of(chat: Chat) -> str:
    """All that is said."""
    return "\n".join(turn.text for turn in chat.turns)


def report(facts: dict[str, float], found: dict[str, dict[str, float]]) -> str:
    """Two Markdown tables."""
    lines = ["| fact | value |", "| --- | --- |"]
    lines += [
        f"| {name} | {value:,.3g} |" if value < 100 else f"| {name} | {value:,.0f} |" for name, value in facts.items()
    ]
    lines += ["", "| what orders two chats | pairs right, people held out |", "| --- | --- |"]
    lines += [f"| {name} | {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] |" for name, row in found.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
