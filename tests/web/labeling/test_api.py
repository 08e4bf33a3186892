"""The labeling API: what a labeler sees and does not see, conflicts, tests, review, exports."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.web.labeling.desk import Enter, begin, claim, make_project, ranks_for, task
from wuya.data.formats import read_rankings


def test_a_ranking_from_claim_to_the_reward_models_file(enter: Enter, tmp_path: Path) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead, tasks=2)
    assert ann.post("/api/label/next", json={"project": project}).json()["code"] == "not_qualified"
    begin(ann, project)
    while (answer := ann.post("/api/label/next", json={"project": project})).status_code == 200:
        found = answer.json()
        draft = ann.patch(f"/api/assignments/{found['id']}", json={"draft": {"ranks": {}}, "draft_rev": 0}).json()
        body = {"draft_rev": draft["draft_rev"], "ranks": ranks_for(found, [2, 1, 2]), "active_ms": 1234}
        first = ann.post(f"/api/assignments/{found['id']}/submit", json=body, headers={"idempotency-key": "k"})
        again = ann.post(f"/api/assignments/{found['id']}/submit", json=body, headers={"idempotency-key": "k"})
        assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert answer.status_code == 204
    row = lead.post("/api/exports", json={"kind": "rm_rankings", "project": "rm"}).json()
    assert row["n_rows"] == 2 and row["version"] == 1
    file = tmp_path / "rankings.jsonl"
    file.write_bytes(lead.get(f"/api/exports/{row['id']}/download").content)
    rankings = list(read_rankings(file))
    assert [(r.ranks, r.labeler, r.candidates[0].model) for r in rankings] == [((2, 1, 2), "ann", "secret-model-0")] * 2
    assert lead.post("/api/exports", json={"kind": "rm_rankings", "project": "rm"}).json()["id"] == row["id"]
    assert lead.get("/api/data").json()["steps"]["exported"] == 2


def test_labelers_are_blind(enter: Enter) -> None:
    lead, ann, bob = enter("lea", "lead"), enter("ann"), enter("bob")
    project = make_project(lead, tasks=0, overlap=2, settings={"quiz_size": 0})
    body = {"project": project, "tasks": [task(1, gold={"ranks": [1, 2, 3]})]}
    assert lead.post("/api/tasks/bulk", json=body).json()["gold"] == 1
    lead.patch(f"/api/admin/projects/{project}", json={"gold_rate": 1.0})
    begin(ann, project)
    begin(bob, project)
    found = claim(ann, project)
    seen = json.dumps(found) + ann.get("/api/label/projects").text
    assert "secret" not in seen and "gold" not in json.dumps(found) and "lea" not in seen.replace("lease", "")
    assert bob.get(f"/api/assignments/{found['id']}").status_code == 404
    for path in ("/api/admin/projects", f"/api/admin/tasks?project={project}", "/api/exports", "/api/data"):
        assert ann.get(path).status_code == 403


def test_two_tabs_in_conflict(enter: Enter) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead)
    begin(ann, project)
    id = claim(ann, project)["id"]
    assert ann.patch(f"/api/assignments/{id}", json={"draft": {"comment": "one"}, "draft_rev": 0}).status_code == 200
    answer = ann.patch(f"/api/assignments/{id}", json={"draft": {"comment": "two"}, "draft_rev": 0})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "draft_conflict")
    assert problem["draft"] == {"comment": "one"} and problem["draft_rev"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": {}},
        {"ranks": {"stranger": 1}},
        {"cannot_rank": True, "ranks": "keep"},
        {"labels": {"x": {"quality": 1}}},
        {"unknown": 1},
        {"schema_version": 7},
    ],
)
def test_bad_submissions_are_refused_and_the_task_stays(enter: Enter, change: dict[str, Any]) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead, tasks=1)
    begin(ann, project)
    found = claim(ann, project)
    ranks = ranks_for(found, [1, 2, 3])
    body = {"ranks": ranks} | change
    body["ranks"] = ranks if body["ranks"] == "keep" else body["ranks"]
    answer = ann.post(f"/api/assignments/{found['id']}/submit", json=body)
    assert answer.status_code in (409, 422) and answer.json()["code"]
    assert claim(ann, project)["id"] == found["id"]


def test_gold_failure_pauses_and_the_lead_lets_go_on(enter: Enter) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead, tasks=0, gold_rate=1.0)
    tasks = [task(n, gold={"ranks": [1, 2, 3]}) for n in range(7)]
    lead.post("/api/tasks/bulk", json={"project": project, "tasks": tasks})
    begin(ann, project)
    for _ in range(5):
        found = claim(ann, project)
        body = {"ranks": ranks_for(found, [3, 2, 1])}
        answer = ann.post(f"/api/assignments/{found['id']}/submit", json=body)
    assert answer.json()["standing"] == "paused"
    problem = ann.post("/api/label/next", json={"project": project})
    assert (problem.status_code, problem.json()["state"]) == (403, "paused")
    (row,) = lead.get(f"/api/agreement?project={project}").json()["standing"]
    assert (row["labeler"], row["state"], row["gold_passed"], row["gold_seen"]) == ("ann", "paused", 0, 5)
    lead.post(f"/api/admin/projects/{project}/labelers/{row['user']}", json={"state": "passed"})
    assert claim(ann, project)


def test_disputes_are_decided_by_the_lead(enter: Enter, tmp_path: Path) -> None:
    lead = enter("lea", "lead")
    project = make_project(lead, tasks=1, overlap=2, settings={"raise_target": 2})
    for name, order in (("ann", [1, 2, 3]), ("bob", [3, 2, 1])):
        labeler = enter(name)
        begin(labeler, project)
        found = claim(labeler, project)
        labeler.post(f"/api/assignments/{found['id']}/submit", json={"ranks": ranks_for(found, order)})
    (listed,) = lead.get(f"/api/admin/tasks?project={project}&show=adjudication").json()["items"]
    detail = lead.get(f"/api/admin/tasks/{listed['id']}").json()
    assert [w["labeler"] for w in detail["work"]] == ["ann", "bob"] and "secret" not in json.dumps(detail)
    ranks = ranks_for(detail, [1, 1, 2])
    assert lead.post(f"/api/tasks/{listed['id']}/adjudicate", json={"ranks": ranks}).status_code == 200
    row = lead.post("/api/exports", json={"kind": "rm_rankings"}).json()
    (final,) = [json.loads(line) for line in lead.get(f"/api/exports/{row['id']}/download").text.splitlines()]
    assert final["ranks"] == [1, 1, 2] and final["ranking_source"] == "adjudication"
    report = lead.get(f"/api/agreement?project={project}").json()["report"]
    assert report["matrix_labelers"] == ["ann", "bob"] and report["pairwise"]["mean"] == 0.0


def test_sent_back_work_returns_with_the_note(enter: Enter) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead, tasks=1)
    begin(ann, project)
    found = claim(ann, project)
    ann.post(f"/api/assignments/{found['id']}/submit", json={"ranks": ranks_for(found, [1, 1, 1])})
    review = {"decision": "revise", "note": "all equal?"}
    assert lead.post(f"/api/assignments/{found['id']}/review", json=review).json() == {"state": "revise"}
    (mine,) = ann.get("/api/label/projects").json()["items"]
    assert mine["sent_back"] == [{"id": found["id"], "note": "all equal?"}]
    shown = ann.get(f"/api/assignments/{found['id']}").json()
    assert shown["note"] == "all equal?" and set(shown["draft"]["ranks"].values()) == {1}
    body = {"ranks": ranks_for(found, [1, 2, 3]), "draft_rev": shown["draft_rev"]}
    assert ann.post(f"/api/assignments/{found['id']}/submit", json=body).status_code == 200


def test_screened_prompts_are_used_only_once_approved(enter: Enter) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    rows = "".join(json.dumps({"id": f"q{n}", "prompt": f"question number {n} of many"}) + "\n" for n in range(3))
    imported = lead.post("/api/prompts/import?screen=true", content=rows, headers={"content-type": "application/jsonl"})
    assert imported.json()["added"] == 3
    page = lead.get("/api/admin/prompts").json()
    assert [row["id"] for row in page["items"]] == ["q0", "q1", "q2"] and page["waiting"] == 3
    project = make_project(lead, tasks=0, type="demonstration")
    from_prompts = {"project": project, "from_prompts": 10, "split": page["items"][0]["split"]}
    assert lead.post("/api/tasks/bulk", json=from_prompts).json()["added"] == 0
    assert lead.post("/api/admin/prompts", json={"ids": ["q0"], "state": "approved"}).json() == {"changed": 1}
    assert lead.post("/api/admin/prompts", json={"ids": ["q1"], "state": "rejected"}).json() == {"changed": 1}
    assert lead.post("/api/tasks/bulk", json=from_prompts).json()["added"] == 1
    again = lead.post("/api/prompts/import", content=rows, headers={"content-type": "application/jsonl"}).json()
    assert (again["added"], again["duplicates"]) == (0, 3)  # a rejected prompt does not come back by itself
    assert lead.post("/api/admin/prompts", json={"ids": ["q0"], "state": "rejected"}).json() == {"changed": 1}
    tasks = lead.get(f"/api/admin/tasks?project={project}").json()["items"]
    assert [task["state"] for task in tasks] == ["cancelled"]
    steps = lead.get("/api/data").json()
    assert (steps["steps"]["prompts"], steps["steps"]["approved"], steps["waiting"]) == (3, 0, 1)
    assert ann.get("/api/admin/prompts").status_code == 403
    assert lead.post("/api/admin/prompts", json={"ids": ["nobody"], "state": "approved"}).status_code == 422


def test_prompts_are_imported_from_jsonl_and_csv(enter: Enter) -> None:
    lead = enter("lea", "lead")
    lines = [{"prompt": f"Tell me something about ravens and why people like them: {n}", "author": "a"} for n in "12"]
    lines += [lines[0], {"prompt": "Mail bob@example.org about Friday", "author": "b"}, {"nothing": 1}]
    body = "\n".join(json.dumps(line) for line in lines)
    url = "/api/prompts/import?lang=en&source=test"
    report = lead.post(url, content=body, headers={"content-type": "application/x-ndjson"}).json()
    assert (report["added"], report["duplicates"], report["near_duplicates"], report["bad"]) == (2, 1, 1, 1)
    assert report["personal_data"] == 1 and report["bad_rows"][0]["line"] == 5
    odd = '{"prompt": "one\u2028two of another kind altogether"}\n{broken\n7\n'
    report = lead.post(url, content=odd.encode(), headers={"content-type": "application/x-ndjson"}).json()
    assert report["added"] == 1 and [row["line"] for row in report["bad_rows"]] == [2, 3]
    csv = "prompt,author\nWhat is a raven?,c\n"
    assert lead.post(url, content=csv, headers={"content-type": "text/csv"}).json()["added"] == 1
    assert lead.post(url, content="{", headers={"content-type": "application/x-ndjson"}).status_code == 400
    project = make_project(lead, tasks=0, type="demonstration")
    made = [
        lead.post("/api/tasks/bulk", json={"project": project, "from_prompts": 10, "split": split}).json()["added"]
        for split in ("train", "val", "test")
    ]
    assert sum(made) == 4
    assert lead.get("/api/data").json()["leaks"] == 0


def test_demonstrations_reach_the_sft_file(enter: Enter) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead, tasks=1, k=0, type="demonstration")
    begin(ann, project)
    found = claim(ann, project)
    assert found["candidates"] == [] and found["type"] == "demonstration"
    body = {"completion": "A raven is a bird.", "labels": {"": {"category": "open_qa"}}}
    assert ann.post(f"/api/assignments/{found['id']}/submit", json=body).status_code == 200
    row = lead.post("/api/exports", json={"kind": "sft"}).json()
    (line,) = lead.get(f"/api/exports/{row['id']}/download").text.splitlines()
    assert json.loads(line)["messages"][-1] == {"role": "assistant", "content": "A raven is a bird."}
    mine = ann.get("/api/label/me/export")
    assert json.loads(mine.text)["completion"] == "A raven is a bird."


def test_skipping_needs_a_reason_and_releasing_none(enter: Enter) -> None:
    lead, ann = enter("lea", "lead"), enter("ann")
    project = make_project(lead, tasks=2)
    begin(ann, project)
    first = claim(ann, project)["id"]
    assert ann.post(f"/api/assignments/{first}/skip", json={"reason": ""}).status_code == 422
    assert ann.post(f"/api/assignments/{first}/skip", json={"reason": "unclear"}).status_code == 200
    second = claim(ann, project)["id"]
    assert second != first
    assert ann.post(f"/api/assignments/{second}/heartbeat").json()["lease_until"]
    assert ann.post(f"/api/assignments/{second}/release").json() == {"state": "expired"}
    assert ann.post(f"/api/assignments/{first}/heartbeat").json()["code"] == "closed"
    assert ann.get("/api/label/me/stats").json()[project]["skipped"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/admin/projects", {"name": "x", "label_schema": {"answers": 5}}, 422),
        (
            "/api/admin/projects",
            {"name": "x", "label_schema": {"answers": [{"key": "q", "kind": "scale", "min": "a"}]}},
            422,
        ),
        ("/api/admin/projects", {"name": "x", "settings": {"quiz_size": "many"}}, 422),
        ("/api/admin/projects", {"name": "x", "settings": {"unheard": 1}}, 422),
        ("/api/admin/projects", {"name": "x", "gold_rate": 2}, 422),
        ("/api/tasks/bulk", {"project": "nothing", "tasks": []}, 404),
        ("/api/tasks/bulk", {"project": "rm", "tasks": [{"prompt": "a", "candidates": ["b", {"no": "text"}]}]}, 422),
        ("/api/tasks/bulk", {"project": "rm", "tasks": [{"prompt": "a", "candidates": ["b"]}]}, 422),
        (
            "/api/tasks/bulk",
            {"project": "rm", "tasks": [{"prompt": "a", "candidates": ["b", "c"], "gold": {"ranks": [1]}}]},
            422,
        ),
        (
            "/api/tasks/bulk",
            {"project": "rm", "tasks": [{"prompt": "a", "candidates": ["b", "c"], "gold": {"ranks": [1, 2, 3]}}]},
            422,
        ),
        ("/api/label/next", {"project": "nothing"}, 404),
        ("/api/tasks/nothing/pause", {}, 404),
        ("/api/tasks/nothing/adjudicate", {"ranks": {}}, 404),
        ("/api/tasks/nothing/explode", {}, 422),
        ("/api/assignments/nothing/review", {"decision": "accept"}, 404),
        ("/api/assignments/nothing/submit", {"ranks": {"a": 1}}, 404),
        ("/api/admin/projects/rm/labelers/nobody", {"state": "passed"}, 404),
        ("/api/exports", {"kind": "rm_rankings", "rounds": [10**30]}, 422),
        ("/api/exports", {"kind": "rm_rankings"}, 422),
    ],
)
def test_mistakes_are_named_and_never_a_500(enter: Enter, path: str, body: dict[str, Any], status: int) -> None:
    lead = enter("lea", "lead")
    make_project(lead, tasks=1)
    answer = lead.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["code"] and answer.json()["detail"]
