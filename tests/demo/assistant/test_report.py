"""The report shows twenty answers side by side and claims no more than its intervals allow."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.demo.assistant.report import verdict, write_reports


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": 30}


@pytest.fixture
def summary() -> dict[str, Any]:
    names = ("original", "sft", "ppo", "best_of_n")
    judge = {"num_prompts": 140, "accuracy": interval(0.58, 0.52, 0.66), "length_correlation": 0.1}
    return {
        "model": "smollm2", "size": "small", "seed": 0,
        "data": {"counts": {"reward": 300, "held_out": 140}, "seconds": 1.0, "cpu_seconds": 1.5},
        "reward": judge, "gold": judge,
        "ppo": {"seconds": 60.0, "cpu_seconds": 90.0, "updates": [
            {"objective/scores": s, "objective/kl": k} for s, k in ((0.0, 0.0), (0.4, 1.5))]},
        "evaluate": {
            "win_rate": {"ppo_vs_sft": interval(0.6, 0.52, 0.68), "best_of_4_vs_sft": interval(0.6, 0.5, 0.7)},
            "kl": {"ppo": {"per_response": 2.5}}, "finished": dict.fromkeys(names, 0.9),
            "diversity": {name: {"median_words": 31} for name in names},
        },
        "likelihood": {
            **{name: interval(2.1, 2.0, 2.2) for name in ("original", "sft", "ppo")},
            "sft_less_original": interval(-0.1, -0.15, -0.05), "ppo_less_original": interval(-0.1, -0.2, 0.1),
        },
    }  # fmt: skip


ANSWERS_OF_THE_FOURTH = (("original", "original 3 ..."), ("SFT", "sft 3\n"), ("PPO", "ppo / 3 |"))


def write_answers(folder: Path, count: int = 20) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"question {n} <b>?"}],
            "answers": {"sft": f"sft {n}", "ppo": f"ppo\n\n{n} | <script>", "original": f"original {n}"},
            "finished": {"sft": True, "ppo": True, "original": False},
        }
        for n in range(count)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_twenty_prompts_with_every_models_answer(summary: dict[str, Any], tmp_path: Path) -> None:
    write_answers(tmp_path)
    write_reports(tmp_path, summary)
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "### 20" in text and "### 21" not in text
    shown = [text.index(f"**{name}**: {answer}") for name, answer in ANSWERS_OF_THE_FOURTH]
    assert shown == sorted(shown)
    assert page.count("<td class=text>") == 60 and "<script>" not in page
    assert "PPO preferred to SFT, by the gold reward model | 60.0% [52.0%, 68.0%]" in text
    assert "| all | 1.0 min | 1.5 min |" in text and "58.0% [52.0%, 66.0%]" in text


def test_the_verdict_follows_the_intervals(summary: dict[str, Any]) -> None:
    assert "prefers PPO to SFT." in verdict(summary) and "more likely" in verdict(summary)
    assert "part of the preference" not in verdict(summary)
    summary["evaluate"]["finished"]["sft"] = 0.2
    assert "Of PPO's answers 90% end before the limit, of SFT's 20%" in verdict(summary)
    summary["evaluate"]["win_rate"]["ppo_vs_sft"] = interval(0.55, 0.47, 0.62)
    summary["gold"] = {"accuracy": interval(0.53, 0.46, 0.6)}
    assert "no measurable difference" in verdict(summary) and "not measurably better than chance" in verdict(summary)
    summary["evaluate"]["win_rate"]["ppo_vs_sft"] = interval(0.4, 0.3, 0.48)
    assert "PPO made it worse" in verdict(summary)
