"""The route class of everything that is not public: it checks the caller and the names of the query's parameters, then
limits how much of the body is read.

Bytes are counted as they are read, whatever Content-Length says. The files of a form go to disk as they come, so a form
may be as large as uploads may be; any other body is held in memory and must be small.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Form, Query
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from serving.api.auth import authenticate
from serving.api.errors import ApiError, validation_error

JSON_BYTES = 2**16


def bounded(receive: Receive, limit: int) -> Receive:
    """The body of a request, refused with 413 as soon as more than `limit` bytes of it have come."""
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise ApiError(413, f"The request has more than {limit} bytes; send less.", "request_too_large")
        return message

    return receive_bounded


def multipart_only(request: Request) -> None:
    """Refuses a form that cannot hold files with 415."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(
            415, "A video is asked for by a form; send multipart/form-data.", "unsupported_media_type"
        )


class GuardedRoute(APIRoute):
    """A route that reads a body only from callers it knows, up to a limit."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the checks."""
        answer = super().get_route_handler()
        parameters = get_flat_params(self.dependant)
        known = {field.alias for field in parameters if isinstance(field.field_info, Query)}
        takes_form = self.body_field is not None and isinstance(self.body_field.field_info, Form)

        async def guarded(request: Request) -> Response:
            settings = request.app.state.server.settings
            request.state.caller = authenticate(request, settings)
            if unknown := [name for name in request.query_params if name not in known]:
                raise validation_error([{"type": "extra_forbidden", "loc": ("query", unknown[0]), "msg": ""}])
            limit = settings.upload_bytes if takes_form else JSON_BYTES
            return await answer(Request(request.scope, bounded(request.receive, limit)))

        return guarded
