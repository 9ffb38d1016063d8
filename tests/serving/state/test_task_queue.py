"""How workers take tasks and hand in results, by one process; test_state_processes.py has several."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from serving.state.database import Database
from serving.state.rows import Claim, Heartbeat, Kind, Role, StateError
from serving.state.schedule import runnable
from serving.state.transitions import JobStatus
from testkit.jobs import (
    LEASE,
    LIMITS,
    Clock,
    claimed,
    finish,
    job_plan,
    new_job,
    planned,
    queued,
    states,
    work_off,
)


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
    assert database.queue.publish_record_step(anchor, 1)
    assert database.queue.claim(Role.GENERATE, "other", LEASE) is None
    assert database.queue.publish_record_step(anchor, 2)
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


def test_owners_are_served_in_turn(database: Database, clock: Clock) -> None:
    limitless = job_plan(shared_steps=0)
    for owner in ("ann", "ann", "bob"):
        planned(database, limitless, owner)
    owners = []
    for worker in range(6):
        clock.now += 1
        owners.append(claimed(database, worker=f"worker {worker}").job.owner)
    assert owners.count("ann") == owners.count("bob") == 3


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
    assert not database.queue.publish_record_step(late, 2)
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
        elif not claim.records or database.queue.publish_record_step(claim, 2):
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
