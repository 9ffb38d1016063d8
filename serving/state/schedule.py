"""Which task comes next: pure functions of posegen's segment graph, without a clock, a database or Ray.

The anchor first. As long as there is more work than three rounds of all replicas, segments come in the
order in which they finish the video's frames (`Plan.order`), so that its beginning can be watched. After that base
segments come before bridges, because a bridge that is started late delays nothing else. Replicas are shared among
owners first, then among an owner's jobs: the one with fewest running tasks is next, and of equals the one that waited
longest. Only a job whose last readers of its anchor's record can all be started goes before: the record is let go once
they have read it, which makes room for another job's.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from serving.state.rows import Job, JobPlan, Kind, Task
from serving.state.transitions import TaskState

ROUNDS = 3
"""Rounds of work before the end from which bases go before bridges.

With steps of one length 2 rounds still meet the lower bound of benchmarks/schedule.py and 1 is up to 33 % over it; the
third is for replicas that are not equally fast.
"""


def depends_on(plan: JobPlan, index: int) -> tuple[int, ...]:
    """The segments whose result a segment's frames depend on; without sharing a base depends on none."""
    return plan.timeline.dependencies(index) if index % 2 or plan.shares else ()


def affected(plan: JobPlan, index: int) -> set[int]:
    """A segment and all that change with it: a bridge alone, a base with its bridges, the anchor with all.

    All, because the other bases take their background from the anchor, if the job shares it.
    """
    if plan.shares and index == plan.anchor:
        return {segment.index for segment in plan.timeline.segments}
    beside = {index - 1, index + 1} & set(range(len(plan.timeline.segments)))
    return {index} if index % 2 else {index} | beside


def runnable(plan: JobPlan, index: int, done: Collection[int], recorded: bool) -> bool:
    """Whether a segment can be generated: a bridge when both neighbours are done, a base when the record is there."""
    if index % 2:
        return all(base in done for base in plan.timeline.dependencies(index))
    return index == plan.anchor or not plan.shares or recorded


def next_segment(plan: JobPlan, ready: Collection[int], unstarted: int, replicas: int) -> int:
    """Which of the ready segments to generate next, when `unstarted` are and these many replicas work."""
    if plan.anchor in ready:
        return plan.anchor
    if unstarted > ROUNDS * replicas:
        places = _places(plan)
        return min(ready, key=lambda index: places[index])
    return min(ready, key=lambda index: (index % 2, index))


@functools.lru_cache(maxsize=64)
def _places(plan: JobPlan) -> dict[int, int]:
    return {index: place for place, index in enumerate(plan.timeline.order())}


def next_task(plan: JobPlan | None, ready: Sequence[Task], unstarted: int, replicas: int) -> Task:
    """Which of a job's ready tasks comes next. A lost record comes first: base segments wait for it."""
    segments = {task.index: task for task in ready if task.kind is Kind.SEGMENT}
    others = [task for task in ready if task.kind is not Kind.SEGMENT]
    if others or plan is None:
        return others[0]
    return segments[next_segment(plan, segments, unstarted, replicas)]


@dataclass(frozen=True)
class Share:
    """What fairness looks at: a job's ready and running tasks of one role, and when one was last claimed.

    readers: how many of the ready ones read an anchor's record.
    """

    job_id: str
    owner: str
    created_at: float
    served_at: float
    ready: int
    running: int
    readers: int = 0


def service_order(shares: Iterable[Share], replicas: int) -> list[str]:
    """The jobs with ready tasks, the one to be served first first, when these many replicas work."""
    shares = list(shares)
    running: Counter[str] = Counter()
    served: dict[str, float] = {}
    for share in shares:
        running[share.owner] += share.running
        served[share.owner] = max(share.served_at, served.get(share.owner, 0.0))
    waiting = [share for share in shares if share.ready]
    waiting.sort(
        key=lambda share: (
            running[share.owner],
            served[share.owner],
            share.readers if 0 < share.readers <= replicas else math.inf,
            share.running,
            share.served_at,
            share.created_at,
        )
    )
    return [share.job_id for share in waiting]


def queue_order(queued: Iterable[tuple[str, str]]) -> list[str]:
    """Jobs that have not begun, in the order in which they will, from (job_id, owner) in the order of their creation.

    Owners take turns.
    """
    before: Counter[str] = Counter()
    turns = []
    for job_id, owner in queued:
        turns.append((before[owner], job_id))
        before[owner] += 1
    return [job_id for _, job_id in sorted(turns, key=lambda turn: turn[0])]


@dataclass(frozen=True)
class Settlement:
    """What follows from a change: ids of tasks that become ready, that wait again and that nobody needs any more.

    make_record: whether a task must record the anchor once more. read: whether the record has been read by all.
    """

    ready: frozenset[int]
    waiting: frozenset[int]
    needless: frozenset[int]
    make_record: bool
    read: bool


def settle(job: Job, tasks: Sequence[Task]) -> Settlement:
    """What the states of a job's tasks should be, given what is done and recorded."""
    segments = [task for task in tasks if task.kind is Kind.SEGMENT]
    done = {task.index for task in segments if task.state is TaskState.DONE}
    read = job.plan is None or all(_has_read(job.plan, task) for task in segments if task.index % 2 == 0)
    idle = [task for task in tasks if task.state in (TaskState.WAITING, TaskState.READY)]
    needless = {task.id for task in idle if task.kind is Kind.RECORD and read}
    due = {task.id for task in idle if _due(job, task, done)} - needless
    return Settlement(
        ready=frozenset(task.id for task in idle if task.id in due and task.state is TaskState.WAITING),
        waiting=frozenset(
            task.id for task in idle if task.id not in due | needless and task.state is TaskState.READY
        ),
        needless=frozenset(needless),
        make_record=not job.recorded and not read and not _will_record(job, tasks),
        read=read,
    )


def _has_read(plan: JobPlan, base: Task) -> bool:
    """Whether a base segment is past the steps in which it reads the anchor's record."""
    return base.state is TaskState.DONE or (
        base.state is TaskState.RUNNING and base.step >= plan.shared_steps > 0
    )


def _due(job: Job, task: Task, done: Collection[int]) -> bool:
    if job.plan is None or task.kind in (Kind.PREPARE, Kind.RECORD):
        return True
    if task.kind is Kind.STITCH:
        return 0 in done  # before, there is nothing to write
    return runnable(job.plan, task.index, done, job.recorded)


def _will_record(job: Job, tasks: Sequence[Task]) -> bool:
    """Whether a task records the anchor now, or will once it is claimed."""
    return any(
        task.state in (TaskState.WAITING, TaskState.READY)
        or (task.state is TaskState.RUNNING and task.id == job.recorder)
        for task in tasks
        if may_record(job, task)
    )


def may_record(job: Job, task: Task) -> bool:
    """Whether a task is the anchor of a job that shares, or takes its place."""
    if job.plan is None or not job.plan.shares:
        return False
    return task.kind is Kind.RECORD or (task.kind is Kind.SEGMENT and task.index == job.plan.anchor)
