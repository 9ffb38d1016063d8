"""Every failure as OpenAI's error envelope: {"error": {"message", "type", "param", "code"}}, one sentence each.

A request that does not fit the schema is answered with 400, as by OpenAI, and a path that names nothing with 404. An
unforeseen failure is logged and answered with a fixed sentence, which tells nothing of the server's inside.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from serving.state.rows import ConflictError, NotFoundError, QueueFullError, StateError
from serving.uploads.uploads import UploadError

INVALID, BUSY, SERVER = "invalid_request_error", "rate_limit_error", "server_error"
RETRY_AFTER = 30  # seconds, when the queue is full: about a short video's time
RETRY_SOON = 5  # seconds, when something is away that comes back by itself
UNREACHABLE = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
"""What is raised while the database is away or moves to another machine; sooner or later it answers again."""

# Sentences that say what to do, for what Starlette itself refuses.
SENTENCES = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address; see /docs for those that there are.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take that method; see /docs for those that it takes.",
}

log = logging.getLogger(__name__)


class ApiError(HTTPException):
    """A refused request: an HTTP status, one sentence, and a code for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code, self.param, self.kind = code, param, kind


class AllSent(Exception):  # noqa: N818 - nothing is wrong
    """The client has all events of a stream: it is told not to ask again."""


def unavailable(message: str) -> ApiError:
    """The refusal of what can be done again in a moment; OpenAI's clients try again by themselves."""
    headers = {"Retry-After": str(RETRY_SOON)}
    return ApiError(503, message, "unavailable", kind=SERVER, headers=headers)


def state_error(error: StateError) -> ApiError:
    """The answer to what the database refuses."""
    if isinstance(error, NotFoundError):
        return ApiError(404, str(error), "not_found", "video_id")
    if isinstance(error, QueueFullError):
        wait = {"Retry-After": str(RETRY_AFTER)}
        return ApiError(429, str(error), "rate_limit_exceeded", kind=BUSY, headers=wait)
    if isinstance(error, ConflictError):
        # Or OpenAI's clients would try again, in vain.
        return ApiError(409, str(error), "conflict", headers={"X-Should-Retry": "false"})
    raise error


def envelope(error: HTTPException) -> JSONResponse:
    """The answer to a refused request."""
    if not isinstance(error, ApiError):
        message = SENTENCES.get(HTTPStatus(error.status_code), error.detail)
        kind = SERVER if error.status_code >= 500 else INVALID
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        error = ApiError(error.status_code, message, code, None, kind, error.headers)
    body = {"message": error.detail, "type": error.kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status_code, error.headers)


def validation_error(problems: list[Any]) -> ApiError:
    """The first of pydantic's problems with a request, as a sentence."""
    problem = problems[0]
    where, *names = (str(part) for part in problem["loc"])
    if where == "path":
        return ApiError(404, "There is nothing at this address; check its ids.", "not_found", names[0])
    param = names[0] if names else None
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    place = "" if param is None else f"{param}: "
    if problem["type"] == "missing":
        message = "is missing; send it"
    elif problem["type"] == "extra_forbidden":
        message = "there is no such parameter; see /docs for those that there are"
    return ApiError(400, f"{place}{message[:1].lower()}{message[1:]}.", problem["type"], param)


def add_handlers(app: FastAPI) -> None:
    """Answers every failure of the app by the envelope."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return envelope(error)

    @app.exception_handler(AllSent)
    async def all_sent(request: Request, error: AllSent) -> Response:
        return Response(status_code=204)

    @app.exception_handler(StateError)
    async def impossible(request: Request, error: StateError) -> JSONResponse:
        return envelope(state_error(error))

    @app.exception_handler(UploadError)
    async def not_taken(request: Request, error: UploadError) -> JSONResponse:
        return envelope(ApiError(400, str(error), "invalid_file", error.parameter))

    async def unreachable(request: Request, error: Exception) -> JSONResponse:
        log.error("the database does not answer: %s", error)
        return envelope(unavailable("The database does not answer; try again later."))

    for kind in UNREACHABLE:
        app.add_exception_handler(kind, unreachable)

    @app.exception_handler(OSError)
    async def unstored(request: Request, error: OSError) -> JSONResponse:
        log.error("the artifacts cannot be reached", exc_info=error)
        return envelope(unavailable("The server's storage does not answer; try again later."))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return envelope(validation_error(list(error.errors())))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it on, so it is logged with its traceback.
        return envelope(ApiError(500, "The server failed; try again later.", "internal_error", kind=SERVER))
