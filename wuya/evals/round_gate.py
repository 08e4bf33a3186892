"""The gate of a round: may the next one start from this policy? Only a judge that the policy never met can say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wuya.evals.gates import State, state_above

Verdict = State | Literal["not gated"]


@dataclass(frozen=True, slots=True)
class RoundGate:
    """What the gate says of one round's policy."""

    verdict: Verdict
    reason: str

    @property
    def opens(self) -> bool:
        """The next round starts from this policy: it was shown to be better, or nobody was asked to show it."""
        return self.verdict in ("held", "not gated")


def gate_round(
    comparison: Mapping[str, Any], *, bound: float, judged_by: Literal["labelers", "held-out rankings", "nobody"],
    judge_accuracy: Mapping[str, Any] | None = None,
) -> RoundGate:  # fmt: skip
    """Judge a round's policy by its win rate against the SFT model.

    Args:
        comparison: holds `win_rate` with its interval; empty without evaluation prompts.
        bound: the whole interval must be above it.
        judged_by: who compared the answers. The reward model that the policy was trained against is nobody.
        judge_accuracy: of a judge made of held-out rankings, on the rankings it has not seen, with its interval; None
            where there were too few rankings to make one.
    """
    if not comparison:
        return RoundGate("not gated", "there are no `--evaluation_prompts`")
    if judged_by == "nobody":
        return RoundGate("not gated", "the only judge is the reward model that the policy was trained against")
    if judged_by == "held-out rankings":
        if judge_accuracy is None:
            return RoundGate("not shown", "too few rankings to hold some out for a judge")
        if state_above(judge_accuracy, 0.5) != "held":
            shown = f"{judge_accuracy['mean']:.1%} [{judge_accuracy['low']:.1%}, {judge_accuracy['high']:.1%}]"
            return RoundGate("not shown", f"the judge made of held-out rankings is not better than chance: {shown}")
    rate = comparison["win_rate"]
    state = state_above(rate, bound)
    found = f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
    return RoundGate(state, f"win rate {found}, the interval must be above {bound:.0%}")
