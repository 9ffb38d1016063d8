"""Statements that several parts of the database share: rows as values, and changes to a locked job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from serving.state import schedule
from serving.state.rows import Job, JobPlan, Kind, Task
from serving.state.storage import Storage
from serving.state.tables import deliveries, jobs, tasks
from serving.state.transitions import JobStatus, TaskState, check_transition, sources

UNFINISHED = (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


def lock_job(connection: sa.Connection, job_id: str) -> Job | None:
    """A job that nobody else changes until this transaction ends; None if there is no such job."""
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).first()
    return None if row is None else as_job(row)


def as_job(row: Any, progress: int = 0) -> Job:
    """A row of `jobs` as a value."""
    values = {name: getattr(row, name) for name in Job.__dataclass_fields__ if name != "progress"}
    values["plan"] = values["plan"] and JobPlan(**values["plan"])
    return Job(**values, progress=progress)


def jobs_with_progress() -> sa.Select[Any]:
    """Jobs with the share of their denoising steps that is done, 0..1."""
    made = sa.case((tasks.c.state == TaskState.DONE, tasks.c.steps), else_=tasks.c.step)
    share = (
        sa.select(sa.func.sum(made) * 1.0 / sa.func.sum(tasks.c.steps))
        .where(tasks.c.job_id == jobs.c.id, tasks.c.kind == Kind.SEGMENT)
        .scalar_subquery()
    )
    return sa.select(jobs, share.label("share"))


def with_progress(row: Any) -> Job:
    """A row of `jobs_with_progress` as a value."""
    return as_job(row, 100 if row.status == JobStatus.COMPLETED else min(99, int(100 * (row.share or 0))))


def job_tasks(
    connection: sa.Connection, job_id: str, condition: sa.ColumnElement[bool] | None = None
) -> list[Task]:
    """A job's tasks in the order in which they were made, or those of them that meet a condition."""
    query = sa.select(*(tasks.c[name] for name in Task.__dataclass_fields__))
    query = query.where(tasks.c.job_id == job_id).order_by(tasks.c.id)
    rows = connection.execute(query if condition is None else query.where(condition))
    return [Task(*row) for row in rows]


def drop_record(connection: sa.Connection, job: Job, **values: Any) -> Job:
    """Gives up a job's record; the next one has another generation, so readers can tell them apart."""
    empty = {
        "record_store": None,
        "published_steps": 0,
        "record_generation": job.record_generation + 1,
        "recorder": None,
        "held_bytes": 0,
    }
    return change_job(connection, job, **{**empty, **values})


def change_job(connection: sa.Connection, job: Job, **values: Any) -> Job:
    """Changes a locked job and returns it as it is then."""
    if status := values.get("status"):
        check_transition(job.status, status)
    connection.execute(jobs.update().where(jobs.c.id == job.id).values(values))
    return replace(job, **{name: value for name, value in values.items() if name in Job.__dataclass_fields__})


def settle(connection: sa.Connection, job: Job) -> None:
    """Brings the states of a job's tasks in line with what is done and recorded."""
    found = schedule.settle(job, job_tasks(connection, job.id))
    for ids, state in (
        (found.ready, TaskState.READY),
        (found.waiting, TaskState.WAITING),
        (found.needless, TaskState.CANCELLED),
    ):
        if ids:
            moved = tasks.c.id.in_(ids) & tasks.c.state.in_(sources(state))
            connection.execute(tasks.update().where(moved).values(state=state))
    if found.make_record and job.plan:
        connection.execute(
            tasks.insert().values(
                job_id=job.id,
                kind=Kind.RECORD,
                index=job.record_generation,
                state=TaskState.READY,
                artifact="",
                steps=job.plan.shared_steps,
            )
        )
    if found.read and job.recorder is not None:
        drop_record(connection, job)  # if a segment is made anew later, the anchor is recorded again


def end_job(
    storage: Storage,
    connection: sa.Connection,
    job: Job,
    status: JobStatus,
    code: str | None = None,
    message: str | None = None,
) -> None:
    """Ends a job: what is left of its work is cancelled, and whoever asked to be told will be."""
    now = storage.clock()
    change_job(
        connection,
        job,
        status=status,
        completed_at=now,
        expires_at=now + storage.limits.keep_seconds,
        error_code=code,
        error_message=message,
        held_bytes=0,
    )
    left = (tasks.c.job_id == job.id) & tasks.c.state.in_(sources(TaskState.CANCELLED))
    connection.execute(tasks.update().where(left).values(state=TaskState.CANCELLED))
    if job.webhook:
        connection.execute(
            deliveries.insert().values(job_id=job.id, event=f"video.{status.value}", due_at=now)
        )
