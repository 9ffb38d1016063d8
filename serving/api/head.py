"""HEAD wherever GET is: the same status and headers, without the body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AnswerHead:
    """ASGI middleware that asks for the GET and ends it once its headers are there, so no video is read in vain and no
    stream of events stays open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)
        with anyio.CancelScope() as answer:

            async def send_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b""})
                    answer.cancel()

            await self._app({**scope, "method": "GET"}, receive, send_headers)
