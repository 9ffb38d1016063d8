"""A PostgreSQL server of the tests' own: in a temporary folder, behind a socket there, stopped at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

UNPRIVILEGED = "postgres"
"""Who runs the server where the tests run as root, which PostgreSQL refuses; its package makes this user."""

SETTINGS = "-c listen_addresses='' -c fsync=off -c max_connections=100"


def programs() -> Path:
    """The folder of PostgreSQL's programs; fails the test where they are not installed."""
    if server := shutil.which("postgres"):
        return Path(server).resolve().parent
    if installed := sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return installed[-1].parent
    pytest.fail("PostgreSQL is not installed, which these tests start themselves: apt-get install postgresql")


@contextmanager
def postgres_server() -> Iterator[str]:
    """The folder of the socket of a running server, whose user is `postgres` without a password."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # a socket's path must be short
    user = UNPRIVILEGED if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    control = [str(programs() / "pg_ctl"), "--silent", "--pgdata", str(folder / "data")]
    initdb = "--no-sync --username=postgres --auth=trust --encoding=UTF8 --locale=C"
    try:
        for arguments in (["initdb", "-o", initdb], ["start", "-w", "-o", f"-k {folder} {SETTINGS}"]):
            log = ["--log", str(folder / "log")] if arguments[0] == "start" else []
            subprocess.run(
                [*control, *log, *arguments],
                check=True,
                user=user,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        yield str(folder)
        subprocess.run([*control, "stop", "-m", "immediate"], check=True, user=user, cwd=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def empty_database(server: str) -> str:
    """The URL of a server's database, after everything in it was deleted."""
    with psycopg.connect(host=server, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return f"postgresql://postgres@/postgres?host={server}"
