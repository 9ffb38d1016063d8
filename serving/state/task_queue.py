"""How workers take tasks and hand in results: claim, heartbeat, commit, fail, release, and the anchor's record.

There is no scheduler process. Every claim first takes back the tasks of silent workers, then picks by
`serving.state.schedule`. A task may be computed more than once, but its result is published once: only the worker of
its latest attempt can commit it. A claim that is late, was handed back or belongs to an ended job changes nothing.
Machines' clocks must agree to a fraction of the lease.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from serving.state import schedule
from serving.state.admission import choose_form, has_room
from serving.state.artifacts import segment_artifacts, video_artifact
from serving.state.queries import UNFINISHED, change_job, drop_record, end_job, job_tasks, lock_job, settle
from serving.state.rows import KINDS, Claim, Heartbeat, Job, JobPlan, Kind, Load, Role, StateError, Task
from serving.state.storage import ADMISSION, Storage
from serving.state.tables import jobs, tasks, workers
from serving.state.transitions import JobStatus, TaskState, check_transition

LOST = (
    "The shared background was lost again and again before all segments had read it; look into the workers' logs, then "
    "post the job again, or ask for it with framing=off."
)
ALIVE = 0.9
"""Workers note that they live once less than this share of their lease is left of the last note."""


class TaskQueue:
    """The workers' side of the database. All methods may be called from several threads and processes at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._alive: dict[str, float] = {}  # until when this process's workers are known to live

    def claim(self, role: Role, worker: str, lease: float, store: str = "") -> Claim | None:
        """The next task for a worker of this role, held for `lease` seconds; None if there is none now.

        worker: a name that no other worker has, the same at each call. store: where it would put an anchor's record,
        the same for all workers of a node.
        """
        self._keep_alive(role, worker, lease)
        self._take_back()
        for job_id in self._service_order(role):
            with self._storage.writing() as connection:
                job = lock_job(connection, job_id)
                if job is None or job.status not in UNFINISHED:
                    continue
                if task := self._next_task(connection, job, role, store):
                    return self._start(connection, job, task, worker, lease, store)
        return None

    def heartbeat(self, claim: Claim, step: int, steps: int, lease: float) -> Heartbeat:
        """Tells that `step` of `steps` are done and holds the task for `lease` more seconds."""
        role = next(role for role, kinds in KINDS.items() if claim.task.kind in kinds)
        self._keep_alive(role, str(claim.task.worker), lease)
        with self._storage.writing() as connection:
            job = lock_job(connection, claim.job.id) if _ends_reading(claim, step) else None
            if self._update(
                connection, claim, step=step, steps=steps, lease_until=self._storage.clock() + lease
            ):
                if job is not None:
                    settle(connection, job)
                return Heartbeat.CONTINUE
            status = connection.scalar(sa.select(jobs.c.status).where(jobs.c.id == claim.task.job_id))
        return Heartbeat.LOST if status in UNFINISHED else Heartbeat.CANCELLED

    def commit(self, claim: Claim) -> bool:
        """Publishes the task's artifact, which must be stored by now; False if the claim was lost: drop the result.

        The video's commit completes the job. `commit_plan` commits a preparation. Raises StateError for a video some of
        whose segments are not done, and for a record that was not published.
        """
        with self._storage.writing() as connection:
            job = lock_job(connection, claim.task.job_id)
            if job is None or not self._finish(connection, claim):
                return False
            _check_whole(connection, job, claim.task)
            if claim.task.kind is Kind.STITCH:
                end_job(self._storage, connection, job, JobStatus.COMPLETED)
            else:
                settle(connection, job)
            return True

    def commit_plan(self, claim: Claim, plan: JobPlan) -> bool:
        """Commits a preparation: the job's segments and its stitching become tasks. False if the claim was lost.

        plan: with a record of keys and values; the form that is kept is chosen here. Raises ValueError, in a sentence
        for the client, where no node can hold it.
        """
        plan = choose_form(plan, self._storage.limits)
        seeds = dict.fromkeys(range(len(plan.timeline.segments)), plan.seed)
        names = segment_artifacts(claim.job.id, plan, seeds)
        rows: list[dict[str, Any]] = [
            _task_row(claim.job.id, Kind.SEGMENT, index, names[index], plan.steps, plan.seed)
            for index in seeds
        ]
        rows.append(_task_row(claim.job.id, Kind.STITCH, 0, video_artifact(claim.job.id, names), plan.frames))
        with self._storage.writing() as connection:
            job = lock_job(connection, claim.job.id)
            if job is None or not self._finish(connection, claim):
                return False
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(plan=asdict(plan)))
            connection.execute(tasks.insert(), rows)
            settle(connection, replace(job, plan=plan))
            return True

    def fail(self, claim: Claim, error: str, retry: bool, code: str = "generation_failed") -> bool:
        """Hands back a task that could not be done; False if the claim was lost.

        The job fails with the sentence `error` and the `code` if it is not to be retried, or has failed too often.
        """
        failures = claim.task.failures + 1
        last = not retry or failures >= self._storage.limits.failures
        with self._storage.writing() as connection:
            job = lock_job(connection, claim.task.job_id)
            state = TaskState.FAILED if last else TaskState.WAITING
            if job is None or not self._update(connection, claim, state, failures=failures, error=error):
                return False
            if last:
                end_job(self._storage, connection, job, JobStatus.FAILED, code, error)
            else:
                settle(connection, job)
            return True

    def release(self, claim: Claim) -> bool:
        """Hands back a task undone, for another worker; False if the claim was lost."""
        with self._storage.writing() as connection:
            job = lock_job(connection, claim.task.job_id)
            if job is None or not self._update(connection, claim, TaskState.WAITING, step=0):
                return False
            settle(connection, job)
            return True

    def publish_record_step(self, claim: Claim, steps: int) -> bool:
        """Tells that the first `steps` shared steps are in the claim's store; False if this record was given up.

        After False the segment itself may still be wanted (the next heartbeat says), but no longer its record.
        """
        with self._storage.writing() as connection:
            job = lock_job(connection, claim.task.job_id)
            if job is None or not claim.records or job.record_generation != claim.job.record_generation:
                return False
            if not self._update(connection, claim):
                return False
            job = change_job(connection, job, published_steps=steps)
            if job.recorded:
                settle(connection, job)
            return True

    def report_record_lost(self, job_id: str, generation: int) -> bool:
        """Gives up a record that cannot be read any more; False if that was known already.

        Bases that were to read it wait again, and the anchor's shared steps are computed once more, in a task of their
        own if the anchor was claimed before. The reporter then releases its own task. A loss counts as if the
        anchor's worker had fallen silent: after too many the job fails.
        """
        with self._storage.writing() as connection:
            job = lock_job(connection, job_id)
            if job is None or job.status not in UNFINISHED or job.record_generation != generation:
                return False
            job = drop_record(connection, job)
            if _count_loss(connection, job) >= self._storage.limits.expiries:
                end_job(self._storage, connection, job, JobStatus.FAILED, "record_lost", LOST)
            else:
                settle(connection, job)
            return True

    def load(self, role: Role) -> Load:
        """How much work there is for a role, and how many workers."""
        work = sa.select(sa.func.count()).select_from(tasks).where(tasks.c.kind.in_(KINDS[role]))
        with self._storage.reading() as connection:
            return Load(
                ready=connection.scalar(work.where(tasks.c.state == TaskState.READY)) or 0,
                running=connection.scalar(work.where(tasks.c.state == TaskState.RUNNING)) or 0,
                workers=self._replicas(connection, role),
            )

    def live_records(self, store: str) -> set[tuple[str, int]]:
        """The records (job_id, generation) in a store that are still needed; all others may be let go."""
        query = sa.select(jobs.c.id, jobs.c.record_generation).where(
            jobs.c.status == JobStatus.IN_PROGRESS, jobs.c.record_store == store, jobs.c.held_bytes > 0
        )
        with self._storage.reading() as connection:
            return {(row.id, row.record_generation) for row in connection.execute(query)}

    def _keep_alive(self, role: Role, worker: str, lease: float) -> None:
        """Notes that the worker is alive, if its last note runs out soon."""
        now = self._storage.clock()
        if self._alive.get(worker, 0.0) > now + ALIVE * lease:
            return
        with self._storage.writing() as connection:
            row = {"role": role, "alive_until": now + lease}
            if not connection.execute(workers.update().where(workers.c.name == worker).values(row)).rowcount:
                gone = sa.select(workers.c.name).where(workers.c.alive_until < now)
                gone = gone.with_for_update(skip_locked=True)  # others may be deleting them, in another order
                connection.execute(workers.delete().where(workers.c.name.in_(gone)))
                connection.execute(workers.insert().values(name=worker, **row))
        self._alive[worker] = now + lease

    def _take_back(self) -> None:
        """Makes tasks whose lease has ended claimable, or fails their job if that happened too often."""
        overdue = (tasks.c.state == TaskState.RUNNING) & (tasks.c.lease_until < self._storage.clock())
        with self._storage.reading() as connection:
            found = connection.scalars(sa.select(tasks.c.job_id).where(overdue).distinct()).all()
        for job_id in found:
            with self._storage.writing() as connection:
                if job := lock_job(connection, job_id):
                    self._expire(connection, job, overdue)

    def _expire(self, connection: sa.Connection, job: Job, overdue: sa.ColumnElement[bool]) -> None:
        for task in job_tasks(connection, job.id, overdue):
            last = task.expiries + 1 >= self._storage.limits.expiries
            state = TaskState.FAILED if last else TaskState.WAITING
            check_transition(task.state, state)
            values = {"state": state, "expiries": task.expiries + 1, "step": 0, "worker": None}
            if not connection.execute(
                tasks.update().where((tasks.c.id == task.id) & overdue).values(values)
            ).rowcount:
                continue  # its worker has sent a heartbeat meanwhile
            if last:
                message = (
                    f"{task.expiries + 1} workers fell silent at the same task ({task.kind} {task.index}); "
                    "look into their logs, then post the job again."
                )
                return end_job(self._storage, connection, job, JobStatus.FAILED, "worker_lost", message)
        return settle(connection, job)

    def _service_order(self, role: Role) -> list[str]:
        ready = tasks.c.state == TaskState.READY
        reads = ready & (tasks.c.kind == Kind.SEGMENT) & (tasks.c.index % 2 == 0) & (jobs.c.held_bytes > 0)
        readies, readers = (sa.func.sum(sa.case((which, 1), else_=0)) for which in (ready, reads))
        query = (
            sa.select(
                jobs.c.id,
                jobs.c.owner,
                jobs.c.created_at,
                jobs.c.served_at,
                readies,
                sa.func.count() - readies,
                readers,
            )
            .join(tasks, tasks.c.job_id == jobs.c.id)
            .where(tasks.c.state.in_((TaskState.READY, TaskState.RUNNING)), tasks.c.kind.in_(KINDS[role]))
            .group_by(jobs.c.id)
        )
        with self._storage.reading() as connection:
            shares = [schedule.Share(*row) for row in connection.execute(query)]
            return schedule.service_order(shares, self._replicas(connection, role))

    def _next_task(self, connection: sa.Connection, job: Job, role: Role, store: str) -> Task | None:
        kinds = tasks.c.kind.in_(KINDS[role])
        unstarted = job_tasks(
            connection, job.id, kinds & tasks.c.state.in_((TaskState.WAITING, TaskState.READY))
        )
        ready = [
            task
            for task in unstarted
            if task.state is TaskState.READY and self._admits(connection, job, task, store)
        ]
        if not ready:
            return None
        return schedule.next_task(job.plan, ready, len(unstarted), self._replicas(connection, role) or 1)

    def _replicas(self, connection: sa.Connection, role: Role) -> int:
        """How many of a role's workers were seen lately."""
        alive = (workers.c.role == role) & (workers.c.alive_until > self._storage.clock())
        return connection.scalar(sa.select(sa.func.count()).select_from(workers).where(alive)) or 0

    def _admits(self, connection: sa.Connection, job: Job, task: Task, store: str) -> bool:
        """Whether a store has room for the record that a task would make, if any."""
        if job.plan is None or not schedule.may_record(job, task) or job.recorded:
            return True
        self._storage.exclude(connection, ADMISSION)
        others = (jobs.c.id != job.id) & (jobs.c.record_store == store)
        held = connection.scalar(sa.select(sa.func.sum(jobs.c.held_bytes)).where(others))
        return has_room(job.plan.record_bytes, int(held or 0), self._storage.limits)

    def _start(
        self, connection: sa.Connection, job: Job, task: Task, worker: str, lease: float, store: str
    ) -> Claim:
        now = self._storage.clock()
        check_transition(task.state, TaskState.RUNNING)
        claimed = replace(
            task,
            state=TaskState.RUNNING,
            worker=worker,
            attempt=task.attempt + 1,
            lease_until=now + lease,
            step=0,
            started_at=now,
        )
        connection.execute(tasks.update().where(tasks.c.id == task.id).values(vars(claimed)))
        connection.execute(jobs.update().where(jobs.c.id == job.id).values(served_at=now))
        if job.status is JobStatus.QUEUED:
            job = change_job(connection, job, status=JobStatus.IN_PROGRESS, started_at=now)
        records = schedule.may_record(job, task) and not job.recorded
        if records and job.plan:
            held = {"held_bytes": job.plan.record_bytes, "record_store": store}
            job = drop_record(connection, job, recorder=task.id, **held)
        inputs = {}
        if job.plan and task.kind is Kind.SEGMENT and task.index % 2:
            given = tasks.c.index.in_(job.plan.timeline.dependencies(task.index)) & (
                tasks.c.kind == Kind.SEGMENT
            )
            inputs = {base.index: base.artifact for base in job_tasks(connection, job.id, given)}
        return Claim(claimed, job, inputs, records)

    def _update(
        self, connection: sa.Connection, claim: Claim, state: TaskState = TaskState.RUNNING, **values: Any
    ) -> bool:
        """Changes the claimed task, if it is still this claim's."""
        if state is not TaskState.RUNNING:
            check_transition(TaskState.RUNNING, state)
        held = sa.and_(
            tasks.c.id == claim.task.id,
            tasks.c.state == TaskState.RUNNING,
            tasks.c.attempt == claim.task.attempt,
        )
        return bool(connection.execute(tasks.update().where(held).values(state=state, **values)).rowcount)

    def _finish(self, connection: sa.Connection, claim: Claim, **values: Any) -> bool:
        finished = {"step": tasks.c.steps, "finished_at": self._storage.clock(), "error": None}
        return self._update(connection, claim, TaskState.DONE, **finished, **values)


def _task_row(
    job_id: str, kind: Kind, index: int, artifact: str, steps: int, seed: int = 0
) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "kind": kind,
        "index": index,
        "state": TaskState.WAITING,
        "artifact": artifact,
        "seed": seed,
        "steps": steps,
    }


def _ends_reading(claim: Claim, step: int) -> bool:
    """Whether a base segment has just done the last step in which it reads the anchor's record, or writes it."""
    plan, task = claim.job.plan, claim.task
    is_base = task.kind is Kind.SEGMENT and task.index % 2 == 0
    return plan is not None and plan.shares and is_base and step == plan.shared_steps


def _count_loss(connection: sa.Connection, job: Job) -> int:
    """Counts one more loss of the record against the anchor's segment; returns how much there is against it."""
    assert job.plan is not None  # else there was no record
    anchor = (tasks.c.job_id == job.id) & (tasks.c.kind == Kind.SEGMENT) & (tasks.c.index == job.plan.anchor)
    connection.execute(tasks.update().where(anchor).values(expiries=tasks.c.expiries + 1))
    return connection.scalar(sa.select(tasks.c.expiries).where(anchor)) or 0


def _check_whole(connection: sa.Connection, job: Job, task: Task) -> None:
    """Raises StateError for an incomplete result: the worker has a fault, and trying again will not help."""
    if task.kind is Kind.RECORD and task.id == job.recorder and not job.recorded:
        raise StateError(f"the record of {job.id} was handed in before all its steps were published")
    undone = (tasks.c.kind == Kind.SEGMENT) & (tasks.c.state != TaskState.DONE)
    if task.kind is Kind.STITCH and job_tasks(connection, job.id, undone):
        raise StateError(f"the video of {job.id} was handed in before all its segments were done")
