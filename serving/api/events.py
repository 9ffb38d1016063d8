"""A job's progress as server-sent events, read from the database, so any copy of the endpoint can go on with a stream.

Every event is the whole state, never a difference, so a missed event is made up for by the next. Its id is a digest of
the state: a client that reconnects with it is not sent that state again. The stream ends with the job; a client that
then reconnects with the last id is answered 204, which stops a browser from trying again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Header
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, Field

from serving.api.errors import AllSent
from serving.api.schemas import Video
from serving.api.server import CurrentJob, CurrentServer, Server
from serving.state.eta import seconds_left
from serving.state.rows import Job, Kind, NotFoundError, Role, Task
from serving.state.transitions import JobStatus, TaskState

FINAL = (JobStatus.COMPLETED, JobStatus.FAILED)
RECONNECT = 2000  # milliseconds after which a client that has lost the stream asks again


class Stage(BaseModel):
    """A piece of work: its state, and how many of its steps are done."""

    state: TaskState
    step: int
    steps: int


class VideoProgress(BaseModel):
    """How far a job is."""

    video: Video
    queue_place: int = Field(description="1 for the next job to begin, 0 for one that has begun.")
    prepare: Stage = Field(description="Reading the uploads; poses and plan.")
    segments: list[Stage] = Field(description="In the order of the timeline; none before the plan is made.")
    stitch: Stage | None = Field(description="Joining the segments; steps are frames of the video.")

    @property
    def id(self) -> str:
        """A digest of the state."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ProgressEvent(VideoProgress):
    """The data of an event `progress`."""

    eta_seconds: float | None = Field(
        description="About how long until the last segment is done, from the step times of this job so far."
    )


def progress(server: Server, job: Job, tasks: list[Task]) -> VideoProgress:
    """How far a job is, given its tasks."""
    stages = {
        kind: [
            Stage(state=task.state, step=task.step, steps=task.steps) for task in tasks if task.kind is kind
        ]
        for kind in Kind
    }
    return VideoProgress(
        video=server.video(job),
        queue_place=server.database.jobs.queue_place(job.id) if job.status is JobStatus.QUEUED else 0,
        prepare=stages[Kind.PREPARE][0],
        segments=stages[Kind.SEGMENT],
        stitch=next(iter(stages[Kind.STITCH]), None),
    )


def event(server: Server, job_id: str, last_id: str | None) -> tuple[ServerSentEvent | None, bool]:
    """The next event, unless it is the one with the id `last_id`, and whether it is the job's last."""
    job, tasks = server.database.jobs.get(job_id), server.database.jobs.tasks(job_id)
    state, final = progress(server, job, tasks), job.status in FINAL
    if state.id == last_id:
        return None, final
    replicas = server.database.queue.load(Role.GENERATE).workers
    left = 0.0 if final else seconds_left(job, tasks, replicas, server.database.storage.clock())
    data = ProgressEvent(**dict(state), eta_seconds=left)
    return ServerSentEvent(event="progress", id=state.id, data=data, retry=RECONNECT), final


async def stream(server: Server, job_id: str, last_id: str | None) -> AsyncIterator[ServerSentEvent]:
    """A job's events up to its end, or to its deletion."""
    final = False
    while not final:
        try:
            found, final = await run_in_threadpool(event, server, job_id, last_id)
        except NotFoundError:
            return
        if found is not None:
            last_id = found.id
            yield found
        if not final:
            await asyncio.sleep(server.settings.refresh)


def unsent(
    job: CurrentJob, server: CurrentServer, last_event_id: Annotated[str | None, Header()] = None
) -> str | None:
    """The id of the last event that the client has; raises AllSent where it is the job's last."""
    if event(server, job.id, last_event_id) == (None, True):
        raise AllSent
    return last_event_id
