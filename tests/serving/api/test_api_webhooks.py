"""Webhooks are signed so that OpenAI's client takes them, made at least once, and never to addresses within."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from serving.api.errors import ApiError
from serving.api.settings import ApiSettings
from serving.api.upkeep import repeat
from serving.api.webhooks import check_address, deliver, is_public
from testkit.api_server import Site, post, refusal

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is sent; fails as often as told."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append((body, dict(self.headers)))  # type: ignore[attr-defined]
        self.send_response(self.server.answers.pop(0))  # type: ignore[attr-defined]
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def receiver() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Receiver)
    server.calls, server.answers = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def site_for(folder: Path, **settings: Any) -> Site:
    return Site(folder, webhook_secret=SECRET, **settings)


def let_pass(site: Site, seconds: float) -> None:
    """Moves the database's clock on."""
    clock = site.database.storage.clock
    site.database.storage.clock = lambda: clock() + seconds


def test_openais_client_takes_a_call(tmp_path: Path, receiver: Any) -> None:
    site = site_for(tmp_path, webhook_hosts=("127.0.0.1",))
    job_id = post(site.client(), webhook_url=receiver.url).json()["id"]
    receiver.answers = [200]
    asyncio.run(deliver(site.database, site.settings))
    assert receiver.calls == []  # not yet
    site.finish()
    asyncio.run(deliver(site.database, site.settings))
    ((body, headers),) = receiver.calls
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    event = client.webhooks.unwrap(body, headers)
    assert event.type == "video.completed" and event.data.id == job_id
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"completed", b"cancelled"), headers)
    let_pass(site, 3600)
    asyncio.run(deliver(site.database, site.settings))
    assert len(receiver.calls) == 1


def test_a_call_that_fails_is_made_again_with_the_same_id(tmp_path: Path, receiver: Any) -> None:
    site = site_for(tmp_path, webhook_hosts=("127.0.0.1",))
    site.database.jobs.cancel(site.job(webhook=receiver.url))
    receiver.answers = [500, 302, 204]
    for calls in (1, 2, 3, 3):
        asyncio.run(deliver(site.database, site.settings))
        assert len(receiver.calls) == calls
        let_pass(site, 3600)
    assert len({headers["webhook-id"] for _, headers in receiver.calls}) == 1


def test_the_running_app_makes_calls(tmp_path: Path, receiver: Any) -> None:
    site = site_for(tmp_path, webhook_hosts=("127.0.0.1",))
    receiver.answers = [200]
    site.database.jobs.cancel(site.job(webhook=receiver.url))
    with site.served():
        for _ in range(600):
            if receiver.calls:
                break
            threading.Event().wait(0.05)
    assert len(receiver.calls) == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://hooks.example/",
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://0.0.0.0/",
        "https://user@hooks.example/",
        "https:///path",
        "https://hooks.example:99999/",
        "https://hooks.example/ x",
        "https://[hooks.example/",
        "ftp://allowed.example/",
        "file:///etc/passwd",
        "hooks.example",
        "",
    ],
)
def test_addresses_that_are_not_called(address: str) -> None:
    with pytest.raises(ApiError, match=r"webhook_url: .*; send"):
        check_address(address, ApiSettings(webhook_hosts=("allowed.example",)))


@pytest.mark.parametrize(
    "address", ["https://hooks.example/a?b=c", "https://1.1.1.1:8443/", "http://allowed.example/"]
)
def test_addresses_that_are_called(address: str) -> None:
    check_address(address, ApiSettings(webhook_hosts=("allowed.example",)))


def test_a_request_is_refused_for_its_webhook(tmp_path: Path) -> None:
    private = "https://192.168.0.1/"
    answer = post(site_for(tmp_path).client(), webhook_url=private)
    assert "not a public address" in refusal(answer, 400)
    answer = post(Site(tmp_path).client(), webhook_url=private)
    assert "no secret to sign it with" in refusal(answer, 400)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:1.1.1.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("name", ["localhost", "hooks.example"])
def test_what_counts_is_the_address_that_is_connected_to(
    tmp_path: Path, receiver: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A name that was public when it was sent, and now stands for this machine."""

    def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    site = site_for(tmp_path)
    site.database.jobs.cancel(site.job(webhook=receiver.url.replace("127.0.0.1", name)))
    asyncio.run(deliver(site.database, site.settings))
    assert receiver.calls == []
    allowing = site_for(tmp_path, webhook_hosts=(f"{name}:{receiver.server_port}",))
    let_pass(allowing, 3600)
    receiver.answers = [200]
    asyncio.run(deliver(allowing.database, allowing.settings))
    assert len(receiver.calls) == 1


def test_a_slow_receiver_holds_up_no_other(tmp_path: Path) -> None:
    quick_was_called, slow_saw = threading.Event(), []

    class Slow(Receiver):
        def do_POST(self) -> None:
            if self.path == "/slow":
                slow_saw.append(quick_was_called.wait(timeout=10))
            else:
                quick_was_called.set()
            self.send_response(200)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = site_for(tmp_path, webhook_hosts=("127.0.0.1",))
    for path in ("slow", "quick"):
        site.database.jobs.cancel(site.job(webhook=f"http://127.0.0.1:{server.server_port}/{path}"))
    asyncio.run(deliver(site.database, site.settings))
    server.shutdown()
    server.server_close()
    assert slow_saw == [True]


def test_a_name_that_dns_cannot_hold_fails_its_own_calls_only(tmp_path: Path) -> None:
    site = site_for(tmp_path)
    job_id = site.job(webhook=f"https://{'long' * 20}.example/hook")
    site.database.jobs.cancel(job_id)
    asyncio.run(deliver(site.database, site.settings))
    assert site.database.deliveries.claim(60) is None, "it is due later"


def test_upkeep_outlives_any_failure() -> None:
    done: list[str] = []

    async def fail_once() -> None:
        done.append("once more")
        if len(done) == 1:
            raise ZeroDivisionError

    async def watch() -> None:
        chore = asyncio.create_task(repeat(fail_once, 0.01))
        while len(done) < 2:
            assert not chore.done()
            await asyncio.sleep(0.01)
        chore.cancel()

    asyncio.run(watch())
