"""What workers tell while they work, each for itself: Ray collects it, and Prometheus reads it (with `ray_` before each
name and `_total` behind a counter's). The queue, which is the same for all, is told by the endpoint.
"""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge, Histogram

from serving.state.rows import Claim, JobPlan
from serving.work.loop import Beat, Dropped, HandedBack, Work

TASKS = Counter("posegen_tasks_ended", "Tasks by how a worker's attempt ended.", ("kind", "result"))
TASK_SECONDS = Histogram(
    "posegen_task_seconds",
    "Seconds of the attempts that succeeded.",
    [1, 3, 10, 30, 100, 300, 1000],
    ("kind",),
)
STEP_SECONDS = Histogram(
    "posegen_step_seconds", "Seconds between two steps of a task.", [0.1, 0.3, 1, 3, 10, 30, 100], ("kind",)
)
RECORD_BYTES = Gauge("posegen_record_bytes", "Bytes of anchors' records that this node's store holds.")


def measured(work: Work) -> Work:
    """The same work, whose tasks and steps are counted."""

    def perform(claim: Claim, beat: Beat) -> JobPlan | None:
        kind = {"kind": str(claim.task.kind)}
        result, began = "failed", time.monotonic()
        stepped = began

        def step_done(done: int, steps: int) -> None:
            nonlocal stepped
            if 0 < done < steps:
                STEP_SECONDS.observe(time.monotonic() - stepped, kind)
            stepped = time.monotonic()
            beat(done, steps)

        try:
            plan = work(claim, step_done)
            TASK_SECONDS.observe(time.monotonic() - began, kind)
            result = "done"
        except (Dropped, HandedBack):
            result = "handed back"
            raise
        finally:
            TASKS.inc(tags=kind | {"result": result})
        return plan

    return perform
