"""What Serve's proxies answer for replicas that are lost. Behind the middleware stands an application that ends as the
proxy does; with a real proxy and replicas that are killed see test_serve.py."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.proxy import AnswerLoss, middlewares
from testkit.api_server import refusal


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """As the proxy does when a replica dies with a request: it ends without an answer."""


NO_REPLICA = PlainTextResponse("Deployment is unavailable.", 503)
NO_ENDPOINT = PlainTextResponse(
    "Path '/v1/videos/video_1' not found. Ping http://.../-/routes for available routes.", 404
)


@pytest.mark.parametrize(
    "lost", [silent, NO_REPLICA, NO_ENDPOINT], ids=["died", "none there", "not known yet"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_lost_replica_is_said_to_be_worth_another_try(lost: ASGIApp, method: str) -> None:
    answer = TestClient(AnswerLoss(lost)).request(method, "/v1/videos/video_1")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    if method != "HEAD":
        assert refusal(answer, 503) == "A part of the server was lost; try again."


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("all is well"),
        JSONResponse({"error": "there is no such video"}, 404),
        PlainTextResponse("the endpoint's own", 503, {"Retry-After": "5"}),
    ],
)
def test_all_other_answers_are_passed_on(answer: Response) -> None:
    (middleware,) = middlewares()
    assert middleware.cls is AnswerLoss
    got = TestClient(AnswerLoss(answer)).get("/v1/videos/video_1")
    assert (got.status_code, got.content) == (answer.status_code, answer.body)


def test_a_page_that_serve_does_not_know_is_not_found() -> None:
    assert TestClient(AnswerLoss(NO_ENDPOINT)).get("/elsewhere").status_code == 404
