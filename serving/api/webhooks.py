"""Webhooks: a job's end is told to its address at least once, signed as Standard Webhooks asks.

Calls are rows of the database that are claimed under a lease, so any copy of the endpoint makes them and none is lost
with a copy; a failed call is made again later. The address must be https and public, unless its host is declared
allowed. Whether it is public is checked on the address that is connected to, when the socket is made, because a name
may resolve to another address each time. Redirects are not followed and answers are not read.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import time
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import SplitResult, urlsplit

import aiohttp
from fastapi.concurrency import run_in_threadpool

from serving.api.auth import webhook_secret
from serving.api.errors import ApiError
from serving.api.settings import ApiSettings, secret_key
from serving.state.database import Database
from serving.state.rows import Delivery

TIMEOUT = 15.0  # seconds for a call
LEASE = 2 * TIMEOUT
AT_ONCE = 20  # calls

log = logging.getLogger(__name__)


def check_address(url: str, settings: ApiSettings) -> None:
    """Raises ApiError 400, a sentence, for an address that will not be called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("it is no address; send https://HOST/PATH") from None
    host = parts.hostname or ""
    if not host or parts.username or parts.fragment or not url.isascii() or any(c <= " " for c in url):
        raise _refused("it is no address; send https://HOST/PATH")
    if is_allowed(parts, settings) and parts.scheme in ("http", "https"):
        return
    if parts.scheme != "https" or port == 0:
        raise _refused("only https is called; send https://HOST/PATH")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return  # a name; its address is checked when it is called
    if not is_public(str(literal)):
        raise _refused("it is not a public address; send that of a server on the internet")


def is_allowed(parts: SplitResult, settings: ApiSettings) -> bool:
    """Whether the host is declared allowed, whatever its address."""
    host = parts.hostname or ""
    return bool({host, f"{host}:{parts.port}"} & set(settings.webhook_hosts))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet and embeds no other address, as some IPv6 ones do."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        hides = ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in ipaddress.ip_network("64:ff9b::/96")
        return ip.is_global and not ip.is_multicast and not hides
    return ip.is_global and not ip.is_multicast


def _refused(why: str) -> ApiError:
    return ApiError(400, f"webhook_url: {why}.", "invalid_webhook", "webhook_url")


def message(delivery: Delivery, secret: str, now: float) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a call: OpenAI's event, and a signature of id, time and body.

    The id names the event: a receiver that is told twice can tell by it.
    """
    job = delivery.job
    named = f"{job.id} {delivery.event} {job.completed_at}"
    event_id = f"evt_{hashlib.sha256(named.encode()).hexdigest()[:24]}"
    event: dict[str, Any] = {"id": event_id, "object": "event", "type": delivery.event}
    event |= {"created_at": int(job.completed_at or now), "data": {"id": job.id}}
    body = json.dumps(event).encode()
    signed = b".".join([event_id.encode(), str(int(now)).encode(), body])
    signature = base64.b64encode(hmac.new(secret_key(secret), signed, hashlib.sha256).digest()).decode()
    return body, {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": f"v1,{signature}",
    }


async def call(delivery: Delivery, settings: ApiSettings) -> bool:
    """Makes a call; whether it was answered with success."""
    url, secret = str(delivery.job.webhook), webhook_secret(settings, delivery.job.owner)
    if secret is None:
        log.warning("webhook of %s: its owner has no secret any more", delivery.job.id)
        return False
    connector = aiohttp.TCPConnector(
        socket_factory=None if is_allowed(urlsplit(url), settings) else _public_socket
    )
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        body, headers = message(delivery, secret, time.time())
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return 200 <= answer.status < 300
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a name that DNS cannot hold
        log.info("webhook of %s, call %d: %s", delivery.job.id, delivery.attempt, error)
        return False


def _public_socket(address: Any) -> socket.socket:
    """The socket for an address that was looked up, if it is public."""
    family, kind, protocol, _, (host, *_) = address
    if not is_public(host):
        raise OSError(f"{host} is not a public address")
    return socket.socket(family, kind, protocol)


async def deliver(database: Database, settings: ApiSettings) -> None:
    """Makes all calls that are due, several at once, so that a slow receiver does not hold up all others."""

    def due() -> list[Delivery]:
        return list(islice(iter(partial(database.deliveries.claim, LEASE), None), AT_ONCE))

    async def make(delivery: Delivery) -> None:
        await run_in_threadpool(database.deliveries.end, delivery, await call(delivery, settings))

    while deliveries := await run_in_threadpool(due):
        await asyncio.gather(*map(make, deliveries))
