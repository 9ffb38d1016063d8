"""Makespan of several long videos whose anchors' records hardly fit: 8 simulated generators on 2 nodes.

    python benchmarks/admission.py

Full-body videos of 720p and the 14B model, the authors' plan of segments, 25 steps, 4 of them shared: a record takes
104 GB as keys and values and 52 GB as the attention's input. 1 to 16 jobs of 10 to 60 s come at once to nodes that
hold 64 to 1024 GiB of records; every step takes one unit of time. The last line is a JSON object:
`makespan_over_bound` is the largest of all cases, `held_over_limit` the most that a node held over what it may hold.
Exits with 1 where the first is over 1.1 or the second over 1.

The bound holds for every schedule in which a generator makes one segment at a time without a break, and a record of R
bytes is held from the start of its anchor until its last reader has done its shared steps. With S steps, k of them
shared, P generators, N nodes of C bytes each and J jobs of n segments, b of them bases:

- P generators end at most P floor(T / S) segments by time T, so T >= S ceil(J n / P).
- Beside each base lies a bridge, so all bases are done at T - S: T >= S + S ceil(J b / P).
- A reader starts k after its anchor at the earliest, so each record is held for 2 k; a node holds floor(C / R) at once,
  so the last one is let go at 2 k ceil(J / (N floor(C / R))) or later. Its reader then takes S - k more, and the bridge
  beside it S.
"""

from __future__ import annotations

import heapq
import json
import math
import sys
from dataclasses import dataclass, field, replace

from benchmarks.cards import SHAPE
from benchmarks.schedule import STEPS, job_plan
from posegen.costs import model_dim, tokens
from posegen.sharing import SharedRange
from serving.state.admission import choose_form, has_room
from serving.state.rows import JobPlan, QueueLimits
from serving.state.schedule import Share, next_segment, runnable, service_order

NODES, GENERATORS = 2, 8
FRAMING, FRAMES, HEIGHT, WIDTH = "full-body", 81, 720, 1280
SECONDS = (10, 15, 20, 30, 60)
JOBS = (1, 2, 3, 4, 6, 8, 16)
NODE_GIB = (64, 128, 256, 1024)
ALLOWED = 1.1


def main() -> None:
    shared = SharedRange.of(FRAMING, STEPS, SHAPE["num_layers"])
    count = sum(tokens(SHAPE, FRAMES, HEIGHT, WIDTH))
    record_bytes = shared.nbytes(count, model_dim(SHAPE))
    worst = fullest = 0.0
    print("makespan in steps / bound, of " + ", ".join(map(str, JOBS)) + " jobs")
    for gib in NODE_GIB:
        limits = QueueLimits(record_bytes=gib * 2**30)
        for seconds in SECONDS:
            plan = replace(job_plan(seconds, shared.steps.stop), record_bytes=record_bytes)
            plan, row = choose_form(plan, limits), []
            for jobs in JOBS:
                makespan, held = simulate([plan] * jobs, limits)
                bound = least_makespan(plan, jobs, limits)
                worst, fullest = max(worst, makespan / bound), max(fullest, held / limits.node_bytes)
                row.append(f"{makespan} / {bound}")
            print(f"{gib:4} GiB a node, {plan.record_form}, {seconds} s: {', '.join(row)}")
    print(json.dumps({"makespan_over_bound": round(worst, 4), "held_over_limit": round(fullest, 4)}))
    sys.exit(worst > ALLOWED or fullest > 1)


@dataclass
class Made:
    """A job while it is made.

    unread: base segments that have not done their shared steps. node: of the record. served: the last turn.
    """

    number: int
    plan: JobPlan
    waiting: set[int] = field(default_factory=set)
    unread: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    running: int = 0
    node: int | None = None
    recorded: bool = False
    served: int = 0

    def __post_init__(self) -> None:
        self.waiting = {segment.index for segment in self.plan.timeline.segments}
        self.unread = {index for index in self.waiting if index % 2 == 0}

    def ready(self, room: bool) -> set[int]:
        """The segments that a generator may begin, the anchor only where there is room for the record."""
        found = {i for i in self.waiting if runnable(self.plan, i, self.done, self.recorded)}
        return found if room or not self.plan.shares else found - {self.plan.anchor}

    def share(self, ready: set[int]) -> Share:
        """What fairness looks at; all jobs are one owner's."""
        readers = sum(index % 2 == 0 for index in ready) if self.recorded else 0
        return Share(
            str(self.number), "one", self.number, self.served, len(ready), self.running, readers=readers
        )


def simulate(plans: list[JobPlan], limits: QueueLimits) -> tuple[int, int]:
    """When all segments of all jobs are done, in steps, and the most bytes of records that a node held."""
    jobs = [Made(number, plan) for number, plan in enumerate(plans)]
    idle = set(range(GENERATORS))
    events: list[tuple[int, str, int, int, int]] = []  # (time, what, generator, job, segment)
    now = turn = most = 0
    while any(job.waiting or job.running for job in jobs):
        for generator in sorted(idle):
            if (begun := _begin(jobs, generator % NODES, limits)) is None:
                continue
            job, index = begun
            idle.remove(generator)
            job.served = turn = turn + 1
            if index % 2 == 0:
                heapq.heappush(events, (now + job.plan.shared_steps, "read", generator, job.number, index))
            heapq.heappush(events, (now + job.plan.steps, "segment", generator, job.number, index))
        most = max([most, *(_held(jobs, node) for node in range(NODES))])
        now = events[0][0]
        while events and events[0][0] == now:
            _, what, generator, number, index = heapq.heappop(events)
            if what == "segment":
                jobs[number].done.add(index)
                jobs[number].running -= 1
                idle.add(generator)
            else:  # the anchor's own steps are read as they are written
                jobs[number].unread.remove(index)
                jobs[number].recorded = True
    return now, most


def _begin(jobs: list[Made], node: int, limits: QueueLimits) -> tuple[Made, int] | None:
    """The segment that a generator of a node begins now, if any."""
    held = _held(jobs, node)
    ready = [job.ready(has_room(job.plan.record_bytes, held, limits)) for job in jobs]
    order = service_order([job.share(found) for job, found in zip(jobs, ready, strict=True)], GENERATORS)
    if not order:
        return None
    job = jobs[int(order[0])]
    index = next_segment(job.plan, ready[job.number], len(job.waiting), GENERATORS)
    job.waiting.remove(index)
    job.running += 1
    if index == job.plan.anchor:
        job.node = node
    return job, index


def _held(jobs: list[Made], node: int) -> int:
    """Bytes of the records that a node holds."""
    return sum(job.plan.record_bytes for job in jobs if job.node == node and job.unread)


def least_makespan(plan: JobPlan, jobs: int, limits: QueueLimits) -> int:
    """The time before which no schedule can end, in steps; proved at the head of this file."""
    segments = len(plan.timeline.segments)
    busy = STEPS * math.ceil(jobs * segments / GENERATORS)
    bases = STEPS + STEPS * math.ceil(jobs * (segments - plan.timeline.bridges) / GENERATORS)
    rounds = math.ceil(jobs / (NODES * (limits.node_bytes // plan.record_bytes)))
    memory = 2 * rounds * plan.shared_steps + 2 * STEPS - plan.shared_steps
    return max(busy, bases, memory)


if __name__ == "__main__":
    main()
