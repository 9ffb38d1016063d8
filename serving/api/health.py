"""Whether this copy of the endpoint answers, and what keeps work from being done.

It answers as long as the database does, and only then is it worth a request: a load balancer that leaves a copy out
because a role has no worker or a disk is full would also keep polls and downloads from it. New videos wait in the queue
for a worker of their role; while a disk is full they are refused.
"""

from __future__ import annotations

import shutil

from sqlalchemy.exc import SQLAlchemyError

from serving.api.schemas import Health
from serving.api.server import Server
from serving.state.rows import Role


def health(server: Server) -> tuple[Health, bool]:
    """The problems that keep work from being done, a sentence each; and whether requests are answered."""
    problems, answers = disk_problems(server), True
    try:
        idle = [role for role in Role if not server.database.queue.load(role).workers]
    except SQLAlchemyError:
        problems.append("The database does not answer.")
        answers = False
    else:
        problems += [f"There is no live worker for the role {role}." for role in idle]
    return Health(ok=not problems, problems=problems), answers


def disk_problems(server: Server) -> list[str]:
    """The disks that are nearly full, a sentence each."""
    problems = []
    for folder in server.settings.disks:
        free = shutil.disk_usage(folder).free
        if free < server.settings.free_bytes:
            problems.append(
                f"A disk has only {free >> 20} MiB left, of {server.settings.free_bytes >> 20} needed."
            )
    return problems
