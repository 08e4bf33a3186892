"""Each gate must be able to fail."""

import copy
from typing import Any

import pytest

from wuya.evals.gates import check_gates


def rate(mean: float) -> dict[str, float | int]:
    return {"mean": mean, "low": mean - 0.03, "high": mean + 0.03, "n": 600}


SUMMARY: dict[str, Any] = {
    "win_rate": {
        "sft_vs_base": rate(0.6), "sft_vs_fewshot_base": rate(0.6), "ppo_vs_sft": rate(0.70),
        "ppo_ptx_vs_sft": rate(0.69), "best_of_4_vs_sft": rate(0.66),
    },
    "reward_model": {"accuracy": 0.75, "accuracy_low": 0.73, "agreement": 0.75, "ceiling": 0.818},
    "kl": {"ppo": {"per_response": 4.0, "per_token": 0.2}, "ppo_ptx": {"per_response": 4.0, "per_token": 0.2}},
    "tax": {"ppo": {"mean": 0.05, "low": 0.04, "high": 0.06}, "ppo_ptx": {"mean": 0.01, "low": 0.0, "high": 0.02}},
    "diversity": {
        "sft": {"distinct_2": 0.5, "median_words": 10.0, "most_common_share": 0.0, "most_common": ""},
        "ppo_ptx": {"distinct_2": 0.45, "median_words": 11.0, "most_common_share": 0.01, "most_common": "yes"},
    },
    "outside_judges": {"ppo_ptx_worse_than_sft": {"bits per byte": {"mean": -0.1, "low": -0.2, "high": 0.0}}},
}  # fmt: skip


def failed(summary: dict[str, Any]) -> list[str]:
    return [gate.name for gate in check_gates(summary) if not gate.passed]


def test_a_good_summary_passes_every_gate() -> None:
    assert failed(SUMMARY) == []


@pytest.mark.parametrize(
    ("path", "value", "gate"),
    [
        (("win_rate", "sft_vs_base"), rate(0.52), "prefer SFT to base"),
        (("win_rate", "ppo_ptx_vs_sft"), rate(0.64), "PPO-ptx preferred to SFT"),
        (("win_rate", "best_of_4_vs_sft"), rate(0.72), "best-of-4"),
        (("win_rate", "ppo_vs_sft"), rate(0.75), "within 3 points"),
        (("reward_model", "accuracy"), 0.72, "as good as one labeler"),
        (("reward_model", "ceiling"), 0.70, "below the ceiling"),
        (("kl", "ppo_ptx", "per_response"), 8.5, "KL a response"),
        (("kl", "ppo", "per_token"), 0.3, "KL a token"),
        (("tax", "ppo_ptx", "mean"), 0.03, "half of PPO's tax"),
        (("diversity", "ppo_ptx", "distinct_2"), 0.3, "distinct bigrams"),
        (("diversity", "ppo_ptx", "most_common_share"), 0.05, "no answer for everything"),
        (("diversity", "ppo_ptx", "median_words"), 14.0, "median length"),
        (("outside_judges", "ppo_ptx_worse_than_sft", "bits per byte", "low"), 0.01, "outside judge"),
    ],
)
def test_each_gate_can_fail(path: tuple[str, ...], value: object, gate: str) -> None:
    summary = copy.deepcopy(SUMMARY)
    place = summary
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    names = failed(summary)
    assert any(gate in name for name in names), names


def test_no_tax_is_nothing_to_halve() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["tax"]["ppo"] = {"mean": 0.005, "low": 0.001, "high": 0.01}
    [tax] = [gate for gate in check_gates(summary) if "tax" in gate.name]
    assert tax.passed and "no tax to halve" in tax.found
