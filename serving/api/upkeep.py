"""What a copy of the endpoint does beside answering: it makes webhook calls, and deletes what expired or lacks room.

It runs as long as the app does, and any number of copies may do it at once. A copy that dies while it takes or deletes
an upload leaves files without a job in this database's folder. Those are deleted once they have been seen twice, an
hour apart, because the files of an upload are there before its job. All else in the folder or bucket belongs to
somebody else and is left alone, see `serving.state.artifacts`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from serving.api.server import Server
from serving.api.webhooks import deliver
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import NotFoundError

DELIVER_EVERY, EXPIRE_EVERY, WEIGH_EVERY, SWEEP_EVERY = 2.0, 60.0, 300.0, 3600.0  # seconds

log = logging.getLogger(__name__)


def delete(database: Database, artifacts: Artifacts, job_id: str) -> None:
    """Deletes a job, then its files."""
    database.jobs.delete(job_id)
    artifacts.delete_job(job_id)


def expire(database: Database, artifacts: Artifacts) -> None:
    """Deletes the jobs that have expired."""
    for job_id in database.jobs.expired():
        delete(database, artifacts, job_id)


def make_room(database: Database, artifacts: Artifacts) -> None:
    """Deletes the jobs that ended first, until the files of all take no more than they may."""
    most = database.storage.limits.keep_bytes
    if most is None:
        return
    # Asked before the files are weighed, as another copy may be deleting the same ones.
    ended = database.jobs.ended()
    taken = artifacts.job_bytes()
    total = sum(taken.values())
    for job_id in ended:
        if total <= most:
            return
        log.info("%s is deleted before its time: all files take %d of %d bytes", job_id, total, most)
        delete(database, artifacts, job_id)
        total -= taken.get(job_id, 0)


class Sweep:
    """Deletes files without a job that were already there at the call before."""

    def __init__(self, database: Database, artifacts: Artifacts) -> None:
        self._database, self._artifacts = database, artifacts
        self._seen: set[str] = set()

    def __call__(self) -> None:
        orphans = {job_id for job_id in self._artifacts.jobs() if not self._has_job(job_id)}
        for job_id in orphans & self._seen:
            self._artifacts.delete_job(job_id)
        self._seen = orphans

    def _has_job(self, job_id: str) -> bool:
        try:
            self._database.jobs.get(job_id)
        except NotFoundError:
            return False
        return True


async def repeat(action: Callable[[], Awaitable[object]], every: float) -> None:
    """Runs a task again and again, with `every` seconds between, until cancelled; failures are logged."""
    while True:
        try:
            await action()
        except (SQLAlchemyError, OSError) as error:
            log.warning("upkeep will be tried again in %g s: %s", every, error)
        except Exception:  # a failure at one job must not end the upkeep of all
            log.exception("upkeep failed, and will be tried again in %g s", every)
        await asyncio.sleep(every)


@asynccontextmanager
async def upkeep(app: FastAPI) -> AsyncIterator[None]:
    """Runs beside the app as its lifespan."""
    server: Server = app.state.server
    database, artifacts = server.database, server.artifacts
    sweep = Sweep(database, artifacts)
    chores = [
        asyncio.create_task(repeat(lambda: deliver(database, server.settings), DELIVER_EVERY)),
        asyncio.create_task(repeat(lambda: run_in_threadpool(expire, database, artifacts), EXPIRE_EVERY)),
        asyncio.create_task(repeat(lambda: run_in_threadpool(make_room, database, artifacts), WEIGH_EVERY)),
        asyncio.create_task(repeat(lambda: run_in_threadpool(sweep), SWEEP_EVERY)),
    ]
    try:
        yield
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
