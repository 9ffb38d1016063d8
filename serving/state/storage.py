"""An open database: SQLite by default, PostgreSQL by its address, with the same statements.

Whoever changes a job's tasks first locks the job, on PostgreSQL its row, on SQLite the file (BEGIN
IMMEDIATE), so what is ready is worked out from a state that nobody else is changing. SQLite runs in WAL mode, in which
readers never wait, and syncs at every commit: what a client was told survives a power cut. SQLite's file belongs on a
local disk; processes on several machines need PostgreSQL. A database that another version made is refused as a whole,
since one row that cannot be read would stop every worker.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock

from serving.state.rows import JobPlan, QueueLimits, StateError
from serving.state.tables import made_by, metadata

BUSY_SECONDS = 30
"""How long a process waits for another that writes, on PostgreSQL to the same job; for twice as long a process may
hold a transaction there and do nothing."""

OPENING, ADMISSION = 1, 2
"""Names of PostgreSQL's advisory locks: making the tables; counting before admitting one more."""


def _version() -> str:
    """A hash of the tables' columns and of the plans in them: versions with the same one can share a database."""
    columns = sorted(str(column) for table in metadata.sorted_tables for column in table.columns)
    return hashlib.sha256(repr([columns, sorted(JobPlan.__dataclass_fields__)]).encode()).hexdigest()[:16]


class Storage:
    """An open database with its limits and its clock, which tells seconds since 1970.

    One object serves all threads of a process; after a fork, open another. id: made with the tables and kept in them;
    no other database has it.
    """

    def __init__(
        self, url: str, limits: QueueLimits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Opens `url` (sqlite:///FILE or postgresql://..) and makes the tables that are not there.

        Raises StateError where it cannot be opened.
        """
        self.limits = limits or QueueLimits()
        self.clock = clock
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
        """Makes other transactions wait at the same call until this one ends; SQLite's writers never overlap anyway."""
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
    """Sets time limits, or one process that hangs in a transaction would hang all others at its job."""
    connection.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s'")
    connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
