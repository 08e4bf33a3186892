"""Names that were two things once are one thing each, and a tensor's suffix is its shape."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.inference.naive import sharp_model

ROOT = Path(__file__).parents[1] / "wuya"
ONE_THING = (
    "Engine",
    "ServingEngine",
    "KVCache",
    "AttentionCache",
    "Interval",
    "ClusterInterval",
    "TrainedModel",
    "PPOBatch",
)


def test_each_of_these_classes_is_defined_once() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")]
    count = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert {name: count[name] for name in ONE_THING} == dict.fromkeys(ONE_THING, 1)
    assert not [name for name in count if name.endswith("Learner")]


@pytest.mark.parametrize("wanted", [False, True])
def test_what_comes_out_of_a_decoder_has_the_shape_of_its_positions(wanted: bool) -> None:
    model, ids_BT = sharp_model(), torch.randint(0, 10, (2, 5))
    wanted_BT = torch.zeros(2, 5, dtype=torch.bool)
    wanted_BT[0, 3] = wanted_BT[1, 1:3] = True
    hidden_PD = model(ids_BT, wanted_BT=wanted_BT if wanted else None)
    assert hidden_PD.shape[:-1] == ((3,) if wanted else (2, 5))


WRITTEN_BY_WUYA = {"report.md", "rows.md", "folds.md", "card.md", "spammer.md", "ratings.md", "kway.md", "frontier.md",
                   "demo-seeds.md", "active.md"}  # fmt: skip


def test_every_document_that_a_text_names_is_in_the_repository() -> None:
    """A reader can open what is named, and a source is a paper or a page, not a note that only its author has."""
    folders = ("wuya", "tests", "docs", "experiments", "scripts", "benchmarks")
    texts = [path for folder in folders for path in (ROOT.parent / folder).rglob("*") if path.suffix in (".py", ".md")]
    there = {path.name for path in ROOT.parent.rglob("*.md") if ".venv" not in path.parts} | WRITTEN_BY_WUYA
    absent = {
        f"{path.relative_to(ROOT.parent)}: {name}"
        for path in (*texts, *ROOT.parent.glob("*.md"))
        for name in re.findall(r"[\w.-]*\w\.md\b", path.read_text(encoding="utf-8"))
        if name not in there and not name.endswith(".card.md")
    }
    numbered = {str(path) for path in texts if re.search(r"\bspec (section )?\d", path.read_text(encoding="utf-8"))}
    assert not absent and not numbered
