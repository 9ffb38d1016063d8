"""The route class of all that is not for everyone: lets the caller in, then bounds what is read of the body.

Choices made: a form's files go to disk as they come, so it may be as large as uploads may be; any other body is held in
memory, and small.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.params import Form
from fastapi.routing import APIRoute

from serving.api.auth import authenticate
from serving.uploads.uploads import bounded

JSON_BYTES = 2**16


class GuardedRoute(APIRoute):
    """A route that strangers cannot send a body to."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()
        takes_form = self.body_field is not None and isinstance(self.body_field.field_info, Form)

        async def guarded(request: Request) -> Response:
            settings = request.app.state.server.settings
            request.state.caller = authenticate(request, settings)
            limit = settings.upload_bytes if takes_form else JSON_BYTES
            return await answer(Request(request.scope, bounded(request.receive, limit)))

        return guarded
