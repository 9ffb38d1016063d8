"""How near the schedule comes to the shortest possible one, on simulated replicas and real ones, and what it costs.

    python benchmarks/schedule.py [--no-mini]

Videos of 10 s to 10 min at 30 frames/s, the authors' plan of 81 frames with 21 and 20 given ones, 25 steps, 1 or 4 of
them shared, 1 to 64 replicas; every step takes one unit of time on each. The last line is a JSON object:
`makespan_over_bound` is the largest of all cases; `authors_over_ours` the largest, `.._mean` the mean time of the
authors' order (the anchor to its end, then all bases, then all bridges) over ours; `overhead_ms` what claiming, one
heartbeat a step and committing of a segment takes on SQLite. Exits with 1 where a simulated makespan is over 1.05
times the bound.

Then a video of the mini model on a real server with one replica, and with two (one thread each; some five minutes):
`mini_speedup` is the first's time over the second's, `mini_speedup_bound` the same of their bounds, `mini_over_bound_1`
and `_2` each one's time over its bound in seconds, a step of which is taken as its share of the mean segment's time.

The bound holds for every schedule in which a replica makes one segment at a time, of S steps, without a break. Nothing
but the anchor can start before its k shared steps are there, that is before time k, so a replica that does not make
the anchor ends floor((T - k) / S) segments by time T at most, and the one that makes it floor(T / S). All n segments
are done by T only if (P - 1) floor((T - k) / S) + floor(T / S) >= n for P replicas. And where there is a bridge, the
base beside it that is not the anchor starts at k at the earliest, so T >= k + 2 S. The bound is the least such T.
"""

from __future__ import annotations

import heapq
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from posegen.longvideo.segments import plan
from serving.state.database import Database
from serving.state.rows import Claim, JobPlan, NewJob, Role, new_job_id
from serving.state.schedule import next_segment, runnable

SECONDS = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600)
REPLICAS = range(1, 65)
SHARED_STEPS = (1, 4)
SHOWN = (1, 2, 4, 8, 16, 32, 64)
STEPS = 25
ALLOWED = 1.05


def main(mini: bool = True) -> None:
    """Simulates all cases, measures the database and real replicas, prints all.

    Args:
        mini: Whether to make videos of the mini model on real replicas.
    """
    found = simulated()
    if mini:
        found |= real()
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    sys.exit(found["makespan_over_bound"] > ALLOWED)


def simulated() -> dict[str, float]:
    """The figures of all simulated cases, and of the database."""
    worst, gains = 0.0, []
    print("makespan in steps: bound / ours / authors' order, first 10 s of video (4 shared steps)")
    for seconds in SECONDS:
        for shared_steps in SHARED_STEPS:
            job = job_plan(seconds, shared_steps)
            for replicas in REPLICAS:
                ours, beginning = simulate(job, replicas)
                bound, authors = least_makespan(job, replicas), authors_makespan(job, replicas)
                worst = max(worst, ours / bound)
                gains.append(authors / ours)
                if shared_steps == SHARED_STEPS[-1] and replicas in SHOWN:
                    print(
                        f"{seconds:4d} s, {len(job.timeline.segments):3d} segments, {replicas:2d} replicas: "
                        f"{bound:5d} / {ours:5d} / {authors:5d}, {beginning:5d}"
                    )
    costs = database_costs(job_plan(SECONDS[-1], SHARED_STEPS[-1]))
    print(f"database, a job of {SECONDS[-1]} s: {', '.join(f'{k} {v:.2f} ms' for k, v in costs.items())}")
    overhead = costs["claim"] + STEPS * costs["heartbeat"] + costs["commit"]
    return {
        "makespan_over_bound": worst,
        "authors_over_ours": max(gains),
        "authors_over_ours_mean": sum(gains) / len(gains),
        "overhead_ms": overhead,
    }


def real() -> dict[str, float]:
    """The figures of the mini model on one replica and on two."""
    from benchmarks.replicas import run  # starts servers; who only simulates needs none of that

    one, two = runs = run(1), run(2)
    print(f"mini model, {len(one.plan.timeline.segments)} segments of {one.plan.steps} steps:")
    bounds = [least_makespan(made.plan, made.replicas) for made in runs]
    over = []
    for made, bound in zip(runs, bounds, strict=True):
        seconds = bound * made.segment_seconds / made.plan.steps
        over.append(made.seconds / seconds)
        pace = f"{made.segment_seconds:.2f} s a segment"
        print(f"{made.replicas} replicas: {made.seconds:.1f} s, {pace}, bound {seconds:.1f} s")
    same = all(np.array_equal(frames, two.frames[index]) for index, frames in one.frames.items())
    print("the frames are " + ("the same" if same else "NOT the same"))
    return {
        "mini_speedup": one.seconds / two.seconds,
        "mini_speedup_bound": bounds[0] / bounds[1],
        "mini_over_bound_1": over[0],
        "mini_over_bound_2": over[1],
        "mini_same_frames": float(same),
    }


def job_plan(seconds: float, shared_steps: int) -> JobPlan:
    """The plan of a video at 30 frames/s."""
    line = plan(round(30 * seconds), planner="published")
    return JobPlan(
        line.frames,
        line.segment_frames,
        line.head,
        line.tail,
        line.anchor,
        STEPS,
        0,
        shared_steps,
        0,
        "bench",
    )


def simulate(job: JobPlan, replicas: int) -> tuple[int, int]:
    """When all segments are done, and when those of the first 10 s (or of all, if shorter) are, in steps."""
    waiting = {segment.index for segment in job.timeline.segments}
    beginning = {segment.index for segment in job.timeline.segments if segment.start < 300}
    done: set[int] = set()
    begun = now = 0
    recorded, idle = not job.shares, replicas
    events: list[tuple[int, int]] = []  # (time, segment that is done; -1: the record is there)
    while len(done) < len(job.timeline.segments):
        ready = {index for index in waiting if runnable(job, index, done, recorded)}
        while ready and idle:
            index = next_segment(job, ready, len(waiting), replicas)
            ready.remove(index)
            waiting.remove(index)
            idle -= 1
            heapq.heappush(events, (now + job.steps, index))
            if index == job.anchor and job.shares:
                heapq.heappush(events, (now + job.shared_steps, -1))
        now = events[0][0]
        while events and events[0][0] == now:
            _, index = heapq.heappop(events)
            if index < 0:
                recorded = True
            else:
                done.add(index)
                idle += 1
        begun = begun or (now if beginning <= done else 0)
    return now, begun


def least_makespan(job: JobPlan, replicas: int) -> int:
    """The time before which no schedule can end, in steps; proved at the head of this file."""
    segments = len(job.timeline.segments)
    shared_steps = job.shared_steps if job.shares else 0
    makespan = shared_steps + 2 * job.steps if segments > 1 else job.steps
    while (replicas - 1) * ((makespan - shared_steps) // job.steps) + makespan // job.steps < segments:
        makespan += 1
    return makespan


def authors_makespan(job: JobPlan, replicas: int) -> int:
    """The anchor alone, all other bases, all bridges, each when all before is done, in steps."""
    return job.steps * (1 + 2 * math.ceil(job.timeline.bridges / replicas))


def database_costs(job: JobPlan) -> dict[str, float]:
    """Milliseconds of each call of one worker that makes all segments of a job, the mean of each, on SQLite."""
    spent = {"claim": 0.0, "heartbeat": 0.0, "commit": 0.0}
    segments = len(job.timeline.segments)
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'bench.db'}")
        database.jobs.create(NewJob(new_job_id(), "bench", {}))
        preparation = database.queue.claim(Role.PREPARE, "preparer", lease=60)
        assert preparation is not None
        database.queue.commit_plan(preparation, job)
        for _ in range(segments):
            begin = time.perf_counter()
            claim = database.queue.claim(Role.GENERATE, "generator", lease=60)
            claimed = time.perf_counter()
            assert claim is not None
            publish(database, claim)
            published = time.perf_counter()
            database.queue.heartbeat(claim, 1, STEPS, lease=60)
            beaten = time.perf_counter()
            database.queue.commit(claim)
            spent["claim"] += claimed - begin
            spent["heartbeat"] += beaten - published
            spent["commit"] += time.perf_counter() - beaten
        database.close()
    return {name: 1000 * seconds / segments for name, seconds in spent.items()}


def publish(database: Database, claim: Claim) -> None:
    """Tells of the shared steps, if the claim is the anchor's."""
    if claim.records and claim.job.plan:
        database.queue.publish_record_step(claim, claim.job.plan.shared_steps)


if __name__ == "__main__":
    tyro.cli(main)
