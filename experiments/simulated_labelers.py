"""Simulated labelers at the real screens' API: they sign in, take tasks and rank them over HTTP, as people would.

    wuya serve --accounts &                                     # make the admin account from its setup link
    export WUYA_ADMIN_PASSWORD=...
    python experiments/simulated_labelers.py --url http://127.0.0.1:8000 --admin me@example.org \\
           --labelers workspace/runs/demo/data/labelers.json --project loop --spammers sim-3

A dry run of a round with people: beside it `wuya loop --wait` (without `--labelers`) samples, waits for them and trains
on. Each labeler has an account of its own, named as in labelers.json, and sees what people see: no model, no others.
"""

import argparse
import os
import random
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx2

from wuya.console import Progress
from wuya.errors import ConfigError, RunError, WuyaError
from wuya.feedback.simulated import Labeler, Labelers
from wuya.records import Candidate, Message, Prompt


class Desk:
    """One labeler's browser: a session with the service."""

    def __init__(self, client: httpx2.Client, labeler: Labeler) -> None:
        self.client, self.labeler = client, labeler

    def begin(self, project: str) -> None:
        """Agree to the guide."""
        post(self.client, f"/api/label/projects/{project}/quiz", {"consent": True})

    def work(self, project: str, *, round: int = 0) -> bool:
        """Rank one task; False if none is left for this labeler."""
        task = post(self.client, "/api/label/next", {"project": project})
        if task is None:
            return False
        messages = tuple(Message(m["role"], m["content"]) for m in task["messages"])
        answers = [Candidate(c["text"], finished=c["finished"]) for c in task["candidates"]]
        name = "\n".join(m.content for m in messages)  # labelers don't see ids: the same words, the same mood
        ranks = self.labeler.rank(Prompt(name, messages), answers, round=round).ranks
        ids = [c["id"] for c in task["candidates"]]
        body = {"ranks": dict(zip(ids, ranks, strict=True)), "draft_rev": task["draft_rev"]}
        post(self.client, f"/api/assignments/{task['id']}/submit", body)
        return True


def rank_all(desks: Iterable[Desk], project: str, *, round: int = 0) -> int:
    """Everybody ranks until nothing is left for anybody; the number of rankings handed in.

    The order changes with every sweep: in a fixed order the same two people would share prompts for ever.
    """
    done, working, rng = 0, list(desks), random.Random(round)
    for desk in working:
        desk.begin(project)
    with Progress(0, "rankings handed in", "ranking") as progress:
        while working:
            rng.shuffle(working)
            working = [desk for desk in working if desk.work(project, round=round)]
            done += len(working)
            progress.update(len(working))
    return done


def post(client: httpx2.Client, path: str, body: Mapping[str, Any]) -> Any:
    """The answer's JSON, None for 204; raises RunError with the service's own words."""
    response = client.post(path, json=dict(body), headers={"origin": str(client.base_url).rstrip("/")})
    if response.status_code >= 400:
        raise RunError(f"the service refused {path}", found=f"{response.status_code} {response.text[:300]}")
    return response.json() if response.content else None


def project_named(client: httpx2.Client, name: str) -> str:
    """The id of an open project."""
    projects = client.get("/api/label/projects").json()["items"]
    for project in projects:
        if project["name"] == name:
            return str(project["id"])
    raise ConfigError(f"there is no open project {name!r}", found=", ".join(p["name"] for p in projects) or "none")


def enter(url: str, admin: httpx2.Client, labeler: Labeler) -> httpx2.Client:
    """A new account for a labeler, by invitation, signed in; it can be suspended like anybody's."""
    link = post(admin, "/api/admin/users/invite", {"role": "labeler"})["link"]
    client = httpx2.Client(base_url=url, timeout=60)
    email = f"{labeler.name}-{secrets.token_hex(3)}@simulated.invalid"
    password = secrets.token_urlsafe(24)
    token = link.split("#", 1)[1]
    post(client, "/api/auth/join", {"token": token, "email": email, "password": password, "name": labeler.name})
    return client


def main() -> int:
    """Sign everybody in and work until the queue is empty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--admin", required=True, help="the admin's email; the password is in WUYA_ADMIN_PASSWORD")
    parser.add_argument("--labelers", type=Path, required=True)
    parser.add_argument("--project", default="loop")
    parser.add_argument("--round", type=int, default=0, help="for labelers whose taste drifts")
    parser.add_argument("--spammers", nargs="*", default=[], help="names that rank at random")
    arguments = parser.parse_args()
    try:
        people = Labelers.load(arguments.labelers).with_spammers(arguments.spammers).training
        with httpx2.Client(base_url=arguments.url, timeout=60) as admin:
            password = os.environ.get("WUYA_ADMIN_PASSWORD", "")
            post(admin, "/api/auth/login", {"email": arguments.admin, "password": password})
            project = project_named(admin, arguments.project)
            desks = [Desk(enter(arguments.url, admin, labeler), labeler) for labeler in people]
            count = rank_all(desks, project, round=arguments.round)
    except WuyaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{count} rankings by {len(desks)} simulated labelers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
