"""Jobs and claims on SQLite and on PostgreSQL, by one process; test_state_processes.py has several."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from serving.state import storage, tables
from serving.state.database import Database
from serving.state.queries import lock_job
from serving.state.rows import (
    Claim,
    ConflictError,
    Heartbeat,
    Kind,
    NewJob,
    NotFoundError,
    QueueFullError,
    QueueLimits,
    Role,
    StateError,
    new_job_id,
)
from serving.state.schedule import runnable
from serving.state.transitions import TRANSITIONS, IllegalTransition, JobStatus, TaskState, check_transition
from testkit.jobs import LEASE, Clock, claimed, completed, finish, job_plan, planned, queued, states, work_off

LIMITS = QueueLimits(jobs=5, failures=2, expiries=3, record_bytes=250, deliveries=2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    database = Database(database_url, LIMITS, clock)
    yield database
    database.close()


def new_job(owner: str = "ann", prompt: str = "a dancer", webhook: str | None = None) -> NewJob:
    return NewJob(new_job_id(), owner, {"prompt": prompt}, webhook)


def test_a_job_from_its_post_to_its_video(database: Database, clock: Clock) -> None:
    job, made = database.jobs.create(new_job())
    assert made and job.status is JobStatus.QUEUED and database.jobs.queue_place(job.id) == 1
    claim = claimed(database, Role.PREPARE)
    assert claim.job.id == job.id and database.jobs.queue_place(job.id) == 0
    assert database.queue.commit_plan(claim, job_plan())
    assert states(database, job.id) == {0: "ready", 1: "waiting", 2: "waiting", 3: "waiting", 4: "waiting"}
    assert [claim.task.index for claim in work_off(database)] == [0, 2, 4, 1, 3]
    assert database.jobs.get(job.id).progress == 99
    clock.now += 60
    (stitch,) = work_off(database, Role.STITCH)
    ended = database.jobs.get(job.id)
    assert (ended.status, ended.progress, ended.completed_at) == (JobStatus.COMPLETED, 100, clock.now)
    assert ended.expires_at == clock.now + LIMITS.keep_seconds
    assert stitch.task.artifact.startswith(f"{job.id}/video-")


def test_bases_start_when_the_shared_steps_are_there(database: Database) -> None:
    job = planned(database)
    anchor = claimed(database)
    assert anchor.records and database.queue.claim(Role.GENERATE, "other", LEASE) is None
    assert database.queue.publish_record_step(anchor, "store", 1)
    assert database.queue.claim(Role.GENERATE, "other", LEASE) is None
    assert database.queue.publish_record_step(anchor, "store", 2)
    base = claimed(database, worker="other")
    assert (base.task.index, base.records, base.job.record_store) == (2, False, "store")
    assert database.queue.live_records("store") == {(job.id, base.job.record_generation)}


def test_a_bridge_is_given_its_neighbours(database: Database) -> None:
    job = planned(database)
    bridge = next(claim for claim in work_off(database) if claim.task.index == 3)
    artifacts = {task.index: task.artifact for task in database.jobs.tasks(job.id, Kind.SEGMENT)}
    assert bridge.inputs == {2: artifacts[2], 4: artifacts[4]}


def test_a_job_of_one_segment(database: Database) -> None:
    planned(database, job_plan(frames=50))
    assert [claim.records for claim in work_off(database)] == [False]
    assert len(work_off(database, Role.STITCH)) == 1


def test_the_stitcher_begins_with_the_first_segment_of_the_timeline(database: Database) -> None:
    planned(database, job_plan(anchor=4))
    finish(database, claimed(database))
    assert database.queue.claim(Role.STITCH, "stitcher", LEASE) is None
    finish(database, claimed(database))
    assert claimed(database, Role.STITCH).task.steps == 300


def test_a_record_is_let_go_when_all_have_read_it(database: Database) -> None:
    planned(database)
    for _ in range(3):
        finish(database, claimed(database))
    assert database.queue.live_records("store") == set()


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


def test_owners_are_served_in_turn(database: Database, clock: Clock) -> None:
    limitless = job_plan(shared_steps=0)
    for owner in ("ann", "ann", "bob"):
        planned(database, limitless, owner)
    owners = []
    for worker in range(6):
        clock.now += 1
        owners.append(claimed(database, worker=f"worker {worker}").job.owner)
    assert owners.count("ann") == owners.count("bob") == 3


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


def test_a_silent_workers_task_goes_to_another_and_its_result_is_dropped(
    database: Database, clock: Clock
) -> None:
    planned(database)
    late = claimed(database)
    clock.now += LEASE - 1
    assert database.queue.heartbeat(late, 1, 5, LEASE) is Heartbeat.CONTINUE
    clock.now += LEASE - 1
    assert database.queue.claim(Role.GENERATE, "other", LEASE) is None
    clock.now += 2
    other = claimed(database, worker="other")
    assert (other.task.id, other.task.attempt, other.task.expiries) == (late.task.id, 2, 1)
    assert database.queue.heartbeat(late, 2, 5, LEASE) is Heartbeat.LOST
    assert not database.queue.publish_record_step(late, "store", 2)
    assert not database.queue.commit(late)
    finish(database, other)


def test_a_worker_that_speaks_up_before_another_came_keeps_its_task(database: Database, clock: Clock) -> None:
    planned(database)
    claim = claimed(database)
    clock.now += 2 * LEASE
    assert database.queue.heartbeat(claim, 1, 5, LEASE) is Heartbeat.CONTINUE
    finish(database, claim)


def test_what_lacks_something_is_not_published(database: Database) -> None:
    job = planned(database)
    finish(database, claimed(database))
    video = claimed(database, Role.STITCH)
    with pytest.raises(StateError, match="before all its segments"):
        database.queue.commit(video)
    database.queue.report_record_lost(job.id, video.job.record_generation)
    record = claimed(database)
    with pytest.raises(StateError, match="before all its steps"):
        database.queue.commit(record)
    assert database.queue.heartbeat(record, 1, 2, LEASE) is Heartbeat.CONTINUE
    assert database.jobs.get(job.id).status is JobStatus.IN_PROGRESS


def test_a_job_fails_after_too_many_silent_workers(database: Database, clock: Clock) -> None:
    job = planned(database)
    for _ in range(LIMITS.expiries):
        claimed(database)
        clock.now += LEASE + 1
    assert database.queue.claim(Role.GENERATE, "worker", LEASE) is None
    ended = database.jobs.get(job.id)
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "worker_lost")
    assert "3 workers fell silent" in str(ended.error_message)


def test_a_job_fails_after_too_many_errors(database: Database) -> None:
    job = planned(database)
    assert database.queue.fail(claimed(database), "Out of memory.", retry=True)
    assert database.jobs.get(job.id).status is JobStatus.IN_PROGRESS
    assert database.queue.fail(claimed(database), "Out of memory.", retry=True)
    assert database.jobs.get(job.id).error_message == "Out of memory."


def test_an_error_that_would_come_again_fails_the_job_at_once(database: Database) -> None:
    job = queued(database)
    assert database.queue.fail(
        claimed(database, Role.PREPARE), "Nobody is in it.", retry=False, code="no_person"
    )
    assert database.jobs.get(job.id).error_code == "no_person"


def test_a_task_handed_back_is_nobodys_failure(database: Database) -> None:
    planned(database)
    claim = claimed(database)
    assert database.queue.release(claim)
    assert not database.queue.commit(claim)
    again = claimed(database)
    assert (again.task.id, again.task.failures, again.task.expiries) == (claim.task.id, 0, 0)


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
    database.queue.publish_record_step(anchor, "store", 2)
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


def test_load_and_counts(database: Database, clock: Clock) -> None:
    planned(database)
    queued(database)
    assert database.jobs.counts() == {
        JobStatus.QUEUED: 1,
        JobStatus.IN_PROGRESS: 1,
        JobStatus.COMPLETED: 0,
        JobStatus.FAILED: 0,
    }
    claimed(database, worker="one")
    database.queue.claim(Role.GENERATE, "two", LEASE)
    load = database.queue.load(Role.GENERATE)
    assert (load.ready, load.running, load.workers) == (0, 1, 2)
    clock.now += LEASE + 1
    assert database.queue.load(Role.GENERATE).workers == 0


def test_a_worker_with_long_steps_is_alive_all_along(database: Database, clock: Clock) -> None:
    planned(database)
    claim = claimed(database)
    clock.now += 0.4 * LEASE
    assert database.queue.heartbeat(claim, 1, 5, LEASE) is Heartbeat.CONTINUE
    clock.now += 0.95 * LEASE
    assert database.queue.load(Role.GENERATE).workers == 1
    clock.now += 0.1 * LEASE
    assert database.queue.load(Role.GENERATE).workers == 0, "it hangs"


def test_a_process_that_hangs_in_a_transaction_holds_nobody_up_for_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 1)
    database = Database(database_url)
    job = queued(database)
    with database.storage.writing() as hanging:
        lock_job(hanging, job.id)
        with pytest.raises(sa.exc.OperationalError):
            database.jobs.cancel(job.id)
    assert database.jobs.cancel(job.id)
    database.close()


def test_a_database_of_another_version_is_refused(database_url: str) -> None:
    database = Database(database_url)
    Database(database_url).close()
    with database.storage.writing() as connection:
        connection.execute(tables.made_by.update().values(version="older"))
    database.close()
    with pytest.raises(StateError, match="made by another version of this server"):
        Database(database_url)


def test_a_database_without_an_id_is_of_another_version(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE made_by (version VARCHAR PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO made_by VALUES ('before there were ids')"))
    engine.dispose()
    with pytest.raises(StateError, match="made by another version of this server"):
        Database(database_url)


def test_a_database_keeps_an_id_of_its_own(database_url: str, tmp_path: Path) -> None:
    first, again = Database(database_url), Database(database_url)
    other = Database(f"sqlite:///{tmp_path}/other.db")
    assert first.id == again.id != other.id
    for database in (first, again, other):
        database.close()


def test_what_clients_sent_stays_out_of_errors(database: Database) -> None:
    job = new_job(prompt="a secret dancer")
    database.jobs.create(job)
    with pytest.raises(sa.exc.IntegrityError) as refused:
        database.jobs.create(job)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_the_job_can_be_finished(database: Database, clock: Clock, seed: int) -> None:
    """Random workers, losses and regenerations; ready is always what the plan allows, and nothing gets stuck."""
    chance = random.Random(seed)
    database.storage.limits = replace(LIMITS, expiries=1000)
    job = planned(database, job_plan(frames=400))
    claims: list[Claim] = []
    for _ in range(50):
        clock.now += chance.choice([1, 1, LEASE / 2])
        role = chance.choice([Role.GENERATE, Role.GENERATE, Role.STITCH])
        if claim := database.queue.claim(role, f"worker {chance.randrange(4)}", LEASE):
            claims.append(claim)
        if claims:
            happen(database, claims.pop(chance.randrange(len(claims))), chance, claims)
        current = database.jobs.get(job.id)
        assert current.plan is not None
        done = {index for index, state in states(database, job.id).items() if state == "done"}
        for index, state in states(database, job.id).items():
            assert state in ("running", "done") or (state == "ready") == runnable(
                current.plan, index, done, current.recorded
            )
    clock.now += LEASE + 1
    work_off(database)
    work_off(database, Role.STITCH)
    assert database.jobs.get(job.id).status is JobStatus.COMPLETED


def happen(database: Database, claim: Claim, chance: random.Random, claims: list[Claim]) -> None:
    """Something that a worker or a client may do."""
    deed = chance.choice(["commit", "commit", "commit", "beat", "release", "lose", "vanish", "remake"])
    if deed == "commit":
        if claim.task.kind is Kind.STITCH and set(states(database, claim.job.id).values()) != {"done"}:
            database.queue.release(claim)
        elif not claim.records or database.queue.publish_record_step(claim, "store", 2):
            database.queue.commit(claim)
    elif deed == "beat":
        if database.queue.heartbeat(claim, 1, 5, LEASE) is Heartbeat.CONTINUE:
            claims.append(claim)
    elif deed == "release":
        database.queue.release(claim)
    elif deed == "lose":
        database.queue.report_record_lost(claim.job.id, claim.job.record_generation)
        database.queue.release(claim)
    elif deed == "remake" and chance.random() < 0.3:
        database.jobs.regenerate(claim.job.id, chance.randrange(5))


def test_what_is_no_transition_raises() -> None:
    for old in TRANSITIONS:
        for new in TRANSITIONS:
            if new in TRANSITIONS[old]:
                check_transition(old, new)
            else:
                with pytest.raises(IllegalTransition):
                    check_transition(old, new)
    assert not TRANSITIONS[JobStatus.FAILED] and not TRANSITIONS[TaskState.CANCELLED]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "nonsense"])
def test_databases_that_cannot_be_shared_are_refused(url: str) -> None:
    with pytest.raises(StateError, match="sqlite:///FILE or postgresql://"):
        Database(url)


def test_a_database_that_cannot_be_opened_says_so_without_the_password() -> None:
    with pytest.raises(StateError, match="cannot be opened") as refused:
        Database("postgresql://ann:secret@127.0.0.1:1/jobs")
    assert "secret" not in str(refused.value)
    with pytest.raises(StateError, match=r"/proc/nowhere/state\.db cannot be opened: .*No such file"):
        Database("sqlite:////proc/nowhere/state.db")
