"""Which task comes next, by pure functions; the benchmark's simulation and its lower bound."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from serving.state.rows import JobPlan
from serving.state.schedule import (
    Share,
    affected,
    depends_on,
    next_segment,
    queue_order,
    runnable,
    service_order,
)
from testkit import ROOT
from testkit.jobs import job_plan

BENCHMARK: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/schedule.py"))
simulate: Callable[[JobPlan, int], tuple[int, int]] = BENCHMARK["simulate"]
least_makespan: Callable[[JobPlan, int], int] = BENCHMARK["least_makespan"]
authors_makespan: Callable[[JobPlan, int], int] = BENCHMARK["authors_makespan"]


def share(
    job_id: str, owner: str, running: int = 0, served_at: float = 0.0, ready: int = 1, readers: int = 0
) -> Share:
    """A job created at the time that its name ends in."""
    return Share(job_id, owner, float(job_id[-1]), served_at, ready, running, readers)


@pytest.mark.parametrize("shared_steps", [0, 2])
def test_bases_wait_for_the_record_only(shared_steps: int) -> None:
    plan = job_plan(shared_steps=shared_steps)
    first = {index for index in range(5) if runnable(plan, index, done=set(), recorded=not plan.shares)}
    assert first == ({0} if shared_steps else {0, 2, 4})
    assert {index for index in range(5) if runnable(plan, index, set(), recorded=True)} == {0, 2, 4}


def test_a_bridge_waits_for_both_neighbours() -> None:
    plan = job_plan()
    assert not runnable(plan, 1, done={0}, recorded=True)
    assert not runnable(plan, 1, done={2}, recorded=True)
    assert runnable(plan, 1, done={0, 2}, recorded=True)


def test_a_plan_of_one_segment_shares_nothing() -> None:
    plan = job_plan(frames=80)
    assert not plan.shares
    assert runnable(plan, 0, set(), recorded=False)


def test_the_anchor_comes_first() -> None:
    assert next_segment(job_plan(anchor=2), {0, 2, 4}, unstarted=5, replicas=1) == 2


def test_segments_finish_the_video_from_its_beginning_while_there_is_much_work() -> None:
    plan = job_plan(frames=3000)
    assert next_segment(plan, {1, 4, 6}, unstarted=48, replicas=4) == 1
    assert next_segment(plan, {4, 6, 7}, unstarted=48, replicas=4) == 4


def test_bases_come_first_near_the_end() -> None:
    assert next_segment(job_plan(frames=3000), {1, 4, 6}, unstarted=12, replicas=4) == 4


@pytest.mark.parametrize(("index", "changed"), [(0, {0, 1, 2, 3, 4}), (2, {1, 2, 3}), (3, {3}), (4, {3, 4})])
def test_what_changes_with_a_segment(index: int, changed: set[int]) -> None:
    assert affected(job_plan(), index) == changed


def test_without_sharing_the_anchor_is_a_base_like_others() -> None:
    plan = job_plan(shared_steps=0)
    assert affected(plan, 0) == {0, 1}
    assert depends_on(plan, 2) == ()
    assert depends_on(plan, 3) == (2, 4)


@pytest.mark.parametrize("shared_steps", [0, 2])
@pytest.mark.parametrize("anchor", [0, 4])
def test_what_changes_is_what_depends(shared_steps: int, anchor: int) -> None:
    plan = job_plan(frames=1000, shared_steps=shared_steps, anchor=anchor)
    for index in range(len(plan.timeline.segments)):
        changed = {index}
        for other in plan.timeline.order():
            if changed.intersection(depends_on(plan, other)):
                changed.add(other)
        assert affected(plan, index) == changed


def test_owners_share_alike_however_many_jobs_each_has() -> None:
    shares = [share("a1", "ann", running=2), share("a2", "ann"), share("b3", "bob", running=1)]
    assert service_order(shares, replicas=8) == ["b3", "a2", "a1"]


def test_who_was_served_longest_ago_comes_first_among_equals() -> None:
    assert service_order([share("a1", "ann", served_at=5), share("b2", "bob", served_at=4)], replicas=8) == [
        "b2",
        "a1",
    ]
    assert service_order([share("a1", "ann", served_at=5), share("a2", "ann", served_at=4)], replicas=8) == [
        "a2",
        "a1",
    ]


def test_a_job_without_ready_tasks_is_not_served_but_counts() -> None:
    shares = [share("a1", "ann", running=3, ready=0), share("a2", "ann"), share("b3", "bob", running=1)]
    assert service_order(shares, replicas=8) == ["b3", "a2"]


def test_the_last_readers_of_a_record_go_before_an_owners_other_jobs() -> None:
    """Only the last: those of a long video would keep short ones waiting, and other owners' jobs wait for none."""
    shares = [
        share("a1", "ann"),
        share("a2", "ann", running=1, ready=3, readers=3),
        share("a3", "ann", running=2, ready=2, readers=2),
        share("a4", "ann", running=3, ready=9, readers=9),
        share("b5", "bob"),
    ]
    assert service_order(shares, replicas=8) == ["b5", "a3", "a2", "a1", "a4"]


def test_owners_take_turns_in_the_queue() -> None:
    assert queue_order([("a1", "ann"), ("a2", "ann"), ("a3", "ann"), ("b4", "bob")]) == [
        "a1",
        "b4",
        "a2",
        "a3",
    ]


@pytest.mark.parametrize("frames", [80, 300, 900, 3600])
@pytest.mark.parametrize("replicas", [1, 2, 3, 7, 16, 64])
@pytest.mark.parametrize("shared_steps", [0, 2])
def test_the_makespan_is_the_least_possible(frames: int, replicas: int, shared_steps: int) -> None:
    plan = job_plan(frames, shared_steps)
    assert simulate(plan, replicas)[0] == least_makespan(plan, replicas) <= authors_makespan(plan, replicas)


@pytest.mark.parametrize("frames", [80, 200, 300])
@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("shared_steps", [1, 4])
def test_the_bound_is_what_a_search_of_all_schedules_finds(
    frames: int, replicas: int, shared_steps: int
) -> None:
    plan = job_plan(frames, shared_steps)
    assert least_makespan(plan, replicas) == best_of_all(plan, replicas)


def best_of_all(plan: JobPlan, replicas: int) -> int:
    """The least makespan of all schedules in which something starts only at time 0 or when something else ends."""
    segments = range(len(plan.timeline.segments))

    @cache
    def time_left(waiting: frozenset[int], running: tuple[tuple[int, int], ...], record_in: int) -> int:
        """record_in: steps until the record is there, -1 before the anchor has begun."""
        if not waiting and not running:
            return 0
        done = {index for index in segments if index not in waiting and index not in dict(running)}
        options = []
        if len(running) < replicas:
            for index in waiting:
                if runnable(plan, index, done, record_in == 0 or not plan.shares):
                    begins = plan.shared_steps if index == plan.anchor else record_in
                    more = tuple(sorted((*running, (index, plan.steps))))
                    options.append(time_left(waiting - {index}, more, begins))
        if running:
            passed = min(left for _, left in running)
            passed = min(passed, record_in) if record_in > 0 else passed
            later = tuple((index, left - passed) for index, left in running if left > passed)
            options.append(
                passed + time_left(waiting, later, record_in - passed if record_in > 0 else record_in)
            )
        return min(options, default=10**9)

    return time_left(frozenset(segments), (), -1)
