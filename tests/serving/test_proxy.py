"""What Serve's proxies answer for replicas that are lost. Behind the middleware stands an application that ends as the
proxy does; with a real proxy and replicas that are killed see test_serve.py."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.proxy import AnswerLoss, middlewares
from testkit.api_server import refusal


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """As the proxy does when a replica dies with a request: it ends without an answer."""


NO_REPLICA = PlainTextResponse("Deployment is unavailable.", 503)


@pytest.mark.parametrize("lost", [silent, NO_REPLICA], ids=["died", "none there"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_lost_replica_is_said_to_be_worth_another_try(lost: ASGIApp, method: str) -> None:
    answer = TestClient(AnswerLoss(lost)).request(method, "/v1/videos")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    if method != "HEAD":
        assert refusal(answer, 503) == "A part of the server was lost; try again."


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("all is well"),
        PlainTextResponse("not there", 404),
        PlainTextResponse("the endpoint's own", 503, {"Retry-After": "5"}),
    ],
)
def test_all_other_answers_are_passed_on(answer: PlainTextResponse) -> None:
    (middleware,) = middlewares()
    assert middleware.cls is AnswerLoss
    got = TestClient(AnswerLoss(answer)).get("/v1/videos")
    assert (got.status_code, got.content) == (answer.status_code, answer.body)
