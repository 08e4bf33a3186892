"""A lead has the service's models answer approved prompts; the answers wait to be ranked."""

import json
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.web.labeling.desk import Enter, begin, claim, make_project, sign_in
from wuya.web.service import Service


@pytest.fixture
def lead(client: TestClient, service: Service) -> TestClient:
    """A lead in the browser whose event loop the service runs in: a job lives longer than a request."""
    client.cookies.set(*sign_in(service, "lea", "lead"))
    return client


def with_prompts(lead: TestClient, count: int = 5) -> str:
    rows = "".join(
        json.dumps({"id": f"q{n}", "prompt": f"question {n} of many", "author": "ann"}) + "\n" for n in range(count)
    )
    lead.post("/api/prompts/import", content=rows, headers={"content-type": "application/jsonl"})
    split: str = lead.get("/api/admin/prompts?state=approved").json()["items"][0]["split"]
    return split  # one author, one split


def finished(lead: TestClient, project: str) -> dict[str, Any]:
    for _ in range(600):
        job: dict[str, Any] = lead.get(f"/api/admin/projects/{project}/sample").json()
        if job["state"] != "running":
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_answers_of_a_served_model_wait_to_be_ranked(enter: Enter, lead: TestClient, service: Service) -> None:
    ann = enter("ann")
    split, project = with_prompts(lead), make_project(lead, tasks=0, k=3)
    model = service.engine.info().models[0].alias
    body = {"models": [model], "k": 3, "prompts": 3, "split": split, "max_tokens": 8}
    started = lead.post(f"/api/admin/projects/{project}/sample", json=body)
    assert started.status_code == 202 and started.json()["total"] == 3, started.text
    job = finished(lead, project)
    assert (job["state"], job["asked"], job["added"] + job["too_alike"]) == ("done", 3, 3) and job["added"], job
    begin(ann, project)
    found = claim(ann, project)
    assert 2 <= len(found["candidates"]) <= 3 and model not in json.dumps(found)
    more = lead.post(f"/api/admin/projects/{project}/sample", json={**body, "prompts": 100}).json()
    assert more["total"] == 5 - job["added"]  # prompts that have a task are not asked again
    finished(lead, project)


@pytest.mark.parametrize(
    ("change", "status"), [({"models": ["nobody"]}, 422), ({"k": 1}, 422), ({"models": []}, 422), ({"k": 9}, 422)]
)
def test_what_cannot_be_sampled_is_refused(
    enter: Enter, lead: TestClient, service: Service, change: Any, status: int
) -> None:
    project = make_project(lead, tasks=0, k=3, k_max=5)
    model = service.engine.info().models[0].alias
    answer = lead.post(f"/api/admin/projects/{project}/sample", json={"models": [model], "k": 3, **change})
    assert answer.status_code == status, answer.text
    assert lead.get(f"/api/admin/projects/{project}/sample").json()["state"] == "none"
    assert enter("ann").get(f"/api/admin/projects/{project}/sample").status_code == 403
