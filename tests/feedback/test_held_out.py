"""Rankings divided between a reward model and a judge: no prompt on both sides, none that changes sides."""

import json
from pathlib import Path

from wuya.feedback.held_out import hold_out
from wuya.files import read_jsonl


def write(path: Path, count: int, *, ranks: tuple[int, int] = (1, 2)) -> Path:
    rows = [
        {"id": f"p{n}", "prompt": [{"role": "user", "content": f"question {n}"}], "ranks": ranks, "labeler": labeler}
        for n in range(count)
        for labeler in ("ann", "bob")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sides(folder: Path, rankings: Path, *, share: float) -> tuple[set[str], set[str]]:
    hold_out(rankings, folder / "training", folder / "judging", share=share)
    training, judging = ({str(row["id"]) for _, row in read_jsonl(folder / name)} for name in ("training", "judging"))
    return training, judging


def test_every_prompt_is_on_one_side_with_all_its_votes(tmp_path: Path) -> None:
    rankings = write(tmp_path / "rankings.jsonl", 200)
    training, judging = sides(tmp_path, rankings, share=0.25)
    assert not training & judging and len(training | judging) == 200 and 30 <= len(judging) <= 70
    rows = [row for name in ("training", "judging") for _, row in read_jsonl(tmp_path / name)]
    assert sorted(map(str, rows)) == sorted(str(row) for _, row in read_jsonl(rankings))


def test_a_prompt_keeps_its_side_when_a_round_adds_rankings(tmp_path: Path) -> None:
    before = sides(tmp_path, write(tmp_path / "few", 50), share=0.25)
    after = sides(tmp_path, write(tmp_path / "many", 200), share=0.25)
    assert before[0] <= after[0] and before[1] <= after[1]


def test_only_rankings_that_prefer_something_are_counted(tmp_path: Path) -> None:
    ties = write(tmp_path / "ties", 40, ranks=(1, 1))
    assert hold_out(ties, tmp_path / "a", tmp_path / "b", share=0.5) == (0, 0)
