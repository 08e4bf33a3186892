"""A run's report shows each evaluation on held-out prompts with its intervals, and says which policy ships and why."""

import json
from pathlib import Path

from wuya.rlhf.preference_metrics import DIRECT_METRICS
from wuya.training.report import write_report


def run_folder(out: Path, *, chosen: bool) -> Path:
    rows = [
        {"step": step, "time": 0.0, "eval/score": score, "eval/score_low": score - 0.1, "eval/score_high": score + 0.1,
         "eval/distinct_2": 0.5, "objective/margin": 1.0}
        for step, score in ((0, 0.0), (5, 1.5), (10, 1.25))
    ]  # fmt: skip
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if chosen:
        choice = {"rule": "the highest <score>", "chosen": {"step": 5, "eval/score": 1.5}, "start": {}}
        (out / "summary.json").write_text(json.dumps({"choice": choice}))
    return out


def test_the_chosen_evaluation_is_marked_and_the_rule_is_stated(tmp_path: Path) -> None:
    text = write_report(run_folder(tmp_path, chosen=True), DIRECT_METRICS).read_text()
    assert "Ships: the highest &lt;score&gt;." in text
    assert "<td class=number>5 (ships)<td class=number>1.500 [1.400, 1.600]<td class=number>0.500" in text
    assert text.count("(ships)") == 1


def test_an_interval_is_drawn_with_its_mean_and_every_metric_has_its_meaning(tmp_path: Path) -> None:
    text = write_report(run_folder(tmp_path, chosen=False), DIRECT_METRICS).read_text()
    assert "The last policy ships." in text
    assert text.count("<figure>") == 3  # score with its ends, distinct bigrams, margin
    assert "the better answer&#x27;s score less the worse one&#x27;s" in text  # DPO's metrics had no caption


def test_a_run_without_held_out_prompts_has_no_such_section(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    assert "Held-out" not in write_report(tmp_path, {}).read_text()
