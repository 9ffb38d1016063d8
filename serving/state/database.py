"""The database as the server sees it, in parts by who asks: clients, workers, webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.state.deliveries import Deliveries
from serving.state.jobs import Jobs
from serving.state.rows import QueueLimits
from serving.state.storage import Storage
from serving.state.task_queue import TaskQueue


class Database:
    """An open database. One object serves all threads of a process; after a fork, open another."""

    def __init__(
        self, url: str, limits: QueueLimits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Opens `url`, see `serving.state.storage.Storage`; `clock` tells seconds since 1970."""
        self.storage = Storage(url, limits, clock)
        self.jobs = Jobs(self.storage)
        self.queue = TaskQueue(self.storage)
        self.deliveries = Deliveries(self.storage)

    @property
    def id(self) -> str:
        """Made with the tables and kept in them; no other database has it."""
        return self.storage.id

    def close(self) -> None:
        """Closes its connections."""
        self.storage.close()
