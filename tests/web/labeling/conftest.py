"""A labeling project on the service, and labelers with browsers of their own."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.web.labeling.desk import ORIGIN, Enter, sign_in
from wuya.web.service import Service


@pytest.fixture
def accounts() -> bool:
    return True


@pytest.fixture
def enter(app: FastAPI, service: Service, client: TestClient) -> Iterator[Enter]:
    """`enter("ann")` is a browser of a labeler; `enter("lea", "lead")` of a lead."""
    del client  # it runs the service's lifespan

    def open_browser(name: str, role: str = "labeler") -> TestClient:
        cookie, token = sign_in(service, name, role)
        return TestClient(
            app, base_url=ORIGIN, raise_server_exceptions=False, follow_redirects=False, cookies={cookie: token}
        )

    yield open_browser
