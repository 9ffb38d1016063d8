"""What Serve's HTTP proxies do beyond passing requests on: what a lost replica had is said to be worth asking again.

A request whose replica dies with its process or node has no answer, which clients would be told as a failure of the
server (500), and one that finds no replica is answered 503 in Serve's own form, or 404 where the proxy of a new node
does not know the endpoint yet: a client would take its video for deleted. All become 503 in the endpoint's form, with a
time to come again. Serve loads this in each proxy by the variable of CALLBACK.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.errors import envelope, unavailable

CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.proxy.middlewares"}


class AnswerLoss:
    """ASGI middleware around Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        answered = False

        async def send_answer(message: Message) -> None:
            nonlocal answered
            if not answered and message["type"] == "http.response.start" and _is_serves_own(scope, message):
                return
            if answered or message["type"] == "http.response.start":
                answered = True
                await send(message)

        await self._app(scope, receive, send_answer)
        if not answered:
            await envelope(unavailable("A part of the server was lost; try again."))(scope, receive, send)


def _is_serves_own(scope: Scope, start: Message) -> bool:
    """Whether an answer says that there is no replica or, to a request of the API, no endpoint.

    The endpoint's own 503 say when to come again, and its 404 are JSON, where Serve's are plain text.
    """
    headers = {name.lower(): value for name, value in start["headers"]}
    if start["status"] == 404:
        return "/v1/" in scope["path"] and headers.get(b"content-type", b"").startswith(b"text/plain")
    return start["status"] == 503 and b"retry-after" not in headers


def middlewares() -> list[Middleware]:
    """What Serve asks for by CALLBACK."""
    return [Middleware(AnswerLoss)]
