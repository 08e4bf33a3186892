"""Each gate must be able to fail, and an interval around its bound shows nothing."""

import copy
from typing import Any

import pytest

from wuya.evals.gates import check_gates, state_within


def rate(mean: float, half: float = 0.03) -> dict[str, float | int]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 600}


def kl(response: float, token: float) -> dict[str, float]:
    rows = {"per_response": response, "per_token": token}
    return {f"{name}{end}": value * by for name, value in rows.items() for end, by in KL_ENDS.items()}


KL_ENDS = {"": 1.0, "_low": 0.9, "_high": 1.1}
SUMMARY: dict[str, Any] = {
    "win_rate": {
        "sft_vs_base": rate(0.6), "sft_vs_fewshot_base": rate(0.6), "ppo_vs_sft": rate(0.70),
        "ppo_ptx_vs_sft": rate(0.69), "best_of_4_vs_sft": rate(0.66),
    },
    "paired": {
        "ppo_ptx_less_best_of_n": {"win_rate": rate(0.03)},
        "ppo_ptx_less_ppo": {"win_rate": rate(-0.01, 0.015), "tax_beyond_half": rate(-0.01, 0.005)},
    },
    "reward_model": {
        "accuracy": 0.75, "accuracy_less_agreement": rate(0.01, 0.02), "accuracy_less_ceiling": rate(-0.06, 0.02)
    },
    "kl": {"ppo": kl(4.0, 0.2), "ppo_ptx": kl(4.0, 0.2)},
    "tax": {"ppo": rate(0.05, 0.01), "ppo_ptx": rate(0.015, 0.01)},
    "diversity": {
        "ppo_ptx": {"most_common_share": 0.01, "most_common_low": 0.005, "most_common_high": 0.015, "most_common": "y"}
    },
    "variety_beside_sft": {"ppo_ptx": {"distinct_2": rate(0.9), "median_words": rate(1.1)}},
    "outside_judges": {"ppo_ptx_worse_than_sft": {"bits per byte": rate(-0.1, 0.05)}},
}  # fmt: skip


def states(path: tuple[str, ...] = (), value: object = None) -> dict[str, str]:
    """Gate -> state, with one figure of the summary changed."""
    summary = copy.deepcopy(SUMMARY)
    place = summary
    for key in path[:-1]:
        place = place[key]
    if path:
        place[path[-1]] = value
    return {gate.name: gate.state for gate in check_gates(summary)}


def test_a_good_summary_holds_every_gate() -> None:
    assert set(states().values()) == {"held"} and len(states()) == 16  # one outside judge of the demo's two


@pytest.mark.parametrize(
    ("path", "failing", "unclear", "gate"),
    [
        (("win_rate", "sft_vs_base"), rate(0.46), rate(0.52), "prefer SFT to base"),
        (("win_rate", "ppo_ptx_vs_sft"), rate(0.61), rate(0.66), "PPO-ptx preferred to SFT"),
        (("paired", "ppo_ptx_less_best_of_n", "win_rate"), rate(-0.06), rate(0.0), "best-of-4"),
        (("paired", "ppo_ptx_less_ppo", "win_rate"), rate(-0.07), rate(-0.01), "within 3 points"),
        (("paired", "ppo_ptx_less_ppo", "win_rate"), rate(0.07), rate(0.01), "within 3 points"),
        (("reward_model", "accuracy_less_agreement"), rate(-0.06), rate(-0.01), "as good as one labeler"),
        (("reward_model", "accuracy_less_ceiling"), rate(0.05), rate(-0.01), "below the ceiling"),
        (("kl", "ppo_ptx"), kl(9.0, 0.2), kl(7.9, 0.2), "KL per response, ppo_ptx"),
        (("kl", "ppo"), kl(4.0, 0.3), kl(4.0, 0.24), "KL per token, ppo;"),
        (("variety_beside_sft", "ppo_ptx", "distinct_2"), rate(0.6), rate(0.72), "distinct bigrams"),
        (("variety_beside_sft", "ppo_ptx", "median_words"), rate(1.4), rate(1.24), "median length"),
        (("variety_beside_sft", "ppo_ptx", "median_words"), rate(0.6), rate(0.74), "median length"),
        (("outside_judges", "ppo_ptx_worse_than_sft", "bits per byte"), rate(0.1), rate(-0.01), "outside judge"),
    ],
)
def test_each_gate_fails_on_its_whole_interval_and_shows_nothing_on_part_of_it(
    path: tuple[str, ...], failing: object, unclear: object, gate: str
) -> None:
    for value, expected in ((failing, "failed"), (unclear, "not shown")):
        [found] = [state for name, state in states(path, value).items() if gate in f"{name};"]
        assert found == expected


def test_one_answer_for_many_prompts_fails() -> None:
    row = {"most_common_share": 0.05, "most_common_low": 0.035, "most_common_high": 0.07, "most_common": "yes"}
    assert states(("diversity", "ppo_ptx"), row)["no answer for everything"] == "failed"
    row |= {"most_common_share": 0.015, "most_common_low": 0.008, "most_common_high": 0.029}
    assert states(("diversity", "ppo_ptx"), row)["no answer for everything"] == "not shown"


@pytest.mark.parametrize("plain", [0.0, 0.005, 0.05])
def test_a_taxed_ppo_ptx_fails_however_small_plain_ppos_tax_is(plain: float) -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["tax"] = {"ppo": rate(plain, 0.001), "ppo_ptx": rate(0.08, 0.01)}
    summary["paired"]["ppo_ptx_less_ppo"]["tax_beyond_half"] = rate(0.08 - plain / 2, 0.01)
    [tax] = [gate for gate in check_gates(summary) if "tax" in gate.name]
    assert tax.state == "failed"


def test_a_negligible_tax_need_not_be_halved() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["tax"] = {"ppo": rate(0.004, 0.001), "ppo_ptx": rate(0.005, 0.002)}
    summary["paired"]["ppo_ptx_less_ppo"]["tax_beyond_half"] = rate(0.003, 0.002)
    [tax] = [gate for gate in check_gates(summary) if "tax" in gate.name]
    assert tax.state == "held"
    summary["tax"]["ppo_ptx"] = rate(0.009, 0.004)
    [tax] = [gate for gate in check_gates(summary) if "tax" in gate.name]
    assert tax.state == "not shown"


def test_an_unknown_figure_shows_nothing_and_only_a_held_gate_has_passed() -> None:
    unknown = {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    assert state_within(None, low=0.0) == state_within(unknown, low=0.0) == "not shown"
    assert (
        states(("reward_model", "accuracy_less_agreement"), None)["reward model as good as one labeler"] == "not shown"
    )
    gates = {gate.name: gate.to_dict() for gate in check_gates(SUMMARY)}
    assert all(gate["passed"] is True for gate in gates.values())
