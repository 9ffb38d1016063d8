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


def test_a_record_is_let_go_when_its_last_reader_is_past_the_shared_steps(database: Database) -> None:
    job = planned(database)
    finish(database, claimed(database))
    readers = [claimed(database), claimed(database)]
    generation = readers[0].job.record_generation
    for step in (1, 2):
        assert database.queue.live_records("store") == {(job.id, generation)}
        for reader in readers:
            assert database.queue.heartbeat(reader, step, 5, LEASE) is Heartbeat.CONTINUE
    assert database.queue.live_records("store") == set()
    for reader in readers:
        finish(database, reader)
    assert len(work_off(database)) == 2, "the bridges, and no record"


def test_a_reader_that_begins_again_after_its_record_was_let_go_gets_another(database: Database) -> None:
    planned(database)
    finish(database, claimed(database))
    first, second = claimed(database), claimed(database)
    for reader in (first, second):
        database.queue.heartbeat(reader, 2, 5, LEASE)
    database.queue.release(second)
    assert [claim.task.kind for claim in work_off(database)] == [Kind.RECORD, Kind.SEGMENT]
    finish(database, first)
    assert len(work_off(database)) == 2


def test_a_record_lost_after_the_anchor_is_made_once_more(database: Database) -> None:
    job = planned(database)
    finish(database, claimed(database))
    reader = claimed(database)
    generation = reader.job.record_generation
    assert database.queue.report_record_lost(job.id, generation)
    assert not database.queue.report_record_lost(job.id, generation)
    assert database.queue.release(reader)
    record = claimed(database, store="another store")
    assert (record.task.kind, record.records) == (Kind.RECORD, True)
    assert database.queue.claim(Role.GENERATE, "other", LEASE) is None
    finish(database, record)
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
    database.queue.publish_record_step(anchor, 1)
    assert database.queue.report_record_lost(job.id, anchor.job.record_generation)
    assert not database.queue.publish_record_step(anchor, 2)
    assert database.queue.heartbeat(anchor, 3, 5, LEASE) is Heartbeat.CONTINUE
    assert claimed(database, worker="other").task.kind is Kind.RECORD
    assert database.queue.commit(anchor)


def test_an_anchor_taken_over_after_its_record_was_complete_does_not_record(
    database: Database, clock: Clock
) -> None:
    planned(database)
    database.queue.publish_record_step(claimed(database), 2)
    clock.now += LEASE + 1
    again = claimed(database)
    assert (again.task.index, again.records) == (0, False)
    assert claimed(database).task.index == 2


def test_an_anchor_taken_over_before_records_anew(database: Database, clock: Clock) -> None:
    planned(database)
    first = claimed(database)
    database.queue.publish_record_step(first, 1)
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


def test_a_node_admits_records_by_their_bytes_whatever_others_hold(database: Database) -> None:
    for _ in range(5):
        planned(database, job_plan(record_bytes=200))  # 100 bytes in the smaller form
    assert all(claimed(database, worker=name).records for name in ("first", "second"))
    assert database.queue.claim(Role.GENERATE, "third", LEASE, "store") is None  # 300 bytes are more than 250
    other = claimed(database, worker="fourth", store="another store")
    assert (other.records, other.job.record_store) == (True, "another store")


def test_a_record_that_all_have_read_makes_room(database: Database) -> None:
    for _ in range(3):
        planned(database, job_plan(record_bytes=200))
    first, second = claimed(database), claimed(database)
    assert first.records and second.records
    finish(database, first)
    for _ in range(2):
        finish(database, claimed(database))
    records = [claimed(database).records for _ in range(3)]
    assert records.count(True) == 1  # the first job's two bridges beside it


def test_a_record_planned_under_another_limit_is_made_when_it_is_alone(database: Database) -> None:
    jobs = {planned(database).id, planned(database).id}
    database.storage.limits = replace(LIMITS, record_bytes=50)
    first = claimed(database).job.id
    assert database.queue.claim(Role.GENERATE, "other", LEASE, "store") is None
    database.jobs.cancel(first)
    assert {first, claimed(database).job.id} == jobs


def test_a_record_is_kept_in_the_form_that_leaves_room_for_others(database: Database) -> None:
    for whole, form, kept in ((31, "key_value", 31), (32, "input", 16), (500, "input", 250)):
        plan = planned(database, job_plan(record_bytes=whole)).plan
        assert plan is not None
        assert (plan.record_form, plan.record_bytes) == (form, kept)


def test_a_record_too_large_for_every_node_is_refused_unless_its_disk_takes_it(database: Database) -> None:
    queued(database)
    claim = claimed(database, Role.PREPARE)
    with pytest.raises(ValueError, match="smaller size"):
        database.queue.commit_plan(claim, job_plan(record_bytes=502))
    database.storage.limits = replace(LIMITS, spill_bytes=50)
    assert database.queue.commit_plan(claim, job_plan(record_bytes=502))
    assert claimed(database).records
