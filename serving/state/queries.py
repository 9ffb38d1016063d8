"""Statements that several methods of the database share: rows as values, and changes to a locked job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from serving.state.rows import Job, JobPlan, Task
from serving.state.tables import jobs, tasks
from serving.state.transitions import JobStatus, check_transition

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


def job_tasks(
    connection: sa.Connection, job_id: str, condition: sa.ColumnElement[bool] | None = None
) -> list[Task]:
    """A job's tasks in the order in which they were made, or those of them that meet a condition."""
    query = sa.select(*(tasks.c[name] for name in Task.__dataclass_fields__))
    query = query.where(tasks.c.job_id == job_id).order_by(tasks.c.id)
    rows = connection.execute(query if condition is None else query.where(condition))
    return [Task(*row) for row in rows]


def drop_record(connection: sa.Connection, job: Job, **values: Any) -> Job:
    """Gives up a job's record, whose readers can tell the next one by its generation."""
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
