"""What the database gives and takes: plain frozen values, the same for SQLite and PostgreSQL.

Times are seconds since 1970. A job's `request` is what its client asked for, unchanged; its `plan` is there once its
uploads are prepared. A task's `artifact` names its result from the day it is planned; the file is there once the task
is done.
"""

from __future__ import annotations

import functools
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from posegen.longvideo.segments import Plan
from serving.state.transitions import JobStatus, TaskState

if TYPE_CHECKING:
    from posegen.sharing import Form  # imports torch, which not every process needs

JOB_ID = r"video_[0-9a-f]{24}"
"""What ids of jobs look like."""


def new_job_id() -> str:
    """A job id that cannot be guessed."""
    return f"video_{secrets.token_hex(12)}"


class Role(StrEnum):
    """What a worker does."""

    PREPARE = "prepare"
    GENERATE = "generate"
    STITCH = "stitch"


class Kind(StrEnum):
    """What a task is.

    prepare: uploads -> poses and plan. segment: frames of one segment. record: the shared steps of the anchor, computed
    again because its record was lost. stitch: the video of all segments.
    """

    PREPARE = "prepare"
    SEGMENT = "segment"
    RECORD = "record"
    STITCH = "stitch"


KINDS: dict[Role, tuple[Kind, ...]] = {
    Role.PREPARE: (Kind.PREPARE,),
    Role.GENERATE: (Kind.SEGMENT, Kind.RECORD),
    Role.STITCH: (Kind.STITCH,),
}


@dataclass(frozen=True)
class JobPlan:
    """How a job's video is made.

    The first five are a `segments.Plan`'s. steps: denoising steps of a segment. seed: of the initial noise.
    shared_steps: after how many of the anchor's steps all is there that other base segments read, 0 without sharing.
    record_bytes: size of what they read, in the form `record_form`. content_id: names all that the frames depend on
    beside the seeds, see `posegen.longvideo.job.VideoJob.content_id`. notes: what the client should know of the
    movement, a sentence a line.
    """

    frames: int
    segment_frames: int
    head: int
    tail: int
    anchor: int
    steps: int
    seed: int
    shared_steps: int
    record_bytes: int
    content_id: str
    record_form: Form = "key_value"
    notes: str = ""

    @property
    def timeline(self) -> Plan:
        """The segments and what each waits for."""
        return _timeline(self.frames, self.segment_frames, self.head, self.tail, self.anchor)

    @property
    def shares(self) -> bool:
        """Whether base segments wait for the anchor's record; there is none to wait for in a plan of one segment."""
        return self.shared_steps > 0 and self.timeline.bridges > 0


@functools.lru_cache(maxsize=64)
def _timeline(frames: int, segment_frames: int, head: int, tail: int, anchor: int) -> Plan:
    return Plan(frames, segment_frames, head, tail, anchor)


@dataclass(frozen=True)
class NewJob:
    """A job to be queued.

    request: JSON values; two requests with one idempotency key must be equal, so uploads belong into it by the hash of
    their bytes. webhook: where the job's end is told, if anywhere.
    """

    id: str
    owner: str
    request: dict[str, Any]
    webhook: str | None = None


@dataclass(frozen=True)
class Job:
    """A job as it is now.

    expires_at: when it is to be deleted; None while it is unfinished. progress: 0..100, 100 for a completed one only.
    error_code and error_message: of a failed one. record_store: where the anchor's record is; record_generation tells
    that record from ones that were lost; published_steps: how many shared steps it holds; recorder: the task, by id,
    that makes or made it.
    """

    id: str
    owner: str
    status: JobStatus
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    request: dict[str, Any]
    webhook: str | None
    error_code: str | None
    error_message: str | None
    plan: JobPlan | None
    record_store: str | None
    record_generation: int
    published_steps: int
    recorder: int | None
    progress: int = 0

    @property
    def recorded(self) -> bool:
        """Whether the base segments may start: the shared steps are there, or there are none."""
        return self.plan is None or not self.plan.shares or self.published_steps >= self.plan.shared_steps


@dataclass(frozen=True)
class Task:
    """A piece of a job's work as it is now.

    index: the segment's for segments. attempt: how often it was claimed. step of steps: its progress, for segments in
    denoising steps, for the stitching whatever its worker tells. failures: errors; expiries: workers that fell silent,
    and losses of an anchor's record. seed: of a segment's initial noise.
    """

    id: int
    job_id: str
    kind: Kind
    index: int
    state: TaskState
    artifact: str
    seed: int
    worker: str | None
    attempt: int
    lease_until: float | None
    step: int
    steps: int
    failures: int
    expiries: int
    error: str | None
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class Claim:
    """A task that a worker holds until its lease ends, with its job at that moment.

    inputs: artifacts of the segments that a bridge is given frames of, by index. records: whether this claim must
    publish the anchor's record (as generation `job.record_generation`); a claim of an anchor whose record is complete
    need not.
    """

    task: Task
    job: Job
    inputs: dict[int, str] = field(default_factory=dict)
    records: bool = False


class Heartbeat(StrEnum):
    """What a worker does next: go on, or drop the task because the job has ended or the claim was lost."""

    CONTINUE = "continue"
    CANCELLED = "cancelled"
    LOST = "lost"


@dataclass(frozen=True)
class Load:
    """A role's tasks that may be claimed, those that run, and the workers seen lately."""

    ready: int
    running: int
    workers: int


@dataclass(frozen=True)
class Delivery:
    """A webhook call to be made: the job's end (`video.completed` or `video.failed`) to its `webhook` address."""

    id: int
    job: Job
    event: str
    attempt: int


@dataclass(frozen=True)
class QueueLimits:
    """What the database refuses.

    jobs: unfinished ones at once. failures, expiries: of one task, before its job fails. record_bytes, spill_bytes: of
    the anchors' records that one node holds at once in the memory of its store, and beyond that on its local disk.
    deliveries: calls of one webhook before it is given up. keep_seconds: for which an ended job stays. keep_bytes: of
    all jobs' files, if limited; beyond it the jobs that ended first go before their time.
    """

    jobs: int = 100
    failures: int = 3
    expiries: int = 10
    record_bytes: int = 64 * 2**30
    spill_bytes: int = 0
    deliveries: int = 8
    keep_seconds: float = 7 * 24 * 3600.0
    keep_bytes: int | None = None

    @property
    def node_bytes(self) -> int:
        """Bytes of records that one node holds at once."""
        return self.record_bytes + self.spill_bytes


class StateError(RuntimeError):
    """What was asked for cannot be; the message says why and what to do."""


class NotFoundError(StateError):
    """There is no such job, or it is another owner's."""


class ConflictError(StateError):
    """The job is in no state for this, or the idempotency key came with another request."""


class QueueFullError(StateError):
    """There are as many unfinished jobs as allowed; try again later."""
