"""The OpenAPI document is complete, and no request made from it, sound or not, makes the server fail."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.api.settings import Token
from serving.state.rows import QueueLimits, Role
from testkit.api_server import Site

ADA = Token("ada", hashlib.sha256(b"ada").hexdigest())
OPERATIONS = {
    "POST /v1/videos",
    "GET /v1/videos",
    "GET /v1/videos/{video_id}",
    "DELETE /v1/videos/{video_id}",
    "POST /v1/videos/{video_id}/cancel",
    "GET /v1/videos/{video_id}/content",
    "GET /v1/videos/{video_id}/events",
    "GET /v1/videos/{video_id}/versions",
    "GET /v1/videos/{video_id}/uploads/{parameter}",
    "GET /v1/videos/{video_id}/segments",
    "GET /v1/videos/{video_id}/segments/{index}/preview",
    "POST /v1/videos/{video_id}/segments/{index}/regenerate",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /metrics",
    "GET /healthz",
}

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), QueueLimits(jobs=10**6), tokens=(ADA,), upload_bytes=2**20)


@pytest.fixture(scope="module")
def operations(site: Site) -> dict[str, Any]:
    """The document's operations; of requests for a job, every other one names one that there is."""
    document = schemathesis.openapi.from_asgi("/openapi.json", site.app)
    for role in Role:
        site.database.queue.claim(
            role, f"an idle {role} worker", 3600
        )  # or /healthz would rightly be a server error
    completed, turns = site.job(ADA.name), itertools.count()
    site.finish()

    @document.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if path_parameters and next(turns) % 2:
            cancelled = site.job(ADA.name)
            site.database.jobs.cancel(cancelled)
            reads = context.operation.method == "get"
            path_parameters["video_id"] = completed if reads else cancelled
        return path_parameters

    results: Any = document.get_all_operations()
    return {operation.label: operation for operation in (result.ok() for result in results)}


@pytest.mark.parametrize(
    ("label", "mode"),
    [(label, GenerationMode.POSITIVE) for label in sorted(OPERATIONS)]
    + [(label, GenerationMode.NEGATIVE) for label in sorted(OPERATIONS) if "/v1/" in label],
)
def test_no_request_makes_the_server_fail(
    operations: dict[str, Any], label: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(operations[label].as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, headers={"Authorization": "Bearer ada"})

    answers()


def test_the_document_names_all_addresses(operations: dict[str, Any]) -> None:
    assert set(operations) == OPERATIONS
