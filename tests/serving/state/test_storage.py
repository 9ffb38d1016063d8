"""How the database is opened: SQLite and PostgreSQL, versions, ids, addresses, processes that hang."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from serving.state import storage, tables
from serving.state.database import Database
from serving.state.queries import lock_job
from serving.state.rows import StateError
from testkit.jobs import new_job, queued


def test_a_process_that_hangs_in_a_transaction_holds_nobody_up_for_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 1)
    database = Database(database_url)
    job = queued(database)
    with database.storage.writing() as hanging:
        lock_job(hanging, job.id)
        with pytest.raises(sa.exc.OperationalError):
            database.jobs.cancel(job.id)
    assert database.jobs.cancel(job.id)
    database.close()


def test_a_database_of_another_version_is_refused(database_url: str) -> None:
    database = Database(database_url)
    Database(database_url).close()
    with database.storage.writing() as connection:
        connection.execute(tables.made_by.update().values(version="older"))
    database.close()
    with pytest.raises(StateError, match="made by another version of this server"):
        Database(database_url)


def test_a_database_without_an_id_is_of_another_version(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE made_by (version VARCHAR PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO made_by VALUES ('before there were ids')"))
    engine.dispose()
    with pytest.raises(StateError, match="made by another version of this server"):
        Database(database_url)


def test_a_database_keeps_an_id_of_its_own(database_url: str, tmp_path: Path) -> None:
    first, again = Database(database_url), Database(database_url)
    other = Database(f"sqlite:///{tmp_path}/other.db")
    assert first.id == again.id != other.id
    for database in (first, again, other):
        database.close()


def test_what_clients_sent_stays_out_of_errors(database: Database) -> None:
    job = new_job(prompt="a secret dancer")
    database.jobs.create(job)
    with pytest.raises(sa.exc.IntegrityError) as refused:
        database.jobs.create(job)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "nonsense"])
def test_databases_that_cannot_be_shared_are_refused(url: str) -> None:
    with pytest.raises(StateError, match="sqlite:///FILE or postgresql://"):
        Database(url)


def test_a_database_that_cannot_be_opened_says_so_without_the_password() -> None:
    with pytest.raises(StateError, match="cannot be opened") as refused:
        Database("postgresql://ann:secret@127.0.0.1:1/jobs")
    assert "secret" not in str(refused.value)
    with pytest.raises(StateError, match=r"/proc/nowhere/state\.db cannot be opened: .*No such file"):
        Database("sqlite:////proc/nowhere/state.db")
