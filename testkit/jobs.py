"""Jobs for the tests of the server's state, and workers that do nothing but hand in."""

from __future__ import annotations

from dataclasses import dataclass

from posegen.longvideo.segments import plan
from serving.state.database import Database
from serving.state.rows import Claim, Job, JobPlan, Kind, NewJob, QueueLimits, Role, new_job_id

LEASE = 10.0
LIMITS = QueueLimits(jobs=5, failures=2, expiries=3, record_bytes=250, deliveries=2)


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def job_plan(frames: int = 300, shared_steps: int = 2, anchor: int = 0, record_bytes: int = 100) -> JobPlan:
    """A plan with segments 0 to 4 (300 frames), 5 steps each."""
    line = plan(frames, anchor=anchor, planner="published")
    return JobPlan(
        frames=line.frames,
        segment_frames=line.segment_frames,
        head=line.head,
        tail=line.tail,
        anchor=line.anchor,
        steps=5,
        seed=7,
        shared_steps=shared_steps,
        record_bytes=record_bytes,
        content_id="made-up",
    )


def new_job(owner: str = "ann", prompt: str = "a dancer", webhook: str | None = None) -> NewJob:
    """A job to be queued."""
    return NewJob(new_job_id(), owner, {"prompt": prompt}, webhook)


def queued(database: Database, owner: str = "ann") -> Job:
    """A new job."""
    return database.jobs.create(new_job(owner))[0]


def planned(database: Database, plan: JobPlan | None = None, owner: str = "ann") -> Job:
    """A new job that is prepared."""
    job = queued(database, owner)
    preparation = claimed(database, Role.PREPARE)
    assert preparation.job.id == job.id
    assert database.queue.commit_plan(preparation, plan or job_plan())
    return database.jobs.get(job.id)


def claimed(
    database: Database, role: Role = Role.GENERATE, worker: str = "worker", store: str = "store"
) -> Claim:
    """The next task of a role, which there must be."""
    claim = database.queue.claim(role, worker, LEASE, store)
    assert claim is not None
    return claim


def finish(database: Database, claim: Claim) -> None:
    """Hands in a task, the record first if it makes one."""
    if claim.records:
        assert claim.job.plan is not None
        assert database.queue.publish_record_step(claim, claim.job.plan.shared_steps)
    assert database.queue.commit(claim)


def work_off(database: Database, role: Role = Role.GENERATE) -> list[Claim]:
    """Does all tasks of a role that can be done, one after the other."""
    done = []
    while claim := database.queue.claim(role, "worker", LEASE):
        finish(database, claim)
        done.append(claim)
    return done


def completed(database: Database, plan: JobPlan | None = None) -> Job:
    """A job whose video is made."""
    job = planned(database, plan)
    work_off(database)
    work_off(database, Role.STITCH)
    return database.jobs.get(job.id)


def states(database: Database, job_id: str) -> dict[int, str]:
    """The states of a job's segments."""
    return {task.index: task.state.value for task in database.jobs.tasks(job_id, Kind.SEGMENT)}
