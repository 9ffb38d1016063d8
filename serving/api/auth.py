"""Who calls: the owner of a bearer token; without tokens, anyone on this machine, or anyone if the server is open.

Every token is compared, each in constant time. A caller is checked before the body is read, so strangers cannot fill
the disk. "This machine" is decided by the peer's address. Since a browser on this machine could be used by another
site, a request that names another host or comes from the page of a site that is not among the settings' is refused, and
so is one that a proxy passed on.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from serving.api.errors import ApiError
from serving.api.settings import ApiSettings

EVERYONE = "everyone"
"""The owner of all jobs where there are no tokens."""

PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@dataclass(frozen=True)
class Caller:
    """An owner of jobs; jobs: how many unfinished ones they may have."""

    name: str
    jobs: int | None = None


def authenticate(request: Request, settings: ApiSettings) -> Caller:
    """Who sends the request; ApiError 401 or 403 for strangers."""
    if settings.tokens:
        return _token_owner(request.headers.get("authorization", ""), settings)
    if not settings.open and not _is_local(request, settings.origins):
        raise ApiError(
            403,
            "Without tokens only this machine is answered; set up tokens, or declare the server open.",
            "forbidden",
        )
    return Caller(EVERYONE)


def webhook_secret(settings: ApiSettings, owner: str) -> str | None:
    """What signs an owner's webhooks, if they may have any."""
    if owner == EVERYONE:
        return settings.webhook_secret
    return next((token.webhook_secret for token in settings.tokens if token.name == owner), None)


def _token_owner(authorization: str, settings: ApiSettings) -> Caller:
    scheme, _, token = authorization.partition(" ")
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    matching = [known for known in settings.tokens if hmac.compare_digest(digest, known.sha256.lower())]
    if scheme.lower() != "bearer" or not matching:
        raise ApiError(
            401,
            "The bearer token is missing or not known; send the header Authorization: Bearer TOKEN.",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Caller(matching[0].name, matching[0].jobs)


def _is_local(request: Request, origins: tuple[str, ...]) -> bool:
    """Whether the request comes from this machine and its user wanted it, rather than a web page they visit.

    Serve's proxy passes on the scope of its own uvicorn, so the client is the peer of the proxy's socket; or, if that
    is on this machine, who X-Forwarded-For names, which is refused for that header.
    """
    headers = request.headers
    if request.client is None or not _is_loopback(request.client.host):
        return False
    if any(name in headers for name in PASSED_ON):
        return False
    host, origin = headers.get("host", ""), headers.get("origin")
    # A browser names the page's origin where the method can change something.
    return _is_loopback(_name(host)) and origin in (None, f"http://{host}", f"https://{host}", *origins)


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def current_caller(request: Request) -> Caller:
    """The caller, whom the route has checked."""
    caller: Caller = request.state.caller
    return caller


bearer = HTTPBearer(
    auto_error=False, description="Not needed on the server's own machine if it has no tokens."
)
CurrentCaller = Annotated[Caller, Depends(current_caller)]
