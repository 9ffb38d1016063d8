"""Webhook calls as rows of the database."""

from __future__ import annotations

from serving.state.database import Database
from testkit.jobs import LEASE, LIMITS, Clock, new_job


def test_a_webhook_is_called_until_it_is_heard_or_given_up(database: Database, clock: Clock) -> None:
    job, _ = database.jobs.create(new_job(webhook="https://example.org"))
    assert database.deliveries.claim(LEASE) is None
    database.jobs.cancel(job.id)
    delivery = database.deliveries.claim(LEASE)
    assert delivery is not None
    assert (delivery.event, delivery.job.id, delivery.attempt) == ("video.failed", job.id, 1)
    assert database.deliveries.claim(LEASE) is None
    database.deliveries.end(delivery, delivered=False)
    clock.now += 6
    again = database.deliveries.claim(LEASE)
    assert again is not None and again.attempt == LIMITS.deliveries
    database.deliveries.end(again, delivered=False)
    clock.now += 1000
    assert database.deliveries.claim(LEASE) is None


def test_a_webhook_whose_caller_died_is_called_by_another(database: Database, clock: Clock) -> None:
    job, _ = database.jobs.create(new_job(webhook="https://example.org"))
    database.jobs.cancel(job.id)
    assert database.deliveries.claim(LEASE)
    clock.now += LEASE
    delivery = database.deliveries.claim(LEASE)
    assert delivery is not None
    database.deliveries.end(delivery, delivered=True)
    clock.now += 1000
    assert database.deliveries.claim(LEASE) is None
