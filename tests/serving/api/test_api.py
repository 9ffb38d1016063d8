"""The endpoint as its clients see it, on a real database; workers are stood in for, see api_server.py."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from serving.api.content import asked_range
from serving.api.settings import Token
from serving.api.upkeep import expire, make_room
from serving.state.artifacts import preview_artifact
from serving.state.rows import QueueLimits, Role
from serving.work.growing import GrowingVideo
from testkit.api_server import PLAN, Site, fragments, frames_of, movie, picture, post, refusal

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def openai_client(site: Site) -> Iterator[openai.OpenAI]:
    with site.served() as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none needed", max_retries=0, timeout=120)


def data_url(content: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(content).decode()}"


def test_the_openai_client_creates_polls_downloads_and_deletes(
    site: Site, openai_client: openai.OpenAI
) -> None:
    videos = openai_client.videos
    with ThreadPoolExecutor() as workers:
        work = workers.submit(site.finish)
        video = videos.create_and_poll(
            prompt="a dancer",
            input_reference=("person.png", picture()),
            size="64x96",  # type: ignore[arg-type]
            extra_body={"driving_video": data_url(movie(30)), "seed": 3},
        )
        work.result()
    assert video.status == "completed" and video.progress == 100 and video.completed_at is not None
    assert video.seconds == "1" and video.size == "64x96" and video.prompt == "a dancer"
    assert frames_of(videos.download_content(video.id).read()) == list(range(PLAN.frames))
    assert videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"
    assert videos.download_content(video.id, variant="spritesheet").read()[:2] == b"\xff\xd8"
    assert [listed.id for listed in videos.list()] == [video.id]
    assert videos.delete(video.id).deleted
    assert site.artifacts.folders() == []
    with pytest.raises(openai.NotFoundError, match=f"There is no video {video.id}"):
        videos.retrieve(video.id)


def test_the_openai_client_sends_references_poses_and_reads_pages(
    site: Site, openai_client: openai.OpenAI
) -> None:
    poses = np.full((12, 133, 3), 0.5).tolist()
    ids = [
        openai_client.videos.create(
            prompt="",
            extra_body={"input_reference": data_url(picture()), "poses": json.dumps(poses), "seed": seed},
        ).id
        for seed in range(3)
    ]
    assert site.database.jobs.get(ids[0]).request["uploads"]["poses"]["frames"] == 12
    assert [video.id for video in openai_client.videos.list(limit=2)] == ids[::-1]
    assert [video.id for video in openai_client.videos.list(limit=1, order="asc")] == ids
    page = openai_client.videos.list(limit=2, after=ids[2])
    assert [video.id for video in page.data] == ids[1::-1] and page.has_more is False


def test_the_same_key_makes_one_job(site: Site) -> None:
    client, key = site.client(), {"Idempotency-Key": "order 66"}
    first, again = (post(client, seed=7, headers=key).json()["id"] for _ in range(2))
    assert first == again
    assert [job.id for job in site.database.jobs.page()] == site.artifacts.folders() == [first]
    sentence = refusal(post(client, seed=8, headers=key), 409)
    assert "'order 66' came with another request" in sentence
    assert site.artifacts.folders() == [first]  # nothing of the refused request stays


def test_a_full_queue_is_said_with_a_time_to_come_again(tmp_path: Path) -> None:
    site = Site(tmp_path, QueueLimits(jobs=1))
    site.job()
    answer = post(site.client())
    assert "queue is full" in refusal(answer, 429)
    assert int(answer.headers["retry-after"]) > 0
    assert site.artifacts.folders() == []


@pytest.fixture
def shared_site(tmp_path: Path) -> Site:
    """Of Ada, who may have one unfinished job, and Bob."""
    tokens = [Token(name, hashlib.sha256(name.encode()).hexdigest(), 1) for name in ("ada", "bob")]
    return Site(tmp_path, tokens=tuple(tokens))


def test_each_token_has_its_own_quota(shared_site: Site) -> None:
    shared_site.job("ada")
    assert "You have 1 unfinished jobs" in refusal(post(shared_site.client(Authorization="Bearer ada")), 429)
    assert post(shared_site.client(Authorization="Bearer bob")).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer eve"}, {"Authorization": "Basic ada"}])
def test_strangers_are_refused_before_their_body_is_read(shared_site: Site, headers: dict[str, str]) -> None:
    def body() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = shared_site.client(**headers).post("/v1/videos", content=body())
    assert "bearer token" in refusal(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


ROUTES = [
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/cancel"),
    ("GET", "/content"),
    ("GET", "/content?partial=true"),
    ("GET", "/events"),
    ("GET", "/segments"),
    ("GET", "/segments/0/preview"),
    ("POST", "/segments/0/regenerate"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_jobs_of_others_are_not_found(shared_site: Site, method: str, path: str) -> None:
    job_id = shared_site.job("ada")
    bob = shared_site.client(Authorization="Bearer bob")
    assert f"no video {job_id}" in refusal(bob.request(method, f"/v1/videos/{job_id}{path}"), 404)
    assert shared_site.database.jobs.get(job_id).status == "queued"
    assert bob.get("/v1/videos").json()["data"] == []


@pytest.mark.parametrize("job_id", ["video_0", "..%2f..%2fserving.db", "video_" + "g" * 24, "%00"])
def test_what_is_no_id_is_not_found(site: Site, job_id: str) -> None:
    refusal(site.client().get(f"/v1/videos/{job_id}/content"), 404)


def test_a_preview_is_there_from_the_first_step_on(shared_site: Site) -> None:
    """And is sent to nobody but its owner, and not kept."""
    ada = shared_site.client(Authorization="Bearer ada")
    job_id = shared_site.job("ada")
    address = f"/v1/videos/{job_id}/segments/0/preview"
    assert "no preview of segment 0 yet" in refusal(ada.get(address), 404)
    shared_site.artifacts.write(preview_artifact(job_id, 0), b"a JPEG")
    answer = ada.get(address)
    assert answer.content == b"a JPEG" and answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, no-store"
    refusal(shared_site.client().get(address), 401)


def test_without_tokens_only_this_machine_is_answered(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert site.client().get("/v1/videos").status_code == 200
    assert (
        site.client(host="localhost:8000", origin="http://localhost:8000").get("/v1/videos").status_code
        == 200
    )
    elsewhere = TestClient(site.app, base_url="http://127.0.0.1:8000", client=("192.0.2.1", 50000))
    assert "only this machine" in refusal(elsewhere.get("/v1/videos"), 403)
    assert elsewhere.get("/healthz").status_code == 200
    for headers in (
        {"host": "rebound.example:8000"},
        {"host": "[::1"},
        {"origin": "https://elsewhere.example"},
        {"x-forwarded-for": "192.0.2.1"},
    ):
        refusal(site.client(**headers).get("/v1/videos"), 403)
    opened = Site(tmp_path, open=True)
    elsewhere = TestClient(opened.app, base_url="http://posegen.example", client=("192.0.2.1", 50000))
    assert elsewhere.get("/v1/videos").status_code == 200


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-", (10, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("Bytes = 5 - 1000", (5, 100)),
        ("", None),
        ("bytes=-", None),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("bytes=one-two", None),
        ("seconds=0-1", None),
    ],
)
def test_ranges_are_read_as_the_rfc_says(header: str, span: tuple[int, int] | None) -> None:
    assert asked_range(header, 100) == span


def test_ranges_of_a_video(site: Site) -> None:
    job_id, client = site.job(), site.client()
    video = site.finish()
    url = f"/v1/videos/{job_id}/content"
    whole = client.get(url)
    assert whole.content == video and whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/mp4" and int(whole.headers["content-length"]) == len(video)
    part = client.get(url, headers={"Range": "bytes=100-299"})
    assert part.status_code == 206 and part.content == video[100:300]
    assert part.headers["content-range"] == f"bytes 100-299/{len(video)}"
    assert client.get(url, headers={"Range": "bytes=-7"}).content == video[-7:]
    beyond = client.get(url, headers={"Range": f"bytes={len(video)}-"})
    refusal(beyond, 416)
    assert beyond.headers["content-range"] == f"bytes */{len(video)}"
    for tag, status in ((whole.headers["etag"], 206), ('"another"', 200)):
        assert client.get(url, headers={"Range": "bytes=0-9", "If-Range": tag}).status_code == status


def test_a_video_is_watched_while_it_is_made(site: Site) -> None:
    job_id, client = site.job(), site.client()
    url = f"/v1/videos/{job_id}/content?partial=true"
    site.plan()
    assert client.get(url).status_code == 204, "browsers would count a refusal as an error of the page"
    site.segment()
    claim = site.claim(Role.STITCH)
    parts = fragments(PLAN.frames)
    growing = GrowingVideo(site.artifacts, claim.task.artifact)
    for made, part in enumerate(parts, 1):
        growing.append(part)
        seen = client.get(url)
        more = client.get(url, headers={"Range": f"bytes={len(seen.content)}-"})
        assert (more.status_code, more.content) == (204, b"")
        assert seen.content == b"".join(parts[:made])
        assert frames_of(seen.content) == list(range(10 * made))
    across = len(parts[0]) - 5
    answer = client.get(url, headers={"Range": f"bytes={across}-{across + len(parts[1]) + 9}"})
    assert answer.content == parts[0][-5:] + parts[1] + parts[2][:5]
    GrowingVideo(site.artifacts, claim.task.artifact).append(parts[0])  # another stitcher takes over
    assert client.get(url).content == b"".join(parts)
    refusal(client.get(f"/v1/videos/{job_id}/content"), 404)
    site.database.queue.release(claim)
    assert site.finish() == client.get(url).content


def read_event(lines: Iterator[bytes]) -> tuple[str, dict[str, Any]]:
    """The id and the data of the next event."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        if not line.strip() and fields:
            return fields[b"id"].decode(), json.loads(fields[b"data"])
        name, _, value = line.strip().partition(b": ")
        fields[name] = value
    raise AssertionError(f"the stream ended after {fields}")


def test_events_follow_a_job_to_its_end(site: Site) -> None:
    job_id = site.job()
    with site.served() as address:
        url = f"{address}/v1/videos/{job_id}/events"
        with urllib.request.urlopen(url, timeout=60) as lines:
            assert lines.headers["content-type"].startswith("text/event-stream")
            _, queued = read_event(lines)
            assert queued["video"]["status"] == "queued" and queued["queue_place"] == 1
            assert queued["segments"] == [] and queued["eta_seconds"] is None
            site.plan()
            planned = queued
            while not planned["segments"]:
                last_id, planned = read_event(lines)
            assert [segment["state"] for segment in planned["segments"]] == ["ready", "waiting", "waiting"]
            claim = site.claim(Role.GENERATE)
            site.database.queue.heartbeat(claim, 3, 4, 60)
            running = planned
            while running["segments"][0]["step"] < 3:
                last_id, running = read_event(lines)
            assert running["video"]["progress"] == 25 and running["eta_seconds"] > 0
        again = urllib.request.Request(url, headers={"Last-Event-ID": last_id})
        with urllib.request.urlopen(again, timeout=60) as lines:
            site.database.queue.release(claim)
            missed_id, missed = read_event(lines)  # and not what was sent before
            assert missed["segments"][0]["step"] == 0 and missed_id != last_id
            site.finish()
            final = missed
            while final["video"]["status"] != "completed":
                last_id, final = read_event(lines)
            assert final["eta_seconds"] == 0 and lines.read() == b""
    answer = site.client().get(f"/v1/videos/{job_id}/events", headers={"Last-Event-ID": last_id})
    assert answer.status_code == 204


def test_segments_are_listed_and_made_anew_with_what_depends_on_them(site: Site) -> None:
    job_id, client = site.job(), site.client()
    url = f"/v1/videos/{job_id}/segments"
    assert client.get(url).json()["data"] == []
    assert "no segments to make anew" in refusal(client.post(f"{url}/1/regenerate"), 409)
    site.finish()
    before = client.get(url).json()["data"]
    assert [segment["kind"] for segment in before] == ["anchor", "bridge", "base"]
    assert [segment["depends_on"] for segment in before] == [[], [0, 2], [0]]
    answer = client.post(f"{url}/2/regenerate", json={"seed": 9})
    assert answer.json()["segments"] == [1, 2] and answer.json()["video"]["status"] == "in_progress"
    after = client.get(url).json()["data"]
    assert [segment["state"] for segment in after] == ["done", "waiting", "waiting"] and after[2]["seed"] == 9
    site.finish()
    assert client.get(f"/v1/videos/{job_id}").json()["status"] == "completed"
    assert "its segments are 0 to 2" in refusal(client.post(f"{url}/3/regenerate"), 404)
    refusal(client.post(f"{url}/0/regenerate", json={"sed": 9}), 400)
    refusal(client.post(f"{url}/-1/regenerate"), 404)


def test_who_waits_long_is_advised_to_ask_less_often(site: Site) -> None:
    job_id, client = site.job(), site.client()
    created = site.database.jobs.get(job_id).created_at
    for age, advised in ((0, "50"), (1, "50"), (4, "200"), (9, "450"), (3600, "500")):
        site.database.storage.clock = lambda now=created + age: now  # type: ignore[misc]
        assert client.get(f"/v1/videos/{job_id}").headers["openai-poll-after-ms"] == advised


def test_a_job_is_cancelled_once_and_deleted_only_when_it_has_ended(site: Site) -> None:
    job_id, client = site.job(), site.client()
    url = f"/v1/videos/{job_id}"
    assert "cancel it first" in refusal(client.delete(url), 409)
    for _ in range(2):
        video = client.post(f"{url}/cancel").json()
        assert video["status"] == "failed" and video["error"]["code"] == "cancelled"
    assert "openai-poll-after-ms" not in client.get(url).headers
    refusal(client.get(f"{url}/content"), 404)
    assert client.delete(url).json() == {"id": job_id, "object": "video.deleted", "deleted": True}
    job_id = site.job()
    site.finish()
    assert "nothing to cancel" in refusal(client.post(f"/v1/videos/{job_id}/cancel"), 409)


def test_health_is_false_when_work_cannot_be_done(site: Site, tmp_path: Path) -> None:
    client = site.client()
    roles = [f"There is no live worker for the role {role}." for role in Role]
    assert client.get("/healthz").json() == {"ok": False, "problems": roles}
    for role in Role:
        site.database.queue.claim(role, f"a {role} worker", 60)
    answer = client.get("/healthz")
    assert answer.status_code == 200 and answer.json() == {"ok": True, "problems": []}
    full = Site(tmp_path, free_bytes=2**60).client().get("/healthz")
    assert full.status_code == 200 and "MiB left" in full.json()["problems"][0]
    lose_database(site, tmp_path)
    lost = client.get("/healthz")
    assert lost.status_code == 503 and lost.json()["problems"] == ["The database does not answer."]


def lose_database(site: Site, folder: Path) -> None:
    """Puts a folder where the database was."""
    site.database.close()
    for path in folder.glob("serving.db*"):
        path.unlink()
    (folder / "serving.db").mkdir()


def test_failures_of_the_server_tell_nothing_of_its_inside(site: Site, tmp_path: Path) -> None:
    job_id = site.job(size=None)  # as no form makes it
    assert refusal(site.client().get(f"/v1/videos/{job_id}"), 500) == "The server failed; try again later."
    lose_database(site, tmp_path)
    answer = site.client().get("/v1/videos")
    assert refusal(answer, 503) == "The database does not answer; try again later."


def test_metrics_show_the_queue_and_the_requests(site: Site) -> None:
    site.job()
    client = site.client()
    client.get(f"/v1/videos/{site.job()}")
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    samples = {
        (
            sample.name,
            *(sample.labels[name] for name in sorted(sample.labels) if name != "copy"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["posegen_jobs", "queued"] == 2
    assert samples["posegen_tasks", "prepare", "ready"] == 2
    assert samples["posegen_workers", "generate"] == 0
    assert samples["posegen_requests_total", "GET", "/v1/videos/{video_id}", "200"] == 1
    assert samples["posegen_requests_total", "any", "none", "404"] == 1


def test_unknown_addresses_and_methods_are_refused_in_the_same_form(site: Site) -> None:
    refusal(site.client().get("/v1/audio"), 404)
    refusal(site.client().put("/v1/videos"), 405)


def test_what_has_expired_is_deleted(tmp_path: Path) -> None:
    site = Site(tmp_path, QueueLimits(keep_seconds=0.0))
    ended, waiting = site.job(), site.job()
    site.database.jobs.cancel(ended)
    site.artifacts.mark()
    for job_id in (ended, waiting):
        site.artifacts.write(f"{job_id}/input_reference", b"")
    time.sleep(0.01)
    expire(site.database, site.artifacts)
    assert site.artifacts.jobs() == [waiting]


def test_the_jobs_that_ended_first_make_room(tmp_path: Path) -> None:
    site = Site(tmp_path, QueueLimits(keep_bytes=250))
    ended, last, waiting = site.job(), site.job(), site.job()
    site.artifacts.mark()
    for job_id in (ended, last, waiting):
        site.artifacts.write(f"{job_id}/input_reference", bytes(100))
    make_room(site.database, site.artifacts)
    assert len(site.artifacts.jobs()) == 3, "nothing that goes on is deleted"
    for job_id in (ended, last):
        site.database.jobs.cancel(job_id)
        time.sleep(0.01)
    make_room(site.database, site.artifacts)
    assert site.artifacts.jobs() == sorted([last, waiting])
    make_room(site.database, site.artifacts)
    assert site.artifacts.jobs() == sorted([last, waiting])


def test_what_a_video_was_asked_for_with_is_kept_with_it(site: Site) -> None:
    client = site.client()
    video = post(client, seconds="0.5").json()
    assert video["uploads"] == ["driving_video", "input_reference"] and video["options"]["seconds"] == 0.5
    url = f"/v1/videos/{video['id']}/uploads"
    person, dance = (client.get(f"{url}/{name}") for name in ("input_reference", "driving_video"))
    assert (person.content, person.headers["content-type"]) == (picture(), "image/png")
    assert (dance.content, dance.headers["content-type"]) == (movie(30), "video/mp4")
    assert client.get(f"{url}/driving_video", headers={"Range": "bytes=0-9"}).content == movie(30)[:10]
    tag = {"If-None-Match": dance.headers["etag"]}
    assert client.get(f"{url}/driving_video", headers=tag).status_code == 304
    refusal(client.get(f"{url}/poses"), 404)
    posed = post(
        client, {"input_reference": ("a.png", picture())}, poses=json.dumps(np.ones((5, 133, 3)).tolist())
    )
    assert "made without driving_video" in refusal(
        client.get(f"/v1/videos/{posed.json()['id']}/uploads/driving_video"), 404
    )


def test_the_video_before_segments_were_made_anew_is_kept(site: Site) -> None:
    job_id, client = site.job(), site.client()
    url = f"/v1/videos/{job_id}"
    assert client.get(f"{url}/versions").json()["data"] == []
    before = site.finish()
    (first,) = client.get(f"{url}/versions").json()["data"]
    assert first["current"] is True
    client.post(f"{url}/segments/2/regenerate")
    assert [version["current"] for version in client.get(f"{url}/versions").json()["data"]] == [False]
    assert client.get(f"{url}/content?version={first['id']}").content == before
    site.finish()
    versions = {version["id"]: version["current"] for version in client.get(f"{url}/versions").json()["data"]}
    assert len(versions) == 2 and versions.pop(first["id"]) is False and list(versions.values()) == [True]
    assert "has no version" in refusal(client.get(f"{url}/content?version={'0' * 16}"), 404)
    refusal(client.get(f"{url}/content?version=../x"), 400)
