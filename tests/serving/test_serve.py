"""The server on Ray Serve, with two copies of its endpoint and PostgreSQL, killed here and there: jobs go on and end in
the same video."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest

from testkit.postgres import empty_database
from testkit.serving_cluster import VICTIMS, Cluster, done, torment
from testkit.tiny_model import save_tiny_model

pytestmark = pytest.mark.slow

FRAMES = 29  # three segments: the anchor, a bridge, a base
STEPS = "6"
KILLED = ("anchor worker after publishing", "anchor store", "proxy", "controller")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Cluster]:
    model = save_tiny_model(tmp_path_factory.mktemp("model"))
    folder, database = tmp_path_factory.mktemp("server"), empty_database(postgres)
    server = Cluster(folder, model, generators=1, ingresses=2, database_url=database)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> bytes:
    """The video that is made when nothing happens."""
    job_id = cluster.post(FRAMES, "undisturbed", steps=STEPS)
    assert cluster.finished(job_id)["status"] == "completed"
    assert set(done(cluster.database, job_id).values()) == {1}
    return cluster.video(job_id)


def test_a_video_is_made_over_http(cluster: Cluster, undisturbed: bytes) -> None:
    job_id = cluster.post(FRAMES, "undisturbed", steps=STEPS)  # the same key: the same job
    assert cluster.get(f"/v1/videos/{job_id}/content").content == undisturbed
    assert cluster.get("/healthz").json()["ok"]


def test_any_copy_of_the_endpoint_answers_for_any_job(cluster: Cluster, undisturbed: bytes) -> None:
    (job,) = cluster.database.jobs.page()
    copies: set[str] = set()

    def both_answered() -> bool:
        assert cluster.get(f"/v1/videos/{job.id}").json()["status"] == "completed"
        copies.update(re.findall(r'copy="(\w+)"', cluster.get("/metrics").text))
        return len(copies) == 2

    cluster.wait(both_answered)


def test_the_proxy_passes_on_who_calls(cluster: Cluster) -> None:
    """Without tokens only this machine is answered, and the endpoint sees it through Serve's proxy."""
    address = f"{cluster.address}/v1/videos"
    assert httpx.get(address, timeout=60).status_code == 200
    for name, value in (("X-Forwarded-For", "192.0.2.1"), ("Host", "elsewhere.example")):
        assert httpx.get(address, headers={name: value}, timeout=60).status_code == 403


def test_head_comes_through_the_proxy(cluster: Cluster, undisturbed: bytes) -> None:
    (job,) = cluster.database.jobs.page()
    answer = httpx.head(f"{cluster.address}/v1/videos/{job.id}/content", timeout=60)
    assert answer.status_code == 200 and int(answer.headers["content-length"]) == len(undisturbed)


def test_a_request_whose_replica_dies_may_be_made_again(cluster: Cluster) -> None:
    for _ in range(10):
        assert cluster.get("/v1/videos").status_code == 200  # the proxy knows both copies as idle
    cluster.send("ingress", signal.SIGSTOP)
    with ThreadPoolExecutor() as callers:
        asked = [callers.submit(cluster.get, "/v1/videos") for _ in range(4)]
        assert not any(request.done() for request in asked)
        time.sleep(2)
        cluster.send("ingress", signal.SIGKILL)
        lost = [request.result() for request in asked]
    # Which of the two copies a request is given to is Serve's choice; test_proxy.py has the loss itself.
    assert {answer.status_code for answer in lost} <= {200, 503}
    for answer in lost:
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "unavailable"
    cluster.wait(lambda: cluster.get("/v1/videos").status_code == 200)


@pytest.mark.parametrize("name", KILLED)
def test_a_job_outlives_what_is_killed(cluster: Cluster, undisturbed: bytes, name: str) -> None:
    (victim,) = (victim for victim in VICTIMS if victim.name == name)
    job_id = cluster.post(FRAMES, name, steps=STEPS)
    before = torment(cluster, job_id, victim)
    assert cluster.finished(job_id)["status"] == "completed"
    assert cluster.video(job_id) == undisturbed
    after = done(cluster.database, job_id)
    assert {task: after[task] for task in before} == before, "no committed task is done twice"
