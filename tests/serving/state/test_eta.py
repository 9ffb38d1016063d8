"""When a job will be done."""

from __future__ import annotations

from serving.state.database import Database
from serving.state.eta import seconds_left, seconds_per_step, steps_left
from testkit.jobs import LEASE, Clock, claimed, finish, job_plan, planned, queued, work_off


def left(database: Database, job_id: str, replicas: int) -> int:
    return steps_left(database.jobs.get(job_id), database.jobs.tasks(job_id), replicas)


def test_a_job_without_a_plan_has_no_estimate(database: Database, clock: Clock) -> None:
    job = queued(database)
    assert seconds_left(job, database.jobs.tasks(job.id), 1, clock.now) is None


def test_steps_left_are_the_longest_chain_or_the_work_shared_out(database: Database) -> None:
    job = planned(database)  # 5 segments of 5 steps, of which 2 are shared
    assert [left(database, job.id, replicas) for replicas in (1, 2, 64)] == [25, 13, 12]
    anchor = claimed(database)
    database.queue.heartbeat(anchor, 1, 5, LEASE)
    database.queue.publish_record_step(anchor, 1)
    assert left(database, job.id, 64) == 11
    finish(database, anchor)
    assert left(database, job.id, 64) == 10
    work_off(database)
    assert left(database, job.id, 64) == 0


def test_a_job_of_one_segment(database: Database) -> None:
    job = planned(database, job_plan(frames=50))
    assert left(database, job.id, 8) == 5


def test_steps_are_timed_as_they_come(database: Database, clock: Clock) -> None:
    job = planned(database)
    anchor = claimed(database)
    assert seconds_per_step(database.jobs.tasks(job.id), clock.now) is None
    clock.now += 6
    database.queue.heartbeat(anchor, 2, 5, 100)
    assert seconds_per_step(database.jobs.tasks(job.id), clock.now) == 3
    clock.now += 4
    finish(database, anchor)
    clock.now += 50
    assert seconds_per_step(database.jobs.tasks(job.id), clock.now) == 2
    assert seconds_left(database.jobs.get(job.id), database.jobs.tasks(job.id), 64, clock.now) == 2 * 10
