"""What clients, caches, browsers and load balancers ask of any HTTP server, on a real database."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import anyio.to_thread
import openai
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import InterfaceError, TimeoutError

from serving.api.settings import Model
from serving.config import ConfigError, load_config
from serving.state.rows import Role
from testkit.api_server import MODEL, Site, movie, picture, post, refusal, sent

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
APP = "https://app.example"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_head_is_answered_wherever_get_is(site: Site) -> None:
    job_id, client = site.job(), site.client()
    site.finish()
    video = f"/v1/videos/{job_id}"
    paths = [
        video,
        f"{video}/content",
        f"{video}/content?variant=thumbnail",
        f"{video}/segments",
        "/v1/videos",
    ]
    for path in [
        *paths,
        "/v1/models",
        "/healthz",
        "/docs",
        "/openapi.json",
        "/page/",
        "/page/app.js",
        "/nowhere",
    ]:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers == got.headers, path
    assert client.head(f"{video}/content", headers={"Range": "bytes=0-9"}).headers["content-length"] == "10"
    refusal(client.put("/v1/videos"), 405)


def test_head_of_a_stream_of_events_ends(site: Site) -> None:
    """Read from the socket: nothing but headers comes, and the next request on it is answered."""
    path = f"/v1/videos/{site.job()}"
    with site.served() as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            asked = f"HEAD {path}/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
            last = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            connection.sendall(asked.encode() + last.encode())
            answers = b"".join(iter(lambda: connection.recv(2**16), b"")).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200"]
    assert b"text/event-stream" in answers[0] and b"event:" not in answers[0]


@pytest.mark.parametrize("query", ["", "?variant=thumbnail", "?variant=spritesheet"])
def test_what_a_client_has_is_not_sent_again(site: Site, query: str) -> None:
    path, client = f"/v1/videos/{site.job()}/content{query}", site.client()
    site.finish()
    tag = client.get(path).headers["etag"]
    for held in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = client.get(path, headers={"If-None-Match": held, "Range": "bytes=0-1"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_no_other_site_may_call_unless_it_is_named(tmp_path: Path) -> None:
    asks = {
        "Origin": APP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    closed, named = Site(tmp_path).client(), Site(tmp_path, origins=(APP,)).client()
    assert "access-control-allow-origin" not in closed.options("/v1/videos", headers=asks).headers
    refusal(closed.get("/v1/videos", headers={"Origin": APP}), 403)
    assert named.options("/v1/videos", headers=asks).headers["access-control-allow-origin"] == APP
    answer = named.get("/v1/videos", headers={"Origin": APP})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == APP
    refused = named.get("/v1/videos/video_0", headers={"Origin": APP})
    assert refused.status_code == 404 and refused.headers["access-control-allow-origin"] == APP
    refusal(named.get("/v1/videos", headers={"Origin": "https://elsewhere.example"}), 403)


def test_models_are_listed_as_by_openai_with_what_there_is_to_know(tmp_path: Path) -> None:
    model = Model("mini", (64, 96), 8, 12.0, 2, summary="Knows drawn people only.")
    site = Site(tmp_path, model=model, video_pixels=96 * 96)
    with site.served() as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none needed", max_retries=0)
        (found,) = client.models.list()
        assert found.id == "mini" and found.object == "model" and found.created > 0
        assert client.models.retrieve("mini") == found
        with pytest.raises(openai.NotFoundError, match="There is no model 'sora-2'"):
            client.models.retrieve("sora-2")
    told = found.model_dump()
    assert told["summary"] == model.summary and told["sizes"][:2] == ["64x96", "96x64"] and told["rate"] == 12


def test_the_picture_may_come_as_openais_object(site: Site) -> None:
    given = {"image_url": data_url(picture(), "image/png")}
    movement = data_url(movie(30), "video/mp4")
    with site.served() as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none needed", max_retries=0)
        # The client takes the object in its types, and refuses it as an argument.
        body = {"input_reference": given, "driving_video": movement}
        by_client = client.videos.create(prompt="", extra_body=body)
    by_json = post(site.client(), sent(input_reference=None), input_reference=json.dumps(given))
    uploads = [site.database.jobs.get(id).request["uploads"] for id in (by_client.id, by_json.json()["id"])]
    assert uploads[0] == uploads[1]
    twice: dict[str, Any] = {"input_reference[image_url]": given["image_url"]}
    assert "came twice" in refusal(post(site.client(), **twice), 400)
    assert "data URL" in refusal(post(site.client(), sent(input_reference=None), input_reference="{"), 400)


@pytest.mark.parametrize("size", ["480p", "1280", "0x0", "64x97", "2048x2048"])
def test_a_size_that_cannot_be_is_answered_by_those_that_can(site: Site, size: str) -> None:
    answer = post(site.client(), size=size)
    assert "choose from 64x96, 96x64, 80x80" in refusal(answer, 400)
    assert answer.json()["error"]["param"] == "size"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/videos?limits=5",
        "/v1/videos/{}?expand=all",
        "/v1/videos/{}/content?varient=thumbnail",
        "/metrics?a=1",
    ],
)
def test_unknown_parameters_of_the_query_are_refused(site: Site, path: str) -> None:
    answer = site.client().get(path.format(site.job()))
    assert "there is no such parameter" in refusal(answer, 400)
    assert answer.json()["error"]["param"] in ("limits", "expand", "varient", "a")


TOKEN = "{name: ann, sha256: %s, webhook_secret: %s}"
GOOD_HASH, GOOD_SECRET = "ab" * 32, "whsec_" + base64.b64encode(bytes(24)).decode()
UNPADDED = "whsec_" + base64.b64encode(bytes(25)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("api", "sentence"),
    [
        (f"{{webhook_secret: {UNPADDED}}}", "api: .*webhook_secret.*padding"),
        ("{webhook_secret: whsec_}", "webhook_secret"),
        ("{webhook_secret: c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0}", "webhook_secret"),
        (f"{{tokens: [{TOKEN % (GOOD_HASH, UNPADDED)}]}}", r"api.tokens.0: .*webhook_secret.*openssl rand"),
        (f"{{tokens: [{TOKEN % ('secret', GOOD_SECRET)}]}}", "'ann' is not 64 hexadecimal digits"),
        ("{origins: [app.example]}", "'app.example' is not as browsers name a site"),
        ("{origins: ['https://app.example/']}", "origins"),
    ],
)
def test_a_secret_hash_or_origin_that_is_none_is_refused_at_the_start(api: str, sentence: str) -> None:
    good = load_config({"api": f"{{tokens: [{TOKEN % (GOOD_HASH, GOOD_SECRET)}], origins: ['{APP}']}}"}, {})
    assert good.api.tokens[0].webhook_secret == GOOD_SECRET
    with pytest.raises(ConfigError, match=sentence):
        load_config({"api": api}, {})


@pytest.mark.parametrize(
    "error", [InterfaceError("", {}, Exception()), TimeoutError("no connection is free"), ConnectionError()]
)
def test_what_is_away_for_a_moment_is_no_failure(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(site.database.jobs, "page", away)
    answer = site.client().get("/v1/videos")
    assert "does not answer; try again later" in refusal(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_the_lack_of_a_role_keeps_nobody_from_an_answer(site: Site) -> None:
    """Health is what a load balancer asks before it sends anybody here."""
    site.database.queue.claim(Role.GENERATE, "a generate worker", 60)
    answer = site.client().get("/healthz")
    assert answer.status_code == 200
    assert [problem[-8:-1] for problem in answer.json()["problems"]] == ["prepare", " stitch"]
    assert post(site.client()).status_code == 200, "it waits for its worker"


def test_a_full_disk_keeps_new_videos_out_and_nothing_else(tmp_path: Path) -> None:
    site = Site(tmp_path, free_bytes=2**60)
    client: TestClient = site.client()
    job_id = site.job()
    answer = post(client)
    assert "MiB left" in refusal(answer, 503) and int(answer.headers["retry-after"]) > 0
    assert client.get(f"/v1/videos/{job_id}").status_code == client.get("/healthz").status_code == 200
    assert site.settings.model == MODEL


def test_what_is_asked_for_has_limits_of_its_own(tmp_path: Path) -> None:
    """Beside those of what is sent: a large picture or a long video may come in."""
    site = Site(tmp_path, video_pixels=64 * 96, video_seconds=0.5)
    client = site.client()
    assert "more than 6144 pixels" in refusal(post(client, size="96x96"), 400)
    assert "the movement lasts 1, a video at most 0.5" in refusal(post(client), 400)
    assert site.artifacts.folders() == [], "nothing of the refused request stays"
    assert "at most 0.5" in refusal(post(client, seconds="0.6"), 400)
    assert post(client, seconds="0.5", size="96x64").status_code == 200
    assert "more than 1048576 pixels" in refusal(post(Site(tmp_path).client(), size="4096x4096"), 400)


def test_a_poll_changes_threads_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the database. Each change costs more than the rest of the poll, and with many clients they queue up."""
    path, client = f"/v1/videos/{site.job()}", site.client()
    changes: list[str] = []
    run_sync = anyio.to_thread.run_sync

    async def counted(function: Any, *arguments: Any, **options: Any) -> Any:
        changes.append(getattr(function, "__name__", str(function)))
        return await run_sync(function, *arguments, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", counted)
    assert client.get(path).status_code == 200
    assert len(changes) == 1, changes
