"""The anchor's record in the queue: when it is made, read, lost, made again, and let go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.state.database import Database
from serving.state.rows import Heartbeat, Kind, Role
from serving.state.transitions import JobStatus, TaskState
from testkit.jobs import (
    LEASE,
    LIMITS,
    Clock,
    claimed,
    finish,
    job_plan,
    planned,
    queued,
    states,
    work_off,
)


def test_a_record_is_let_go_when_all_have_read_it(database: Database) -> None:
    planned(database)
    for _ in range(3):
        finish(database, claimed(database))
    assert database.queue.live_records("store") == set()


def test_a_record_lost_after_the_anchor_is_made_once_more(database: Database) -> None:
    job = planned(database)
    finish(database, claimed(database))
    reader = claimed(database)
    generation = reader.job.record_generation
    assert database.queue.report_record_lost(job.id, generation)
    assert not database.queue.report_record_lost(job.id, generation)
    assert database.queue.release(reader)
    record = claimed(database)
    assert (record.task.kind, record.records) == (Kind.RECORD, True)
    assert database.queue.claim(Role.GENERATE, "other", LEASE) is None
    finish(database, record, "another store")
    assert claimed(database).job.record_store == "another store"
    assert states(database, job.id)[0] == "done"


def test_a_record_that_is_always_lost_fails_the_job(database: Database) -> None:
    job = planned(database)
    finish(database, claimed(database))
    for _ in range(LIMITS.expiries):
        assert database.jobs.get(job.id).status is JobStatus.IN_PROGRESS
        reader = claimed(database)
        if reader.task.kind is Kind.RECORD:
            finish(database, reader)
            reader = claimed(database)
        assert database.queue.report_record_lost(job.id, reader.job.record_generation)
        assert not database.queue.report_record_lost(job.id, reader.job.record_generation), (
            "one loss counts once"
        )
        database.queue.release(reader)
    ended = database.jobs.get(job.id)
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "record_lost")
    assert "lost again and again" in str(ended.error_message) and "framing=off" in str(ended.error_message)
    assert database.queue.claim(Role.GENERATE, "worker", LEASE) is None


def test_a_record_lost_while_the_anchor_goes_on_is_made_beside_it(database: Database) -> None:
    job = planned(database)
    anchor = claimed(database)
    database.queue.publish_record_step(anchor, "store", 1)
    assert database.queue.report_record_lost(job.id, anchor.job.record_generation)
    assert not database.queue.publish_record_step(anchor, "store", 2)
    assert database.queue.heartbeat(anchor, 3, 5, LEASE) is Heartbeat.CONTINUE
    assert claimed(database, worker="other").task.kind is Kind.RECORD
    assert database.queue.commit(anchor)


def test_an_anchor_taken_over_after_its_record_was_complete_does_not_record(
    database: Database, clock: Clock
) -> None:
    planned(database)
    database.queue.publish_record_step(claimed(database), "store", 2)
    clock.now += LEASE + 1
    again = claimed(database)
    assert (again.task.index, again.records) == (0, False)
    assert claimed(database).task.index == 2


def test_an_anchor_taken_over_before_records_anew(database: Database, clock: Clock) -> None:
    planned(database)
    first = claimed(database)
    database.queue.publish_record_step(first, "store", 1)
    clock.now += LEASE + 1
    again = claimed(database)
    assert again.records and again.job.record_generation == first.job.record_generation + 1
    assert again.job.published_steps == 0


def test_a_record_task_that_nobody_needs_is_dropped(database: Database) -> None:
    job = planned(database)
    finish(database, claimed(database))
    readers = [claimed(database), claimed(database)]
    database.queue.report_record_lost(job.id, readers[0].job.record_generation)
    for reader in readers:  # both had read enough
        finish(database, reader)
    (record,) = database.jobs.tasks(job.id, Kind.RECORD)
    assert record.state is TaskState.CANCELLED
    assert len(work_off(database)) == 2


def test_records_are_admitted_by_their_bytes(database: Database) -> None:
    for _ in range(3):
        planned(database, job_plan(record_bytes=100))
    first, second = claimed(database), claimed(database)
    assert first.records and second.records
    assert database.queue.claim(Role.GENERATE, "third", LEASE) is None  # 300 bytes are more than 250
    finish(database, first)
    for _ in range(2):
        finish(database, claimed(database))
    assert [claimed(database).records for _ in range(3)].count(
        True
    ) == 1  # the first job's two bridges beside it


def test_a_record_planned_under_another_limit_is_made_when_it_is_alone(database: Database) -> None:
    jobs = {planned(database).id, planned(database).id}
    database.storage.limits = replace(LIMITS, record_bytes=50)
    first = claimed(database).job.id
    assert database.queue.claim(Role.GENERATE, "other", LEASE) is None
    database.jobs.cancel(first)
    assert {first, claimed(database).job.id} == jobs


def test_a_record_too_large_for_all_memory_is_refused(database: Database) -> None:
    queued(database)
    claim = claimed(database, Role.PREPARE)
    with pytest.raises(ValueError, match="smaller size"):
        database.queue.commit_plan(claim, job_plan(record_bytes=251))
