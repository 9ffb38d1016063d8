"""The states of jobs and tasks and every legal change of one into another; any other raises.

task: waiting -> ready -> running -> done         (back to waiting or ready: handed back, timed out, made anew)
job:  queued -> in_progress -> completed          (back to in_progress: a segment is made anew)
"""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """waiting: for other tasks. ready: may be claimed. running: a worker holds its lease."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobStatus(StrEnum):
    """What a client sees; a cancelled job is failed with the code `cancelled`."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


State = TaskState | JobStatus

TRANSITIONS: dict[State, frozenset[State]] = {
    TaskState.WAITING: frozenset({TaskState.READY, TaskState.CANCELLED}),
    TaskState.READY: frozenset({TaskState.RUNNING, TaskState.WAITING, TaskState.CANCELLED}),
    TaskState.RUNNING: frozenset(
        {TaskState.DONE, TaskState.FAILED, TaskState.READY, TaskState.WAITING, TaskState.CANCELLED}
    ),
    TaskState.DONE: frozenset({TaskState.WAITING}),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
    JobStatus.QUEUED: frozenset({JobStatus.IN_PROGRESS, JobStatus.FAILED}),
    JobStatus.IN_PROGRESS: frozenset({JobStatus.COMPLETED, JobStatus.FAILED}),
    JobStatus.COMPLETED: frozenset({JobStatus.IN_PROGRESS}),
    JobStatus.FAILED: frozenset(),
}


class IllegalTransition(RuntimeError):  # noqa: N818 - a fault of the program, not of its input
    """A state change that is not allowed."""


def check_transition(old: State, new: State) -> None:
    """Raises IllegalTransition unless `old` may become `new`."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"a {type(old).__name__} of {old.value} may not become {new.value}")


def sources(new: State) -> list[State]:
    """The states that may become `new`."""
    return [old for old, targets in TRANSITIONS.items() if new in targets]
