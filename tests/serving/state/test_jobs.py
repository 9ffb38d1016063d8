"""Jobs as their clients see them, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from serving.state.database import Database
from serving.state.rows import ConflictError, Heartbeat, Kind, NotFoundError, QueueFullError, Role
from serving.state.transitions import JobStatus
from testkit.jobs import (
    LEASE,
    LIMITS,
    Clock,
    claimed,
    completed,
    job_plan,
    new_job,
    planned,
    queued,
    work_off,
)


def test_one_key_makes_one_job(database: Database) -> None:
    first, _ = database.jobs.create(new_job(), "key")
    again, made = database.jobs.create(new_job(), "key")
    assert (again.id, made) == (first.id, False)
    assert database.jobs.create(new_job("bob"), "key")[1]
    with pytest.raises(ConflictError, match="another request"):
        database.jobs.create(new_job(prompt="a singer"), "key")


def test_a_full_queue_refuses_but_knows_its_keys(database: Database) -> None:
    kept, _ = database.jobs.create(new_job(), "key")
    for _ in range(LIMITS.jobs - 1):
        queued(database)
    with pytest.raises(QueueFullError, match="5 unfinished jobs"):
        queued(database)
    assert database.jobs.create(new_job(), "key")[0].id == kept.id
    database.jobs.cancel(kept.id)
    queued(database)


def test_an_owner_has_a_quota(database: Database) -> None:
    database.jobs.create(new_job(), quota=1)
    with pytest.raises(QueueFullError, match="your limit"):
        database.jobs.create(new_job(), quota=1)
    database.jobs.create(new_job("bob"), quota=1)


def test_jobs_are_listed_page_by_page(database: Database, clock: Clock) -> None:
    made = []
    for _ in range(4):
        made.append(queued(database).id)
        clock.now += 1
    queued(database, "bob")
    assert [job.id for job in database.jobs.page("ann", limit=3)] == made[:0:-1]
    assert [job.id for job in database.jobs.page("ann", after=made[1])] == made[:1]
    assert [job.id for job in database.jobs.page("ann", after=made[1], order="asc")] == made[2:]
    assert len(database.jobs.page()) == 5
    with pytest.raises(NotFoundError):
        database.jobs.page("bob", after=made[0])


def test_others_jobs_are_not_there(database: Database) -> None:
    job = queued(database)
    with pytest.raises(NotFoundError):
        database.jobs.get(job.id, "bob")
    assert database.jobs.get(job.id, "ann").id == job.id


@pytest.mark.parametrize("begun", ["queued", "preparing", "planned", "generating", "stitching"])
def test_a_cancelled_job_stops_at_the_next_heartbeat(database: Database, begun: str) -> None:
    job = queued(database) if begun in ("queued", "preparing") else planned(database)
    roles = {"preparing": Role.PREPARE, "generating": Role.GENERATE, "stitching": Role.STITCH}
    if begun == "stitching":
        work_off(database)
    claim = claimed(database, roles[begun]) if begun in roles else None
    assert database.jobs.cancel(job.id)
    assert not database.jobs.cancel(job.id)
    assert (database.jobs.get(job.id).status, database.jobs.get(job.id).error_code) == (
        JobStatus.FAILED,
        "cancelled",
    )
    if claim:
        assert database.queue.heartbeat(claim, 1, 5, LEASE) is Heartbeat.CANCELLED
        assert not database.queue.commit(claim) and not database.queue.release(claim)
        assert not database.queue.fail(claim, "Too late.", retry=True)
    assert all(database.queue.claim(role, "worker", LEASE) is None for role in Role)


def test_a_completed_job_is_not_cancelled(database: Database) -> None:
    job = completed(database)
    assert not database.jobs.cancel(job.id)
    assert database.jobs.get(job.id).status is JobStatus.COMPLETED


def test_a_deleted_job_is_forgotten_and_its_workers_stop(database: Database) -> None:
    job, _ = database.jobs.create(new_job(), "key")
    claim = claimed(database, Role.PREPARE)
    database.jobs.delete(job.id)
    assert database.queue.heartbeat(claim, 0, 0, LEASE) is Heartbeat.CANCELLED
    assert not database.queue.commit_plan(claim, job_plan())
    assert database.jobs.tasks(job.id) == []
    assert database.jobs.create(new_job(), "key")[1]


def test_ended_jobs_expire(database: Database, clock: Clock) -> None:
    ended, unfinished = completed(database), queued(database)
    clock.now += LIMITS.keep_seconds + 1
    assert database.jobs.expired() == [ended.id]
    assert database.jobs.get(unfinished.id).expires_at is None


@pytest.mark.parametrize(("index", "changed"), [(3, [3]), (2, [1, 2, 3]), (0, [0, 1, 2, 3, 4])])
def test_a_segment_made_anew_takes_what_depends_on_it_along(
    database: Database, index: int, changed: list[int]
) -> None:
    job = completed(database)
    before = {task.index: task.artifact for task in database.jobs.tasks(job.id, Kind.SEGMENT)}
    (old_video,) = database.jobs.tasks(job.id, Kind.STITCH)
    assert database.jobs.regenerate(job.id, index) == changed
    again = database.jobs.get(job.id)
    assert (again.status, again.completed_at) == (JobStatus.IN_PROGRESS, None)
    segments = [claim.task.index for claim in work_off(database) if claim.task.kind is Kind.SEGMENT]
    assert sorted(segments) == changed
    (video,) = work_off(database, Role.STITCH)
    after = {task.index: task for task in database.jobs.tasks(job.id, Kind.SEGMENT)}
    assert [other for other in before if before[other] != after[other].artifact] == changed
    assert video.task.artifact != old_video.artifact
    assert {other: task.seed for other, task in after.items() if task.seed != 7} == {index: 8}
    assert database.jobs.get(job.id).status is JobStatus.COMPLETED


def test_a_base_made_anew_has_the_anchor_recorded_again(database: Database) -> None:
    job = completed(database)
    database.jobs.regenerate(job.id, 2, seed=99)
    kinds = [(claim.task.kind, claim.task.index) for claim in work_off(database)]
    assert kinds[0][0] is Kind.RECORD
    assert kinds[1:] == [(Kind.SEGMENT, 2), (Kind.SEGMENT, 1), (Kind.SEGMENT, 3)]


def test_a_segment_made_anew_while_it_is_generated(database: Database) -> None:
    job = planned(database)
    anchor = claimed(database)
    database.queue.publish_record_step(anchor, 2)
    base = claimed(database)
    assert database.jobs.regenerate(job.id, 0) == [0, 1, 2, 3, 4]
    assert database.queue.heartbeat(base, 1, 5, LEASE) is Heartbeat.LOST
    assert not database.queue.commit(anchor)
    assert [claim.task.index for claim in work_off(database)] == [0, 2, 4, 1, 3]


def test_a_segment_made_anew_has_all_its_tries(database: Database) -> None:
    job = planned(database, job_plan(shared_steps=0))
    assert database.queue.fail(claimed(database), "Out of memory.", retry=True)
    work_off(database)
    work_off(database, Role.STITCH)
    database.jobs.regenerate(job.id, 0)
    assert database.queue.fail(claimed(database), "Out of memory.", retry=True)
    assert database.jobs.get(job.id).status is JobStatus.IN_PROGRESS


def test_a_video_made_anew_counts_as_unfinished(database: Database) -> None:
    job = completed(database)
    queued(database)
    with pytest.raises(QueueFullError, match="your limit"):
        database.jobs.regenerate(job.id, 0, quota=1)
    assert database.jobs.get(job.id).status is JobStatus.COMPLETED
    for _ in range(LIMITS.jobs - 1):
        queued(database)
    with pytest.raises(QueueFullError, match="queue is full"):
        database.jobs.regenerate(job.id, 0)


def test_what_cannot_be_made_anew(database: Database) -> None:
    job = queued(database)
    with pytest.raises(ConflictError, match="no segments"):
        database.jobs.regenerate(job.id, 0)
    database.jobs.cancel(job.id)
    with pytest.raises(NotFoundError, match="no segment 5"):
        database.jobs.regenerate(completed(database).id, 5)
    with pytest.raises(NotFoundError):
        database.jobs.regenerate("video_0", 0)
