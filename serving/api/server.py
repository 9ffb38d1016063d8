"""What every route works with: the settings, the database, the artifacts; and the job that a path names.

Nothing here remembers a request, so any copy of the endpoint answers for any job. What does not wait is a coroutine:
FastAPI runs plain functions in threads, and each change of threads costs a poll more than all else in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import anyio
from fastapi import Depends, Path, Request

from serving.api.auth import CurrentCaller
from serving.api.schemas import VIDEO_ID, Video
from serving.api.settings import ApiSettings
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import Job, Kind, Task
from serving.uploads.inspection import UploadLimits
from serving.uploads.uploads import Uploads

SHARE_OF_AGE, LONGEST_PAUSE = 1 / 20, 10
"""Of a job's age that passes between polls, and times the shortest pause that it is at most."""


@dataclass
class Server:
    """One copy of the endpoint. turns: lets so many uploads be inspected at once."""

    settings: ApiSettings
    database: Database
    artifacts: Artifacts
    uploads: Uploads = field(init=False)
    turns: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        pose_frames = round(self.settings.seconds * self.settings.model.rate)
        limits = UploadLimits(self.settings.pixels, self.settings.seconds, pose_frames)
        self.uploads = Uploads(limits, self.artifacts)
        self.turns = anyio.CapacityLimiter(self.settings.inspections)

    def video(self, job: Job) -> Video:
        """A job as its client sees it."""
        return Video.of(job, self.settings.model)

    def pause(self, job: Job) -> float:
        """For how many seconds a client should wait before it polls again.

        A twentieth of the job's age, so that those who wait for a long one do not take the time of its workers.
        """
        age = self.database.storage.clock() - job.created_at
        return max(self.settings.poll, min(SHARE_OF_AGE * age, LONGEST_PAUSE * self.settings.poll))

    def stitch(self, job: Job) -> Task | None:
        """The task that makes the job's video, once the job is planned."""
        return next(iter(self.database.jobs.tasks(job.id, Kind.STITCH)), None)


async def current_server(request: Request) -> Server:
    """The copy that answers."""
    server: Server = request.app.state.server
    return server


CurrentServer = Annotated[Server, Depends(current_server)]
VideoId = Annotated[str, Path(pattern=VIDEO_ID, description="Id of the video.")]


def current_job(video_id: VideoId, server: CurrentServer, caller: CurrentCaller) -> Job:
    """The job that the path names, if it is the caller's; another's is not found."""
    return server.database.jobs.get(video_id, caller.name)


CurrentJob = Annotated[Job, Depends(current_job)]
