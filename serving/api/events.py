"""A job's progress as server-sent events, read from the database, so any copy of the endpoint can go on with a stream.

Choices made: every event is the whole state, never a difference, so one that was missed is made up for by the next. Its
id is a digest of the state: a client that reconnects with it is sent nothing it has. The stream ends with the job; who
asks again with the last event's id is answered 204, upon which browsers stop reconnecting.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel, Field

from serving.api.schemas import Video
from serving.api.server import Server
from serving.state.estimate import seconds_left
from serving.state.rows import Job, Kind, NotFoundError, Role, Task
from serving.state.transitions import JobStatus, TaskState

FINAL = (JobStatus.COMPLETED, JobStatus.FAILED)
KEEPALIVE = 15.0  # seconds without an event after which proxies are told that the stream lives


class Stage(BaseModel):
    """A piece of work: its state, and how many of its steps are done."""

    state: TaskState
    step: int
    steps: int


class Progress(BaseModel):
    """How far a job is."""

    video: Video
    queue_place: int = Field(description="1 for the next job to begin, 0 for one that has begun.")
    prepare: Stage = Field(description="Reading the uploads; poses and plan.")
    segments: list[Stage] = Field(description="In the order of the timeline; none before the plan is made.")
    stitch: Stage | None = Field(description="Joining the segments; steps are frames of the video.")

    @property
    def id(self) -> str:
        """Tells states apart."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ProgressEvent(Progress):
    """The data of an event `progress`."""

    eta_seconds: float | None = Field(
        description="About how long until the last segment is done, from the step times of this job so far."
    )


def progress(server: Server, job: Job, tasks: list[Task]) -> Progress:
    """How far a job is, given its tasks."""
    stages = {
        kind: [
            Stage(state=task.state, step=task.step, steps=task.steps) for task in tasks if task.kind is kind
        ]
        for kind in Kind
    }
    return Progress(
        video=server.video(job),
        queue_place=server.database.queue_place(job.id) if job.status is JobStatus.QUEUED else 0,
        prepare=stages[Kind.PREPARE][0],
        segments=stages[Kind.SEGMENT],
        stitch=next(iter(stages[Kind.STITCH]), None),
    )


def event(server: Server, job_id: str, last_id: str | None) -> tuple[bytes | None, str, bool]:
    """The next event, unless it is the one with the id `last_id`; its id; whether it is the job's last."""
    job, tasks = server.database.job(job_id), server.database.tasks(job_id)
    state = progress(server, job, tasks)
    if state.id == last_id:
        return None, state.id, job.status in FINAL
    replicas = server.database.load(Role.GENERATE).workers
    left = seconds_left(job, tasks, replicas, server.database.clock()) if job.status not in FINAL else 0.0
    data = state.model_dump(mode="json") | {"eta_seconds": left}
    wire = format_sse_event(data_str=json.dumps(data), event="progress", id=state.id, retry=2000)
    return wire, state.id, job.status in FINAL


async def stream(server: Server, job_id: str, last_id: str | None) -> AsyncIterator[bytes]:
    """A job's events up to its end, or to its deletion."""
    final, quiet = False, 0.0
    while not final:
        try:
            wire, last_id, final = await run_in_threadpool(event, server, job_id, last_id)
        except NotFoundError:
            return
        if wire is not None:
            quiet = 0.0
            yield wire
        elif quiet >= KEEPALIVE:
            quiet = 0.0
            yield KEEPALIVE_COMMENT
        if not final:
            quiet += server.settings.refresh
            await asyncio.sleep(server.settings.refresh)
