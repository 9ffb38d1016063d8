"""The tables of the database; `serving.state.rows` says what their columns mean."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from serving.state.rows import Kind, Role
from serving.state.transitions import JobStatus, TaskState

metadata = sa.MetaData()


def _one_of(values: type[StrEnum]) -> sa.Enum:
    """A column of text whose values are an enumeration's."""
    return sa.Enum(values, values_callable=list, native_enum=False, length=16)


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("status", _one_of(JobStatus), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    sa.Column("expires_at", sa.Double),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("webhook", sa.String),
    sa.Column("error_code", sa.String),
    sa.Column("error_message", sa.String),
    sa.Column("plan", sa.JSON(none_as_null=True)),
    sa.Column("record_store", sa.String),
    sa.Column("record_generation", sa.Integer, nullable=False, default=0),
    sa.Column("published_steps", sa.Integer, nullable=False, default=0),
    sa.Column("recorder", sa.Integer),  # the task that records, by id
    sa.Column("held_bytes", sa.BigInteger, nullable=False, default=0),  # of its record, while it is needed
    sa.Column("served_at", sa.Double, nullable=False, default=0.0),  # when a task of it was last claimed
    sa.Index("jobs_by_owner", "owner", "created_at", "id"),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("kind", _one_of(Kind), nullable=False),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("state", _one_of(TaskState), nullable=False),
    sa.Column("artifact", sa.String, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False, default=0),
    sa.Column("worker", sa.String),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("lease_until", sa.Double),
    sa.Column("step", sa.Integer, nullable=False, default=0),
    sa.Column("steps", sa.Integer, nullable=False, default=0),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("expiries", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.String),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.UniqueConstraint("job_id", "kind", "index"),
    sa.Index("tasks_by_state", "state", "kind", "job_id"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("job_id", sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("role", _one_of(Role), nullable=False),
    sa.Column("alive_until", sa.Double, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("due_at", sa.Double, nullable=False, index=True),
)

made_by = sa.Table(
    "made_by",
    metadata,
    sa.Column("version", sa.String, primary_key=True),
    sa.Column("database_id", sa.String, nullable=False),
)
