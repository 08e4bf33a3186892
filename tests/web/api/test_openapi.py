"""Requests made up from the OpenAPI document: never a 5xx, never an answer that the document does not describe."""

import os
from typing import Any

import pytest

from tests.web.api.conftest import Api

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode, checks  # noqa: E402

PATH = "^/v1/"


def _checks(*names: str) -> list[Any]:
    return [checks.CHECKS.get_one(name) for name in names]


@pytest.fixture
def document(keyed: Api) -> Any:
    schema = schemathesis.openapi.from_dict(keyed.send("/openapi.json").json())
    schema.config.update(base_url=keyed.url, headers={"authorization": f"Bearer {keyed.key()}"})
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "413"]  # too large, whatever else it is
    schema = schema.include(path_regex=PATH)

    @schema.hook  # type: ignore[untyped-decorator]
    def map_body(context: Any, body: Any) -> Any:
        """Requests for a model that is there get further than the first check."""
        if isinstance(body, dict) and isinstance(body.get("model"), str) and 1 <= len(body["model"]) <= 200:
            return {**body, "model": "fake"}
        return body

    return schema


ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/moderations"),
    ("POST", "/v1/tokenize"),
    ("POST", "/v1/detokenize"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
]
QUICK = settings(
    max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
EXAMPLES = int(os.environ.get("WUYA_EXAMPLES", "12"))
"""Of each operation of /api, in the slow test: `WUYA_EXAMPLES=400 pytest -m slow tests/web/api/test_openapi.py`."""
PAGES = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
LONG = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


def hold(document: Any, method: str, path: str, limits: settings) -> None:
    """Every check but two: constraints between fields are beyond a schema's words, keys have tests of their own."""
    excluded = _checks("positive_data_acceptance", "ignored_auth")
    operation = document[path][method]
    for mode in GenerationMode:
        if mode is GenerationMode.NEGATIVE and method == "GET":
            continue  # nothing can be wrong with it

        @limits
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            case.call_and_validate(excluded_checks=excluded, timeout=60)

        run()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_answer_is_as_documented(document: Any, method: str, path: str) -> None:
    hold(document, method, path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_answer_is_as_documented_for_longer(document: Any, method: str, path: str) -> None:
    hold(document, method, path, LONG)


APP = "^/(api/|healthz|readyz|metrics)"
ENDLESS = ("/api/runs/events", "/api/admin/system/backup")
"""A stream without an end, and copies of the database."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_of_the_pages_own_api_is_as_documented(api: Api, mode: Any) -> None:
    """All of /api, for the single user who may do everything."""
    schema = schemathesis.openapi.from_dict(api.send("/openapi.json").json())
    schema.config.update(base_url=api.url)
    schema = schema.include(path_regex=APP)
    # wrong data may still be right for us (a number where text is looked for), as may a method that a page has
    excluded = _checks("positive_data_acceptance", "ignored_auth", "negative_data_rejection", "unsupported_method")
    found: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ENDLESS or (mode is GenerationMode.NEGATIVE and operation.method == "get"):
            continue

        @PAGES
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            case.call_and_validate(excluded_checks=excluded, timeout=60)

        try:
            run()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # an operation without a body: nothing about it can be wrong
        except BaseExceptionGroup as failures:  # all operations at once
            found += [f"{operation.label}: {failure}" for failure in failures.exceptions]
    assert not found, "\n\n".join(found)


def test_the_document_names_every_body_and_refusal(api: Api) -> None:
    document = api.send("/openapi.json").json()
    paths = {path: item for path, item in document["paths"].items() if path.startswith("/v1")}
    assert {(method.upper(), path) for path, item in paths.items() for method in item} >= set(ROUTES)
    for path, item in paths.items():
        for method, operation in item.items():
            assert "422" not in operation["responses"], f"{method} {path}: an answer that is never sent"
            for status in ("200", "400", "401", "403", "404", "429", "503"):
                body = operation["responses"][status]["content"]["application/json"]["schema"]
                assert body, f"{method} {path} {status}"
            assert operation["summary"] and operation["description"]
