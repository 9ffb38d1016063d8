"""Whether work can be done: the database answers, every role has a live worker, the disks have room."""

from __future__ import annotations

import shutil

from sqlalchemy.exc import SQLAlchemyError

from serving.api.schemas import Health
from serving.api.server import Server
from serving.state.rows import Role


def health(server: Server) -> Health:
    """The problems that keep work from being done, a sentence each."""
    problems = _disk_problems(server)
    try:
        idle = [role for role in Role if not server.database.queue.load(role).workers]
    except SQLAlchemyError:
        problems.append("The database does not answer.")
    else:
        problems += [f"There is no live worker for the role {role}." for role in idle]
    return Health(ok=not problems, problems=problems)


def _disk_problems(server: Server) -> list[str]:
    problems = []
    for folder in server.settings.disks:
        free = shutil.disk_usage(folder).free
        if free < server.settings.free_bytes:
            problems.append(
                f"A disk has only {free >> 20} MiB left, of {server.settings.free_bytes >> 20} needed."
            )
    return problems
