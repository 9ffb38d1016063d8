"""What tests of the endpoint share: a server on a database and a folder of its own, files to send, and a stand-in for
the workers, which claims tasks and commits small real files: it generates nothing."""

from __future__ import annotations

import functools
import io
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from posegen.video import save_video
from serving.api.auth import EVERYONE
from serving.api.routes import create_app
from serving.api.settings import ApiSettings, Model
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import Claim, Heartbeat, JobPlan, Kind, NewJob, QueueLimits, Role, new_job_id
from serving.work.growing import GrowingVideo
from testkit.videos import number_of, numbered_picture

MODEL = Model("mini", (64, 96), 16, 30.0, 4)
LEASE = 60.0
PLAN = JobPlan(
    frames=30,
    segment_frames=13,
    head=1,
    tail=4,
    anchor=0,
    steps=4,
    seed=0,
    shared_steps=1,
    record_bytes=1000,
    content_id="made-in-a-test",
)


class Site:
    """An app with its database and artifacts."""

    def __init__(self, folder: Path, limits: QueueLimits | None = None, **settings: Any) -> None:
        self.database = Database(f"sqlite:///{folder / 'serving.db'}", limits)
        self.artifacts = Artifacts(str(folder / "artifacts"), self.database.id)
        quick = ApiSettings(model=MODEL, refresh=0.05, poll=0.05, free_bytes=0)
        self.settings = replace(quick, **settings)
        self.app: FastAPI = create_app(self.settings, self.database, self.artifacts)

    def client(self, **headers: str) -> TestClient:
        """A client on this machine; failures of the server come as answers."""
        return TestClient(
            self.app,
            base_url="http://127.0.0.1:8000",
            client=("127.0.0.1", 50000),
            headers=headers,
            raise_server_exceptions=False,
        )

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of a real HTTP server of the app, as long as the block lasts."""
        server = uvicorn.Server(uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            _, port = server.servers[0].sockets[0].getsockname()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()

    def job(self, owner: str = EVERYONE, **request: Any) -> str:
        """The id of a job that is queued without sending anything."""
        asked: dict[str, Any] = {
            "prompt": "",
            "model": "mini",
            "size": "64x96",
            "seconds": None,
            "seed": 0,
            "steps": 4,
        }
        asked |= {"uploads": {"driving_video": {"seconds": 1.0}}}
        webhook = request.pop("webhook", None)
        job, _ = self.database.jobs.create(NewJob(new_job_id(), owner, asked | request, webhook))
        return job.id

    def claim(self, role: Role) -> Claim:
        """The next task of a role."""
        claim = self.database.queue.claim(role, f"a {role} worker", LEASE)
        assert claim is not None, f"no {role} task is ready"
        return claim

    def plan(self) -> None:
        """Does the preparation that is next."""
        assert self.database.queue.commit_plan(self.claim(Role.PREPARE), PLAN)

    def segment(self) -> Claim:
        """Does the segment that is next."""
        claim = self.claim(Role.GENERATE)
        for step in range(1, PLAN.steps + 1):
            assert self.database.queue.heartbeat(claim, step, PLAN.steps, LEASE) is Heartbeat.CONTINUE
        if claim.records:
            assert self.database.queue.publish_record_step(claim, PLAN.shared_steps)
        if claim.task.kind is Kind.SEGMENT:
            self.artifacts.write(claim.task.artifact, b"frames")
        assert self.database.queue.commit(claim)
        return claim

    def finish(self) -> bytes:
        """Does all that is left of the newest job, once there is one; returns its video."""
        while not (jobs := self.database.jobs.page(limit=1)):
            time.sleep(0.05)
        job = jobs[0]
        if job.plan is None:
            self.plan()
        while any(
            task.state != "done" for task in self.database.jobs.tasks(job.id) if task.kind is Kind.SEGMENT
        ):
            self.segment()
        return self.stitch()

    def stitch(self) -> bytes:
        """Joins the segments; returns the video."""
        claim = self.claim(Role.STITCH)
        growing = GrowingVideo(self.artifacts, claim.task.artifact)
        for part in fragments(PLAN.frames):
            growing.append(part)
        video = movie(PLAN.frames)
        self.artifacts.write(claim.task.artifact, video)
        assert self.database.queue.commit(claim)
        return video


@functools.cache
def picture() -> bytes:
    """A small PNG."""
    file = io.BytesIO()
    Image.fromarray(numbered_picture(3)).save(file, "PNG")
    return file.getvalue()


@functools.cache
def movie(frames: int) -> bytes:
    """A small MP4 of numbered pictures at 30 frames/s."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "movie.mp4"
        save_video(np.stack([numbered_picture(number) for number in range(frames)]), path, 30)
        return path.read_bytes()


@functools.cache
def fragments(frames: int) -> tuple[bytes, ...]:
    """The same pictures as fragmented MP4, in parts of ten frames; the first begins with the header."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "movie.mp4"
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=30, options={"g": "10", "bf": "0"})
            stream.height, stream.width = numbered_picture(0).shape[:2]
            stream.pix_fmt = "yuv420p"
            for number in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_picture(number), "rgb24")))
            container.mux(stream.encode(None))
        video = path.read_bytes()
    starts = [match.start() - 4 for match in re.finditer(b"moof", video)]
    ends = [*starts[1:], video.rindex(b"mfra") - 4]
    return tuple(video[start:end] for start, end in zip([0, *starts[1:]], ends, strict=True))


def frames_of(video: bytes) -> list[int]:
    """The numbers on the pictures of an MP4."""
    with av.open(io.BytesIO(video), "r") as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def sent(**changes: Any) -> dict[str, Any]:
    """A request's files: a picture and a driving video, unless changed or (None) left out."""
    files = {"input_reference": ("person.png", picture()), "driving_video": ("dance.mp4", movie(30))}
    return {name: file for name, file in (files | changes).items() if file is not None}


def post(client: TestClient, files: dict[str, Any] | None = None, **fields: Any) -> Any:
    """The answer to a new video's request."""
    headers = fields.pop("headers", {})
    return client.post("/v1/videos", files=files or sent(), data=fields, headers=headers)


def refusal(answer: Any, status: int) -> str:
    """The sentence of a refused request, whose envelope is checked."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".") and error["message"].count("\n") == 0
    return error["message"]
