"""Simulated labelers over HTTP hand in what the same labelers rank in process."""

import runpy
from pathlib import Path

import pytest

from tests.web.labeling.desk import Enter, make_project
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import Labelers, make_labelers
from wuya.feedback.store import FeedbackStore
from wuya.records import Candidate, Message, Prompt

script = runpy.run_path(str(Path(__file__).parents[3] / "experiments" / "simulated_labelers.py"))
ANSWERS = ("What is your favorite song?", "I hate songs", "Nice! I love songs about dogs, do you?")


@pytest.fixture
def people() -> Labelers:
    messages = (Message("user", "question"),)
    normaliser = Normaliser.fit([(messages, "a song"), (messages, "the dog sang to the sun?")])
    return make_labelers(normaliser, num_training=3)


def test_rankings_over_http_are_the_labelers_own(enter: Enter, people: Labelers, database: str | Path) -> None:
    lead = enter("lea", "lead")
    project = make_project(lead, tasks=0, k=3, overlap=3)
    tasks = [
        {"prompt": f"question {n} on songs and dogs", "id": f"p{n}", "candidates": list(ANSWERS)} for n in range(4)
    ]
    assert lead.post("/api/tasks/bulk", json={"project": project, "tasks": tasks}).json()["added"] == 4
    desks = [script["Desk"](enter(labeler.name), labeler) for labeler in people.training]
    assert script["rank_all"](desks, project) == 12
    with FeedbackStore(database) as store:
        rankings = list(store.rankings())
    assert len(rankings) == 12
    for ranking in rankings:
        text = ranking.prompt.messages[-1].content
        seen = Prompt(text, (Message("user", text),))
        finished = ranking.candidates[0].finished
        expected = people.named(ranking.labeler).rank(seen, [Candidate(a, finished=finished) for a in ANSWERS]).ranks
        by_text = {c.text: rank for c, rank in zip(ranking.candidates, ranking.ranks, strict=True)}
        assert tuple(by_text[a] for a in ANSWERS) == expected
