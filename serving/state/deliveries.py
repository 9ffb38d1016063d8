"""Webhook calls that are to be made.

They are rows, inserted in the transaction that ends the job, so none is lost with a process.
"""

from __future__ import annotations

import sqlalchemy as sa

from serving.state.queries import jobs_with_progress, with_progress
from serving.state.rows import Delivery
from serving.state.storage import Storage
from serving.state.tables import deliveries, jobs


class Deliveries:
    """The webhooks' side of the database. All methods may be called from several threads and processes at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def claim(self, lease: float) -> Delivery | None:
        """A webhook call that is due; after `lease` seconds another may make it, unless its end was told."""
        due = deliveries.c.due_at <= self._storage.clock()
        with self._storage.writing() as connection:
            query = sa.select(deliveries).where(due).order_by(deliveries.c.due_at).limit(1)
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            values = {"attempt": row.attempt + 1, "due_at": self._storage.clock() + lease}
            connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(values))
            job = connection.execute(jobs_with_progress().where(jobs.c.id == row.job_id)).one()
            return Delivery(row.id, with_progress(job), row.event, row.attempt + 1)

    def end(self, delivery: Delivery, delivered: bool) -> None:
        """Tells how a webhook call went. A failed one is due again after 5, 10, 20, .. seconds, then given up."""
        this = deliveries.c.id == delivery.id
        with self._storage.writing() as connection:
            if delivered or delivery.attempt >= self._storage.limits.deliveries:
                connection.execute(deliveries.delete().where(this))
            else:
                due_at = self._storage.clock() + 5 * 2 ** (delivery.attempt - 1)
                connection.execute(deliveries.update().where(this).values(due_at=due_at))
