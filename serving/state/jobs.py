"""Jobs as their clients see them: queued, watched, listed, cancelled, made anew in part, and deleted.

Whatever ends a job also cancels its tasks in the same transaction, so a worker learns of it at its next heartbeat. A
job's artifacts lie in a folder of its name, so deleting a job leaves one folder to delete.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any, Literal

import sqlalchemy as sa

from serving.state import schedule
from serving.state.artifacts import prepared_artifact, segment_artifacts, video_artifact
from serving.state.queries import (
    UNFINISHED,
    as_job,
    change_job,
    drop_record,
    end_job,
    job_tasks,
    jobs_with_progress,
    lock_job,
    settle,
    with_progress,
)
from serving.state.rows import (
    ConflictError,
    Job,
    JobPlan,
    Kind,
    NewJob,
    NotFoundError,
    QueueFullError,
    Task,
)
from serving.state.storage import ADMISSION, Storage
from serving.state.tables import idempotency, jobs, tasks
from serving.state.transitions import JobStatus, TaskState, check_transition


class Jobs:
    """The clients' side of the database. All methods may be called from several threads and processes at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def create(
        self, new: NewJob, idempotency_key: str | None = None, quota: int | None = None
    ) -> tuple[Job, bool]:
        """Queues a job; or returns the one that its owner made with this key before, and False.

        quota: how many unfinished jobs the owner may have. Raises ConflictError where the key came with another
        request, QueueFullError where there are too many unfinished jobs.
        """
        digest = hashlib.sha256(json.dumps([new.request, new.webhook], sort_keys=True).encode()).hexdigest()
        with self._storage.writing() as connection:
            self._storage.exclude(connection, ADMISSION)
            if idempotency_key and (known := _job_of_key(connection, new.owner, idempotency_key, digest)):
                return known, False
            self._check_room(connection, new.owner, quota)
            connection.execute(
                jobs.insert().values(**asdict(new), status=JobStatus.QUEUED, created_at=self._storage.clock())
            )
            connection.execute(
                tasks.insert().values(
                    job_id=new.id,
                    kind=Kind.PREPARE,
                    index=0,
                    state=TaskState.READY,
                    artifact=prepared_artifact(new.id),
                )
            )
            if idempotency_key:
                row = {"owner": new.owner, "key": idempotency_key, "digest": digest, "job_id": new.id}
                connection.execute(idempotency.insert().values(row))
            return as_job(connection.execute(sa.select(jobs).where(jobs.c.id == new.id)).one()), True

    def _check_room(self, connection: sa.Connection, owner: str, quota: int | None) -> None:
        unfinished = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status.in_(UNFINISHED))
        if (connection.scalar(unfinished) or 0) >= self._storage.limits.jobs:
            raise QueueFullError(
                f"The queue is full ({self._storage.limits.jobs} unfinished jobs); try again later."
            )
        if quota is not None and (connection.scalar(unfinished.where(jobs.c.owner == owner)) or 0) >= quota:
            raise QueueFullError(f"You have {quota} unfinished jobs, which is your limit; wait for one.")

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """A job; of this owner, if one is given. Raises NotFoundError."""
        query = jobs_with_progress().where(jobs.c.id == job_id)
        with self._storage.reading() as connection:
            row = connection.execute(query).first()
        if row is None or (owner is not None and row.owner != owner):
            raise NotFoundError(f"There is no video {job_id}.")
        return with_progress(row)

    def page(
        self,
        owner: str | None = None,
        limit: int = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> list[Job]:
        """Jobs by the time of their creation, of one owner or of all, those behind the job `after` if it is given.

        Raises NotFoundError if there is no job `after`.
        """
        place = sa.tuple_(jobs.c.created_at, jobs.c.id)
        query = jobs_with_progress().limit(limit)
        query = query.order_by(*(getattr(column, order)() for column in (jobs.c.created_at, jobs.c.id)))
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if after is not None:
            last = self.get(after, owner)
            edge = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            query = query.where(place > edge if order == "asc" else place < edge)
        with self._storage.reading() as connection:
            return [with_progress(row) for row in connection.execute(query)]

    def tasks(self, job_id: str, kind: Kind | None = None) -> list[Task]:
        """A job's tasks, segments in the order of the timeline; none if there is no such job."""
        with self._storage.reading() as connection:
            return job_tasks(connection, job_id, None if kind is None else tasks.c.kind == kind)

    def queue_place(self, job_id: str) -> int:
        """How many jobs will begin before this one, itself counted: 1 for the next one, 0 for one that has begun."""
        query = sa.select(jobs.c.id, jobs.c.owner).where(jobs.c.status == JobStatus.QUEUED)
        with self._storage.reading() as connection:
            rows = connection.execute(query.order_by(jobs.c.created_at, jobs.c.id))
            order = schedule.queue_order((row.id, row.owner) for row in rows)
        return order.index(job_id) + 1 if job_id in order else 0

    def cancel(self, job_id: str) -> bool:
        """Ends an unfinished job with the code `cancelled`; its workers learn so at their next heartbeat.

        False if it had ended before. Raises NotFoundError.
        """
        with self._storage.writing() as connection:
            job = lock_job(connection, job_id)
            if job is None:
                raise NotFoundError(f"There is no video {job_id}.")
            if job.status not in UNFINISHED:
                return False
            end_job(self._storage, connection, job, JobStatus.FAILED, "cancelled", "The video was cancelled.")
            return True

    def delete(self, job_id: str) -> None:
        """Forgets a job in whatever state; the caller deletes its artifacts."""
        with self._storage.writing() as connection:
            if lock_job(connection, job_id):
                connection.execute(jobs.delete().where(jobs.c.id == job_id))

    def expired(self) -> list[str]:
        """Jobs that are to be deleted by now, by id."""
        query = sa.select(jobs.c.id).where(jobs.c.expires_at < self._storage.clock())
        with self._storage.reading() as connection:
            return list(connection.scalars(query))

    def ended(self) -> list[str]:
        """Jobs that have ended, by id, the first that did first."""
        query = sa.select(jobs.c.id).where(jobs.c.status.not_in(UNFINISHED)).order_by(jobs.c.completed_at)
        with self._storage.reading() as connection:
            return list(connection.scalars(query))

    def regenerate(
        self, job_id: str, index: int, seed: int | None = None, quota: int | None = None
    ) -> list[int]:
        """Has a segment made anew, and all whose frames depend on it; returns their indices.

        A bridge changes alone, a base with the bridges beside it; the anchor gives the other bases their background, so
        with sharing all change. seed: of the segment's noise; one more than its last by default. A completed job is
        unfinished again: quota and errors as of `create`. Raises NotFoundError, and ConflictError for a job that
        has failed or is not planned yet.
        """
        with self._storage.writing() as connection:
            job = lock_job(connection, job_id)
            if job is None:
                raise NotFoundError(f"There is no video {job_id}.")
            if job.plan is None or job.status is JobStatus.FAILED:
                raise ConflictError(f"Video {job_id} has no segments to make anew; post a new video.")
            if index not in range(len(job.plan.timeline.segments)):
                last = len(job.plan.timeline.segments) - 1
                raise NotFoundError(f"Video {job_id} has no segment {index}; its segments are 0 to {last}.")
            if job.status is JobStatus.COMPLETED:
                self._storage.exclude(connection, ADMISSION)
                self._check_room(connection, job.owner, quota)
            return self._remake(connection, job, job.plan, index, seed)

    def _remake(
        self, connection: sa.Connection, job: Job, plan: JobPlan, index: int, seed: int | None
    ) -> list[int]:
        segments = {task.index: task for task in job_tasks(connection, job.id, tasks.c.kind == Kind.SEGMENT)}
        seeds = {task.index: task.seed for task in segments.values()}
        seeds[index] = seeds[index] + 1 if seed is None else seed
        names = segment_artifacts(job.id, plan, seeds)
        changed = sorted(schedule.affected(plan, index))
        for other in changed:
            values = {"artifact": names[other], "seed": seeds[other]}
            _start_over(connection, segments[other], values)
        (stitch,) = job_tasks(connection, job.id, tasks.c.kind == Kind.STITCH)
        _start_over(connection, stitch, {"artifact": video_artifact(job.id, names)})
        if plan.shares and index == plan.anchor:
            job = drop_record(connection, job)
        if job.status is JobStatus.COMPLETED:
            again = {"status": JobStatus.IN_PROGRESS, "completed_at": None, "expires_at": None}
            job = change_job(connection, job, **again)
        settle(connection, job)
        return changed

    def counts(self) -> dict[JobStatus, int]:
        """How many jobs there are of each status."""
        query = sa.select(jobs.c.status, sa.func.count().label("number")).group_by(jobs.c.status)
        with self._storage.reading() as connection:
            found = {row.status: row.number for row in connection.execute(query)}
        return {status: found.get(status, 0) for status in JobStatus}


def _start_over(connection: sa.Connection, task: Task, values: dict[str, Any]) -> None:
    """Makes a task wait as if it had never been claimed; whoever has claimed it can no longer commit."""
    if task.state is not TaskState.WAITING:
        check_transition(task.state, TaskState.WAITING)
    fresh: dict[str, Any] = dict.fromkeys(("step", "failures", "expiries"), 0)
    fresh |= dict.fromkeys(("error", "started_at", "finished_at")) | {"state": TaskState.WAITING}
    connection.execute(tasks.update().where(tasks.c.id == task.id).values({**fresh, **values}))


def _job_of_key(connection: sa.Connection, owner: str, key: str, digest: str) -> Job | None:
    condition = (idempotency.c.owner == owner) & (idempotency.c.key == key)
    known = connection.execute(sa.select(idempotency).where(condition)).first()
    if known is None:
        return None
    if known.digest != digest:
        raise ConflictError(f"The idempotency key {key!r} came with another request before; use a new key.")
    return with_progress(connection.execute(jobs_with_progress().where(jobs.c.id == known.job_id)).one())
