"""The tables, and how they are opened: SQLite by default, PostgreSQL by its address, with the same statements.

Choices made: whoever changes a job's tasks first locks the job, on PostgreSQL its row, on SQLite the file (BEGIN
IMMEDIATE), so that what is ready is worked out from a state that nobody else is changing. SQLite runs in WAL mode, in
which readers never wait, and syncs at every commit: what a client was told survives a power cut. SQLite's file belongs
on a disk of the machine; processes on several machines need PostgreSQL. A database that another version made is
refused as a whole, since one row that cannot be read would stop every worker.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock

from serving.state.rows import JobPlan, Kind, Role, StateError
from serving.state.transitions import JobStatus, TaskState

BUSY_SECONDS = 30
"""How long a process waits for another that writes, on PostgreSQL to the same job; for twice as long a process may
hold a transaction there and do nothing."""

OPENING, ADMISSION = 1, 2
"""Names of PostgreSQL's advisory locks: making the tables; counting before admitting one more."""

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


def _version() -> str:
    """Tells versions apart between which the tables or the plans in them differ."""
    columns = sorted(str(column) for table in metadata.sorted_tables for column in table.columns)
    return hashlib.sha256(repr([columns, sorted(JobPlan.__dataclass_fields__)]).encode()).hexdigest()[:16]


class Storage:
    """An open database. One object serves all threads of a process; after a fork, open another.

    id: made with the tables and kept in them; no other database has it.
    """

    def __init__(self, url: str) -> None:
        """Opens `url` (sqlite:///FILE or postgresql://..) and makes the tables that are not there.

        Raises StateError where it cannot be opened.
        """
        address = _parsed(url)
        self._sqlite = address.get_backend_name() == "sqlite"
        self.engine = sa.create_engine(
            address,
            pool_pre_ping=not self._sqlite,
            hide_parameters=True,  # what clients sent stays out of the logs
            connect_args={"timeout": BUSY_SECONDS} if self._sqlite else {},
        )
        if self._sqlite:
            sa.event.listen(self.engine, "connect", _set_up_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            sa.event.listen(self.engine, "connect", _set_up_postgresql)
        try:
            with self._opening_alone(address), self.writing() as connection:
                self.exclude(connection, OPENING)
                metadata.create_all(connection)
                self.id = self._identify(connection)
        except (sa.exc.DBAPIError, OSError) as error:
            reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            raise StateError(f"The database {address} cannot be opened: {reason}") from error

    def _opening_alone(self, address: sa.URL) -> AbstractContextManager[Any]:
        """Of the processes that turn an empty SQLite file to WAL at once, all but one would fail with "database is
        locked" and not wait; so a file beside it is locked meanwhile. Makes the folder."""
        if not self._sqlite:
            return nullcontext()
        file = Path(str(address.database))
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{file}.opening", BUSY_SECONDS)

    def _identify(self, connection: sa.Connection) -> str:
        """The database's id; raises StateError where another version made the database."""
        found = connection.scalar(sa.select(made_by.c.version))  # the column that every version has
        if found is None:
            connection.execute(made_by.insert().values(version=_version(), database_id=secrets.token_hex(12)))
        elif found != _version():
            raise StateError(
                f"The database {self.engine.url} was made by another version of this server; let that one finish its "
                "jobs, then give another address."
            )
        return str(connection.scalar(sa.select(made_by.c.database_id)))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; on SQLite no other process writes meanwhile."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def exclude(self, connection: sa.Connection, name: int) -> None:
        """Lets no other transaction pass the same call until this one ends; SQLite's writers never overlap anyway."""
        if not self._sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))

    def close(self) -> None:
        """Closes its connections."""
        self.engine.dispose()


def _parsed(url: str) -> sa.URL:
    """The address, if it is of a kind of database that is supported; passwords stay out of the message."""
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError:
        address = sa.URL.create("unknown")
    in_memory = address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:")
    if in_memory or address.get_backend_name() not in ("sqlite", "postgresql"):
        raise StateError(
            f"The database's address ({address.get_backend_name()}) names none that several processes can share; give "
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
        ) from None
    return address


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver at the first change
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    """Else one process that hangs in a transaction would hang all that come to its job."""
    connection.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s'")
    connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
