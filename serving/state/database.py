"""The database as the server sees it: jobs are queued, planned, watched, cancelled, made anew in part, and deleted.

Choices made: whatever ends a job also cancels its tasks in the same transaction, so a worker learns of it at its next
heartbeat. A job's artifacts lie in a folder of its name, so deleting a job leaves one folder to delete. Webhook calls
are rows, made with the change that they tell of: none is lost with a process.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, replace
from typing import Any, Literal

import sqlalchemy as sa

from serving.state import schedule
from serving.state.artifacts import prepared_artifact, segment_artifacts, video_artifact
from serving.state.claims import Claims
from serving.state.queries import UNFINISHED, as_job, change_job, drop_record, job_tasks, lock_job
from serving.state.rows import (
    KINDS,
    Claim,
    ConflictError,
    Delivery,
    Job,
    JobPlan,
    Kind,
    Load,
    NewJob,
    NotFoundError,
    QueueFullError,
    Role,
    Task,
)
from serving.state.tables import ADMISSION, deliveries, idempotency, jobs, tasks, workers
from serving.state.transitions import JobStatus, TaskState, check_transition


def new_job_id() -> str:
    """A job id that cannot be guessed."""
    return f"video_{secrets.token_hex(12)}"


class Database(Claims):
    """Jobs, tasks and what is known of workers; see `serving.state.claims.Claims` for the workers' methods.

    All methods may be called from several threads and processes at once.
    """

    def create_job(
        self, new: NewJob, idempotency_key: str | None = None, quota: int | None = None
    ) -> tuple[Job, bool]:
        """Queues a job; or returns the one that its owner made with this key before, and False.

        quota: how many unfinished jobs the owner may have. Raises ConflictError where the key came with another
        request, QueueFullError where there are too many unfinished jobs.
        """
        digest = hashlib.sha256(json.dumps([new.request, new.webhook], sort_keys=True).encode()).hexdigest()
        with self.writing() as connection:
            self.exclude(connection, ADMISSION)
            if idempotency_key and (known := _job_of_key(connection, new.owner, idempotency_key, digest)):
                return known, False
            self._check_room(connection, new.owner, quota)
            connection.execute(
                jobs.insert().values(**asdict(new), status=JobStatus.QUEUED, created_at=self.clock())
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
        if (connection.scalar(unfinished) or 0) >= self.limits.jobs:
            raise QueueFullError(f"The queue is full ({self.limits.jobs} unfinished jobs); try again later.")
        if quota is not None and (connection.scalar(unfinished.where(jobs.c.owner == owner)) or 0) >= quota:
            raise QueueFullError(f"You have {quota} unfinished jobs, which is your limit; wait for one.")

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """A job; of this owner, if one is given. Raises NotFoundError."""
        query = _jobs_with_progress().where(jobs.c.id == job_id)
        with self.reading() as connection:
            row = connection.execute(query).first()
        if row is None or (owner is not None and row.owner != owner):
            raise NotFoundError(f"There is no video {job_id}.")
        return _with_progress(row)

    def jobs(
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
        query = _jobs_with_progress().limit(limit)
        query = query.order_by(*(getattr(column, order)() for column in (jobs.c.created_at, jobs.c.id)))
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if after is not None:
            last = self.job(after, owner)
            edge = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            query = query.where(place > edge if order == "asc" else place < edge)
        with self.reading() as connection:
            return [_with_progress(row) for row in connection.execute(query)]

    def tasks(self, job_id: str, kind: Kind | None = None) -> list[Task]:
        """A job's tasks, segments in the order of the timeline; none if there is no such job."""
        with self.reading() as connection:
            return job_tasks(connection, job_id, None if kind is None else tasks.c.kind == kind)

    def queue_place(self, job_id: str) -> int:
        """How many jobs will begin before this one, itself counted: 1 for the next one, 0 for one that has begun."""
        query = sa.select(jobs.c.id, jobs.c.owner).where(jobs.c.status == JobStatus.QUEUED)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(jobs.c.created_at, jobs.c.id))
            order = schedule.queue_order((row.id, row.owner) for row in rows)
        return order.index(job_id) + 1 if job_id in order else 0

    def plan_job(self, claim: Claim, plan: JobPlan) -> bool:
        """Commits a preparation: the job's segments and its stitching become tasks. False if the claim was lost.

        Raises ValueError, in a sentence for the client, where the anchor's record is larger than all records may be.
        """
        if plan.shares and plan.record_bytes > self.limits.record_bytes:
            raise ValueError(
                f"The shared background would take {plan.record_bytes / 2**30:.1f} GiB of the "
                f"{self.limits.record_bytes / 2**30:.1f} GiB there are; ask for a smaller size or fewer steps."
            )
        seeds = dict.fromkeys(range(len(plan.timeline.segments)), plan.seed)
        names = segment_artifacts(claim.job.id, plan, seeds)
        rows: list[dict[str, Any]] = [
            _task_row(claim.job.id, Kind.SEGMENT, index, names[index], plan.steps, plan.seed)
            for index in seeds
        ]
        rows.append(_task_row(claim.job.id, Kind.STITCH, 0, video_artifact(claim.job.id, names), plan.frames))
        with self.writing() as connection:
            job = lock_job(connection, claim.job.id)
            if job is None or not self._finish(connection, claim):
                return False
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(plan=asdict(plan)))
            connection.execute(tasks.insert(), rows)
            self._settle(connection, replace(job, plan=plan))
            return True

    def request_cancel(self, job_id: str) -> bool:
        """Ends an unfinished job with the code `cancelled`; its workers learn so at their next heartbeat.

        False if it had ended before. Raises NotFoundError.
        """
        with self.writing() as connection:
            job = lock_job(connection, job_id)
            if job is None:
                raise NotFoundError(f"There is no video {job_id}.")
            if job.status not in UNFINISHED:
                return False
            self._end(connection, job, JobStatus.FAILED, "cancelled", "The video was cancelled.")
            return True

    def delete_job(self, job_id: str) -> None:
        """Forgets a job in whatever state; the caller deletes its artifacts."""
        with self.writing() as connection:
            if lock_job(connection, job_id):
                connection.execute(jobs.delete().where(jobs.c.id == job_id))

    def expired_jobs(self) -> list[str]:
        """Jobs that are to be deleted by now, by id."""
        query = sa.select(jobs.c.id).where(jobs.c.expires_at < self.clock())
        with self.reading() as connection:
            return list(connection.scalars(query))

    def regenerate(
        self, job_id: str, index: int, seed: int | None = None, quota: int | None = None
    ) -> list[int]:
        """Has a segment made anew, and all whose frames depend on it; returns their indices.

        A bridge changes alone, a base with the bridges beside it; the anchor gives the other bases their background, so
        with sharing all change. seed: of the segment's noise; one more than its last by default. A completed job is
        unfinished again: quota and errors as of `create_job`. Raises NotFoundError, and ConflictError for a job that
        has failed or is not planned yet.
        """
        with self.writing() as connection:
            job = lock_job(connection, job_id)
            if job is None:
                raise NotFoundError(f"There is no video {job_id}.")
            if job.plan is None or job.status is JobStatus.FAILED:
                raise ConflictError(f"Video {job_id} has no segments to make anew; post a new video.")
            if index not in range(len(job.plan.timeline.segments)):
                last = len(job.plan.timeline.segments) - 1
                raise NotFoundError(f"Video {job_id} has no segment {index}; its segments are 0 to {last}.")
            if job.status is JobStatus.COMPLETED:
                self.exclude(connection, ADMISSION)
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
        self._settle(connection, job)
        return changed

    def load(self, role: Role) -> Load:
        """How much work there is for a role, and how many workers."""
        count = sa.select(sa.func.count())
        work = count.select_from(tasks).where(tasks.c.kind.in_(KINDS[role]))
        alive = (workers.c.role == role) & (workers.c.alive_until > self.clock())
        with self.reading() as connection:
            return Load(
                ready=connection.scalar(work.where(tasks.c.state == TaskState.READY)) or 0,
                running=connection.scalar(work.where(tasks.c.state == TaskState.RUNNING)) or 0,
                workers=connection.scalar(count.select_from(workers).where(alive)) or 0,
            )

    def job_counts(self) -> dict[JobStatus, int]:
        """How many jobs there are of each status."""
        query = sa.select(jobs.c.status, sa.func.count().label("number")).group_by(jobs.c.status)
        with self.reading() as connection:
            found = {row.status: row.number for row in connection.execute(query)}
        return {status: found.get(status, 0) for status in JobStatus}

    def live_records(self, store: str) -> set[tuple[str, int]]:
        """The records (job_id, generation) in a store that are still needed; all others may be let go."""
        query = sa.select(jobs.c.id, jobs.c.record_generation).where(
            jobs.c.status == JobStatus.IN_PROGRESS, jobs.c.record_store == store, jobs.c.held_bytes > 0
        )
        with self.reading() as connection:
            return {(row.id, row.record_generation) for row in connection.execute(query)}

    def claim_delivery(self, lease: float) -> Delivery | None:
        """A webhook call that is due; after `lease` seconds another may make it, unless its end was told."""
        due = deliveries.c.due_at <= self.clock()
        with self.writing() as connection:
            query = sa.select(deliveries).where(due).order_by(deliveries.c.due_at).limit(1)
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            values = {"attempt": row.attempt + 1, "due_at": self.clock() + lease}
            connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(values))
            job = connection.execute(_jobs_with_progress().where(jobs.c.id == row.job_id)).one()
            return Delivery(row.id, _with_progress(job), row.event, row.attempt + 1)

    def end_delivery(self, delivery: Delivery, delivered: bool) -> None:
        """Tells how a webhook call went. A failed one is due again after 5, 10, 20, .. seconds, then given up."""
        this = deliveries.c.id == delivery.id
        with self.writing() as connection:
            if delivered or delivery.attempt >= self.limits.deliveries:
                connection.execute(deliveries.delete().where(this))
            else:
                due_at = self.clock() + 5 * 2 ** (delivery.attempt - 1)
                connection.execute(deliveries.update().where(this).values(due_at=due_at))


def _task_row(
    job_id: str, kind: Kind, index: int, artifact: str, steps: int, seed: int = 0
) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "kind": kind,
        "index": index,
        "state": TaskState.WAITING,
        "artifact": artifact,
        "seed": seed,
        "steps": steps,
    }


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
    return _with_progress(connection.execute(_jobs_with_progress().where(jobs.c.id == known.job_id)).one())


def _jobs_with_progress() -> sa.Select[Any]:
    """Jobs with the share of their denoising steps that is done, 0..1."""
    made = sa.case((tasks.c.state == TaskState.DONE, tasks.c.steps), else_=tasks.c.step)
    share = (
        sa.select(sa.func.sum(made) * 1.0 / sa.func.sum(tasks.c.steps))
        .where(tasks.c.job_id == jobs.c.id, tasks.c.kind == Kind.SEGMENT)
        .scalar_subquery()
    )
    return sa.select(jobs, share.label("share"))


def _with_progress(row: Any) -> Job:
    return as_job(row, 100 if row.status == JobStatus.COMPLETED else min(99, int(100 * (row.share or 0))))
