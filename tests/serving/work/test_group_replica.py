"""A generator of two processes: cancelled it takes other work; when it loses a process it ends, and another goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posegen.distributed.group import Group, GroupError
from posegen.pipeline import PoseGenPipeline
from serving.api.auth import Caller
from serving.api.checks import check_request
from serving.api.errors import ApiError
from serving.api.schemas import VideoCreate
from serving.api.settings import ApiSettings, Model
from serving.app import app
from serving.config import BUNDLED, ConfigError
from serving.state.rows import Kind, Role
from serving.state.transitions import JobStatus, TaskState
from serving.work.loop import Worker
from testkit.serving_workers import FRAMES, LEASE, Moment, Place, at, empty_place

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server with two jobs, which are planned."""
    place = empty_place(tmp_path_factory.mktemp("planned"))
    for _ in range(2):
        place.post(FRAMES)
    assert place.finish(Role.PREPARE) == 0
    return place


def segments(place: Place, job_id: str) -> list[np.ndarray]:
    """A finished job's segments, by index."""
    tasks = place.database.jobs.tasks(job_id, Kind.SEGMENT)
    assert all(task.state is TaskState.DONE for task in tasks)
    return [place.artifacts.load_frames(task.artifact) for task in tasks]


def test_a_group_is_cancelled_and_killed(planned: Place, tmp_path: Path) -> None:
    alone, place = planned.copy(tmp_path / "alone"), planned.copy(tmp_path / "server")
    assert alone.finish(Role.GENERATE) == 0
    database, pipeline = place.database, PoseGenPipeline.from_pretrained(place.model.folder())
    first, second = sorted(place.database.jobs.page(), key=lambda job: job.created_at)
    pipeline.group = group = Group(pipeline, processes=2)
    work = replace(place, pipeline=pipeline).work(Role.GENERATE, database)

    def worker(moment: Moment, do: Callable[[], object]) -> Worker:
        return Worker(
            Role.GENERATE,
            database,
            at(moment, do)(work),
            LEASE,
            between=group.check,
            store=place.records.here(),
        )

    assert worker(Moment("segment", 0, 1), lambda: database.jobs.cancel(first.id)).turn()
    assert database.jobs.get(first.id).error_code == "cancelled"

    (pid,) = group.pids
    killed = worker(Moment("segment", 2, 1), lambda: os.kill(pid, signal.SIGKILL))
    with pytest.raises(GroupError, match="start anew"):
        while killed.turn():
            pass
    assert place.finish(Role.GENERATE) == 0
    assert database.jobs.get(second.id).status is not JobStatus.FAILED
    tried = {task.index: task.attempt for task in database.jobs.tasks(second.id, Kind.SEGMENT)}
    assert tried == {0: 1, 1: 1, 2: 2}
    for made, expected in zip(segments(place, second.id), segments(alone, second.id), strict=True):
        difference = np.abs(made.astype(int) - expected)
        # Equal to float tolerance; the bridge is given frames that differ by a rounding here and there already.
        assert difference.max() <= 1 and difference.mean() < 2e-3


@pytest.mark.parametrize("gpus", [3, 1.5])
def test_gpus_that_cannot_share_a_segment_are_refused(tmp_path: Path, gpus: float) -> None:
    where = {"artifacts": str(tmp_path), "database": f"sqlite:///{tmp_path}/serving.db", "model": BUNDLED}
    with pytest.raises(ConfigError, match=r"cannot share a segment|cannot be given"):
        app(where | {"generators": {"gpus": gpus}})


def test_a_size_that_cannot_be_shared_is_refused() -> None:
    settings, caller = ApiSettings(model=Model(unit=16, shared_by=4)), Caller("somebody")
    check_request(VideoCreate.model_construct(size="64x96"), settings, caller)
    with pytest.raises(ApiError, match="15 squares of 16 pixels are no multiple of 4, the GPUs that share"):
        check_request(VideoCreate.model_construct(size="48x80"), settings, caller)
