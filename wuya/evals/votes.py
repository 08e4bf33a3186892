"""Who votes in an evaluation, and the votes: labelers, a reward model that no policy met, or the proxy by its name."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from wuya.checkpoints.checkpoint import describe_parent, resolve_checkpoint
from wuya.console import warn
from wuya.evals.answers import Answers
from wuya.evals.bootstrap import difference_interval
from wuya.evals.helpful import votes_for
from wuya.evals.likelihood import TextScore, alignment_tax, tax_beyond_half
from wuya.feedback.simulated import Labelers
from wuya.losses.preference import order_credit
from wuya.records import Prompt


class Voter(Protocol):
    """Compares two models' answers to the same prompts."""

    @property
    def name(self) -> str:
        """Who votes, as every table says it."""
        ...

    def votes(self, model: str, other: str) -> list[float]:
        """Share of the votes for `model`'s answer over `other`'s, one per prompt."""
        ...


class LabelerVoter:
    """Held-out simulated labelers."""

    name = "held-out simulated labelers"

    def __init__(self, labelers: Labelers, prompts: Sequence[Prompt], answers: Mapping[str, Answers]) -> None:
        self.judges = [labeler.prefer for labeler in labelers.held_out]
        self.prompts, self.answers = prompts, answers

    def votes(self, model: str, other: str) -> list[float]:
        """The mean over labelers."""
        return votes_for(self.prompts, self.answers[model].candidates, self.answers[other].candidates, self.judges)


class ScoreVoter:
    """A reward model: the higher score has the vote, equal scores halve it."""

    def __init__(self, name: str, scores: Mapping[str, Tensor]) -> None:
        self.name, self.scores = name, scores

    def votes(self, model: str, other: str) -> list[float]:
        """One vote per prompt: 1, 0 or .5."""
        return list(order_credit(self.scores[model] - self.scores[other]).tolist())


def choose_voter(
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
    labelers: Labelers | None,
    *,
    proxy: Mapping[str, Tensor],
    judged: Mapping[str, Tensor],
    trained_on: Sequence[str],
) -> Voter:
    """Labelers if there are any, then the held-out reward model, then the proxy.

    Args:
        proxy, judged: scores_B of each model's answers by `reward_model` and by `judge_reward_model`; may be empty.
        trained_on: the policies that were trained against the reward model that would vote.
    """
    if labelers is not None:
        return LabelerVoter(labelers, prompts, answers)
    scores = judged or proxy
    if not trained_on:
        held_out = "a reward model that no policy was trained against (not people)"
        return ScoreVoter(held_out if judged else "the reward model (a proxy, not people)", scores)
    names = ", ".join(f"`{name}`" for name in trained_on)
    warn(
        f"the reward model that votes is the one that {names} was trained against, so its votes do not show that the "
        "policy is better: give `--labelers`, or a `--judge_reward_model` trained on other rankings"
    )
    return ScoreVoter(f"the reward model that {names} was trained against (a proxy, not people)", scores)


def optimised_against(reward_model: str, policies: Mapping[str, Path]) -> list[str]:
    """Policies whose checkpoint records one of these reward models as what they were trained against."""
    folders = [Path(name.strip()) for name in reward_model.split(",") if name.strip()]
    rewards = {describe_parent(folder)["sha256"] for folder in folders if folder.exists()}
    found = []
    for name, path in policies.items():
        record = resolve_checkpoint(path) / "wuya.json"
        parents = json.loads(record.read_text(encoding="utf-8")).get("parents", {}) if record.is_file() else {}
        sha256 = (parents.get("reward") or {}).get("sha256")
        if sha256 and sha256 in rewards:
            found.append(name)
    return found


def compared(models: Collection[str], policies: Iterable[str], *, best_of: int) -> dict[str, tuple[str, str]]:
    """Comparison -> (model, other): the SFT model against the base, every policy and best-of-n against the SFT model.

    Args:
        models: whose answers there are.
    """
    pairs = {f"sft_vs_{name}": ("sft", name) for name in ("base", "fewshot_base") if name in models}
    pairs |= {f"{name}_vs_sft": (name, "sft") for name in policies}
    if "best_of_n" in models:
        pairs[f"best_of_{best_of}_vs_sft"] = ("best_of_n", "sft")
    return pairs


def paired_differences(
    votes: Mapping[str, Sequence[float]], texts: Mapping[str, Sequence[TextScore]]
) -> dict[str, dict[str, Any]]:
    """Every two models beside each other on the same prompts and texts: `a_less_b` of win rate, tax and half the tax.

    Args:
        votes: model -> its share of the votes against the SFT model, one per prompt.
        texts: model -> nats and bytes of the same raw documents, `sft` among them; may be empty.
    """
    differences: dict[str, dict[str, Any]] = {}
    for one, other in permutations(votes, 2):
        row = {"win_rate": difference_interval(votes[one], votes[other]).to_dict()}
        if one in texts and other in texts:
            row["tax"] = alignment_tax(texts[one], texts[other]).to_dict()
            row["tax_beyond_half"] = tax_beyond_half(texts[one], texts[other], texts["sft"]).to_dict()
        differences[f"{one}_less_{other}"] = row
    return differences
