"""`wuya agreement` on a store whose labelers are known, and on a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from wuya.cli import main
from wuya.errors import DataError
from wuya.feedback.rankings import dense_ranks
from wuya.feedback.store import FeedbackStore
from wuya.recipes.agreement import AgreementConfig, run
from wuya.records import Candidate, Message, Prompt


def fill(database: Path) -> None:
    """Three people follow one taste, one votes at random; `ppo` is better than `sft`; strict grades two points less."""
    rng = np.random.default_rng(0)
    people = {"ann": 0.6, "bob": 0.6, "cai": 0.6, "random": 1e9}
    with FeedbackStore(database) as store:
        answers = [
            (
                Prompt(f"p{n}", (Message("user", f"question {n}"),)),
                tuple(Candidate(f"{model} {n}", model=model) for model in ("sft", "ppo", "base")),
            )
            for n in range(60)
        ]
        store.queue_tasks(answers, overlap=4)
        worth = {prompt.id: rng.normal([0, 1, -1], 1.0) for prompt, _ in answers}
        models = ["sft", "ppo", "base"]
        for who, noise in people.items():
            while task := store.claim(who):
                order = [models.index(c.text.split()[0]) for c in task.candidates]
                seen = (worth[task.prompt.id] + noise * rng.normal(size=3))[order]
                grades = np.clip(np.round(4 + np.nan_to_num(seen) - 2 * (who == "cai")), 1, 7)
                labels = {
                    id: {"overall_quality": int(grade), "hallucination": bool(grade < 3)}
                    for id, grade in zip(task.candidate_ids, grades, strict=True)
                }
                ranks = task.ranks_by_id(dense_ranks(seen.tolist(), tie_threshold=0.2))
                store.submit_ranking(task.assignment_id, ranks, labels=labels, active_ms=30_000)


def test_the_report_names_the_random_labeler_the_better_model_and_the_strict_labeler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "wuya.db")
    config = AgreementConfig(database=str(tmp_path / "wuya.db"), out=tmp_path / "out", num_samples=60)
    report = run(config)
    assert [row.labeler for row in report.labelers if row.suspect] == ["random"]
    assert [r.player for r in report.models.players] == ["ppo", "sft", "base"]
    assert report.strictness.players[0].player == "cai"
    assert {q.key for q in report.questions} == {"hallucination", "overall_quality"}
    assert all(row.seconds == 30 for row in report.labelers)
    printed = capsys.readouterr().out
    assert "Votes that look random: random" in printed and "ppo" in printed
    assert json.loads((tmp_path / "out" / "agreement.json").read_text())["pairwise"]["num_pairs"] > 500


def test_a_file_of_rankings_can_be_reported_on_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "?", "candidates": ["a", "b"], "ranks": [1, 2]}
    rows = [{**row, "labeler": who} for who in ("ann", "bob")]
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(
            [
                "agreement",
                "--rankings",
                str(tmp_path / "rankings.jsonl"),
                "--out",
                str(tmp_path / "out"),
                "--json",
                "true",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["pairwise"]["mean"] == 1.0 and report["labelers"][0]["skill"] is None


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rankings"):
        run(AgreementConfig(database=str(tmp_path / "new.db"), out=tmp_path))
