"""When a job will be done: pure functions of its tasks, from the step times that were measured on them."""

from __future__ import annotations

from collections.abc import Sequence

from serving.state.rows import Job, Kind, Task
from serving.state.transitions import TaskState


def seconds_per_step(tasks: Sequence[Task], now: float) -> float | None:
    """The mean time of a denoising step of these tasks; None before the first step is done."""
    segments = [task for task in tasks if task.kind is Kind.SEGMENT]
    spent, steps = 0.0, 0
    for task in segments:
        if task.started_at is None or task.state not in (TaskState.RUNNING, TaskState.DONE) or not task.step:
            continue
        spent += (task.finished_at or now) - task.started_at
        steps += task.step
    return spent / steps if steps else None


def steps_left(job: Job, tasks: Sequence[Task], replicas: int) -> int:
    """How many steps from now the last segment is done, if this job has so many replicas: at best, and about.

    At least the longest chain of segments that wait for each other, and the work shared out evenly.
    """
    left = {
        task.index: 0 if task.state is TaskState.DONE else task.steps - task.step
        for task in tasks
        if task.kind is Kind.SEGMENT
    }
    if job.plan is None or not left:
        return 0
    record = 0 if job.recorded else job.plan.shared_steps - job.published_steps
    chains = []
    for index, steps in left.items():
        bases = [base for base in ((index - 1, index + 1) if index % 2 else (index,)) if left[base]]
        waits = record if any(base != job.plan.anchor for base in bases) else 0
        bridge = steps if index % 2 else 0
        chains.append(waits + max((left[base] for base in bases), default=0) + bridge)
    return max(max(chains), -(-sum(left.values()) // max(1, replicas)))


def seconds_left(job: Job, tasks: Sequence[Task], replicas: int, now: float) -> float | None:
    """About how many seconds until the last segment is done; None before a step of the job was measured."""
    step = seconds_per_step(tasks, now)
    return None if step is None else step * steps_left(job, tasks, replicas)
