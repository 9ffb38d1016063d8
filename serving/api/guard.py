"""The route class of all that is not for everyone: lets the caller in, then bounds what is read of the body."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serving.api.auth import authenticate
from serving.api.uploads import bounded


class GuardedRoute(APIRoute):
    """A route that strangers cannot send a body to."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            settings = request.app.state.server.settings
            request.state.caller = authenticate(request, settings)
            return await answer(Request(request.scope, bounded(request.receive, settings.upload_bytes)))

        return guarded
