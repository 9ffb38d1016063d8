"""The client that comes with the server, against a real HTTP server; workers are stood in for, see api_server.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from serving.client import ClientError, VideoRequest, describe, events, make_video, post
from serving.state.transitions import JobStatus
from testkit import ROOT
from testkit.api_server import MODEL, Site, movie, picture

CLIENT = ROOT / "serving/client.py"


@pytest.fixture
def wanted(tmp_path: Path) -> VideoRequest:
    """Of a picture and a video in files."""
    (tmp_path / "person.png").write_bytes(picture())
    (tmp_path / "dance.mp4").write_bytes(movie(30))
    return VideoRequest(
        tmp_path / "person.png", tmp_path / "dance.mp4", tmp_path / "made" / "out.mp4", seed=3
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_it_makes_a_video_and_says_how_far_it_is(
    site: Site, wanted: VideoRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    with site.served() as url, ThreadPoolExecutor() as threads:
        made = threads.submit(make_video, replace(wanted, url=url))
        video = site.finish()
        made.result()
    assert wanted.output.read_bytes() == video
    (job,) = site.database.jobs.page()
    assert job.request["seed"] == 3 and job.request["uploads"].keys() == {"input_reference", "driving_video"}
    assert capsys.readouterr().out.endswith(f"completed\nsaved as {wanted.output}\n")


def test_it_sends_loras_hands_and_a_mask(tmp_path: Path, wanted: VideoRequest) -> None:
    site = Site(tmp_path, model=replace(MODEL, loras=("ink", "oil"), hands=True))
    more = {"hands": wanted.video, "mask": wanted.video, "foreground": "mask", "lora": ("ink:0.5", "oil")}
    with (
        site.served() as url,
        pytest.raises(ClientError, match="--lora ink:strong: give NAME or NAME:STRENGTH"),
    ):
        post(replace(wanted, url=url, **more))  # type: ignore[arg-type]
        post(replace(wanted, url=url, lora=("ink:strong",)))
    (job,) = site.database.jobs.page()
    assert job.request["lora"] == [{"name": "ink", "strength": 0.5}, {"name": "oil", "strength": 1.0}]
    assert job.request["uploads"].keys() == {"input_reference", "driving_video", "mask", "hands"}


def stage(state: str, step: int, steps: int = 4) -> dict[str, Any]:
    return {"state": state, "step": step, "steps": steps}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"queue_place": 2}, "waiting, place 2 in the queue"),
        ({}, "reading the picture and the movement"),
        (
            {"segments": [stage("done", 4), stage("waiting", 0), stage("running", 3)], "eta_seconds": 7.6},
            "segments [#.7]    7 of 12 steps, 8 s left",
        ),
        (
            {"segments": [stage("done", 4)] * 3, "stitch": stage("running", 10, 30)},
            "joining the segments: 10 of 30 frames",
        ),
        ({"video": {"status": "failed"}}, "failed"),
    ],
)
def test_a_state_is_told_in_a_line(changes: dict[str, Any], line: str) -> None:
    state: dict[str, Any] = {"video": {"status": "in_progress"}, "queue_place": 0, "segments": []}
    assert describe(state | {"eta_seconds": None, "stitch": None} | changes) == line


def test_a_stream_that_breaks_is_opened_again() -> None:
    """A server that breaks down, then one that ends in the middle of its stream, then one that tells the end."""
    states = [{"video": {"status": status}} for status in ("in_progress", "completed")]
    answers = [(503, ""), *((200, f"event: progress\ndata: {json.dumps(state)}\n\n") for state in states)]

    class Unreliable(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Unreliable) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert list(events(f"http://127.0.0.1:{server.server_port}", "video_1")) == states
        server.shutdown()


def test_what_the_server_refuses_is_told_in_its_words(site: Site, wanted: VideoRequest) -> None:
    wanted.video.write_text("no video")
    with site.served() as url, pytest.raises(ClientError, match="driving_video: "):
        make_video(replace(wanted, url=url))


def test_without_a_server_it_says_how_to_start_one(wanted: VideoRequest) -> None:
    with pytest.raises(ClientError, match="start one by `make serve`"):
        make_video(replace(wanted, url="http://127.0.0.1:9"))


def test_interrupted_it_cancels_its_job(site: Site, wanted: VideoRequest) -> None:
    with site.served() as url:
        program = [sys.executable, str(CLIENT), "--url", url]
        program += ["--image", str(wanted.image), "--video", str(wanted.video)]
        with Popen(program, text=True, stdout=PIPE, stderr=PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline().endswith("is queued\n")
            os.kill(client.pid, signal.SIGINT)
            _, said = client.communicate()
    assert said == "client: interrupted; what was asked for is cancelled\n"
    assert site.database.jobs.page()[0].status is JobStatus.FAILED
