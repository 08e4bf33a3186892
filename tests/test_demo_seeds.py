"""The table over seeds shows every number of the summaries, best-of-4 and outside judges included, and nothing else."""

import runpy
from pathlib import Path
from typing import Any

import pytest

seeds_table = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "demo_seeds.py"))["seeds_table"]


def interval(mean: float) -> dict[str, float | int]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 600}


def summary(*, win_rate: float, passed: bool) -> dict[str, Any]:
    return {
        "size": "small",
        "win_rate": {"ppo_ptx_vs_sft": interval(win_rate), "best_of_4_vs_sft": interval(0.6)},
        "reward_model": {"accuracy": 0.71, "votes": 42, "reliability": [{"confidence": 0.5, "accuracy": 0.6}]},
        "scores": {"best_of_n": {"proxy": 1.25, "gold": 0.5}},
        "kl": {"best_of_n": {"per_response": 0.636, "per_token": None}},
        "bits_per_byte": {"sft": interval(2.0)},
        "tax": {"ppo": interval(0.02)},
        "outside_judges": {
            "real_turn_auc": 0.625,
            "real_turn": {"sft": interval(0.5)},
            "ppo_ptx_worse_than_sft": {"bits per byte of the answers": interval(-0.25)},
        },
        "diversity": {"sft": {"distinct_2": 0.7, "most_common": "yes"}},
        "gates": [
            {
                "name": "preferred",
                "state": "held" if passed else "not shown",
                "passed": passed,
                "found": f"{win_rate:.0%}",
                "bound": ">= 65 %",
            }
        ],
        "seconds": {"pretrain": 90.0, "ppo": 30.0},
        "environment": {"cpu": "some CPU", "cores": 2, "git": "abc1234", "packages": {"torch": "2.13"}},
    }


@pytest.fixture
def rows() -> dict[str, list[str]]:
    text = seeds_table({1: summary(win_rate=0.7, passed=True), 2: summary(win_rate=0.6, passed=False)})
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert all(len(cells) == 3 for cells in table[2:])
    return {name: cells for name, *cells in table}


def test_every_number_has_a_row_with_a_column_a_seed(rows: dict[str, list[str]]) -> None:
    assert rows["win_rate ppo ptx vs sft"] == ["0.700 [0.600, 0.800]", "0.600 [0.500, 0.700]"]
    assert rows["win_rate best of 4 vs sft"] == ["0.600 [0.500, 0.700]"] * 2
    assert rows["kl best of n per response"] == ["0.636"] * 2
    assert rows["scores best of n proxy"] == ["1.250"] * 2
    assert rows["outside_judges real turn auc"] == ["0.625"] * 2
    assert rows["outside_judges ppo ptx worse than sft bits per byte of the answers"] == ["-0.250 [-0.350, -0.150]"] * 2
    assert rows["reward_model votes"] == ["42", "42"]
    assert rows["minutes"] == ["2.0", "2.0"]


def test_what_is_no_number_has_no_row(rows: dict[str, list[str]]) -> None:
    assert not [name for name in rows if "reliability" in name or "per token" in name or "most common" in name]


def test_a_gate_that_did_not_hold_in_one_seed_stands_out_there(rows: dict[str, list[str]]) -> None:
    assert rows["gate: preferred"] == ["held: 70% (>= 65 %)", "**not shown**: 60% (>= 65 %)"]
