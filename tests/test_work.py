"""The server's work in plain processes: killed anywhere it ends in the same video, cancelled it stops within a step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from serving_workers import LEASE, Moment, Place, at, die
from tiny_model import tiny_pipeline

from serving.api.inspection import Limits
from serving.model import read_model
from serving.state.database import Database
from serving.state.rows import Claim, Job, JobPlan, Kind, Role
from serving.state.transitions import JobStatus, TaskState
from serving.work.loop import Beat, Refused, Work, Worker
from serving.work.prepare import Prepare

FRAMES = 29  # three segments: the anchor, a bridge, a base


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server with nothing to do."""
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(folder := tmp_path_factory.mktemp("model"))
    place = Place(tmp_path_factory.mktemp("empty"), pipeline, read_model(str(folder), itemsize=4))
    place.database.close()
    return place


@pytest.fixture(scope="module")
def planned(empty: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server with one job, which is planned."""
    place = empty.copy(tmp_path_factory.mktemp("planned") / "server")
    place.post(FRAMES)
    assert place.finish(Role.PREPARE) == 0
    return place


@pytest.fixture(scope="module")
def undisturbed(planned: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What becomes of the job when nothing happens."""
    place = planned.copy(tmp_path_factory.mktemp("undisturbed") / "server")
    assert place.finish(Role.GENERATE) == 0
    assert place.finish(Role.STITCH) == 0
    return results(place)


def only_job(place: Place) -> Job:
    (job,) = place.database.jobs()
    return job


def results(place: Place) -> dict[str, bytes]:
    """The committed artifacts of the only job, by name."""
    job = only_job(place)
    assert job.status is JobStatus.COMPLETED, job.error_message
    tasks = place.database.tasks(job.id)
    return {task.artifact: place.artifacts.read(task.artifact) for task in tasks if task.artifact}


def attempts(place: Place) -> dict[tuple[str, int], int]:
    """How often each task was claimed, where more than once."""
    tasks = place.database.tasks(only_job(place).id)
    return {(task.kind, task.index): task.attempt for task in tasks if task.attempt > 1}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment("segment", 0, 0), id="anchor before it publishes"),
        pytest.param(Moment("segment", 0, 1), id="anchor after it has published"),
        pytest.param(Moment("segment", 0, None), id="anchor before it commits"),
        pytest.param(Moment("segment", 2, 1), id="base"),
        pytest.param(Moment("segment", 1, 1), id="bridge"),
    ],
)
def test_a_killed_generator_costs_one_segment(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path, moment: Moment
) -> None:
    place = planned.copy(tmp_path / "server")
    assert place.finish(Role.GENERATE, at(moment, die)) == -signal.SIGKILL
    place.expire()
    assert place.finish(Role.GENERATE) == 0
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    assert attempts(place) == {("segment", moment.index): 2}


def test_a_killed_stitcher_writes_the_same_video(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    place = planned.copy(tmp_path / "server")
    place.finish(Role.GENERATE)
    (stitch,) = place.database.tasks(only_job(place).id, Kind.STITCH)
    assert place.finish(Role.STITCH, at(Moment("stitch", 0, 8), die)) == -signal.SIGKILL
    place.expire()
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    assert attempts(place) == {("stitch", stitch.index): 2}


def test_a_lost_record_is_made_once_more(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    place = planned.copy(tmp_path / "server")
    assert place.finish(Role.GENERATE, at(Moment("segment", 2, 0), die)) == -signal.SIGKILL
    place.records.lose()
    place.expire()
    assert place.finish(Role.GENERATE) == 0
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    kinds = [task.kind for task in place.database.tasks(only_job(place).id)]
    assert kinds.count(Kind.RECORD) == 1
    assert set(attempts(place)) == {("segment", 2)}, "the anchor's segment is not computed again"


def test_a_killed_preparation_is_done_again(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    assert place.finish(Role.PREPARE, at(Moment("prepare", 0, 0), die)) == -signal.SIGKILL
    place.expire(Role.STITCH)
    assert place.finish(Role.PREPARE) == 0
    assert place.database.job(job.id).plan is not None


@pytest.mark.parametrize(
    ("role", "moment"),
    [
        pytest.param(Role.PREPARE, Moment("prepare", 0, 0), id="prepared"),
        pytest.param(Role.GENERATE, Moment("segment", 0, 1), id="anchor"),
        pytest.param(Role.GENERATE, Moment("segment", 2, 1), id="base"),
        pytest.param(Role.GENERATE, Moment("segment", 1, 1), id="bridge"),
        pytest.param(Role.STITCH, Moment("stitch", 0, 8), id="stitched"),
    ],
)
def test_a_cancelled_job_frees_its_worker_within_a_step(
    empty: Place, planned: Place, tmp_path: Path, role: Role, moment: Moment
) -> None:
    place = (empty if role is Role.PREPARE else planned).copy(tmp_path / "server")
    if role is Role.PREPARE:
        place.post(FRAMES)
    if role is Role.STITCH:
        place.finish(Role.GENERATE)
    job = only_job(place)
    told: list[int] = []

    def watched(work: Work) -> Work:
        def around(claim: Claim, beat: Beat) -> JobPlan | None:
            def listen(step: int, steps: int) -> None:
                if place.database.job(job.id).status is JobStatus.FAILED:
                    told.append(step)
                beat(step, steps)

            return work(claim, listen)

        return at(moment, lambda: place.database.request_cancel(job.id))(around)

    worker = place.worker(role, watched)
    while worker.turn():
        pass
    assert only_job(place).error_code == "cancelled"
    assert not told, "no step after the one in which it was cancelled"
    assert not worker.turn(), "nothing of the job is left to do"


def test_a_job_cancelled_in_the_queue_is_never_begun(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    place.database.request_cancel(job.id)
    assert not any(place.worker(role).turn() for role in Role)


def working(place: Place, work: Work) -> tuple[Worker, Callable[[], Job]]:
    """A worker that prepares the only job of a server by `work`, and a look at that job."""
    job = place.post(FRAMES)
    database = place.database
    return Worker(Role.PREPARE, database, work, LEASE, poll=0.01), lambda: database.job(job.id)


def test_an_error_is_tried_again_until_it_is_told(empty: Place, tmp_path: Path) -> None:
    def fail(claim: Claim, beat: Beat) -> None:
        raise ZeroDivisionError

    worker, job = working(empty.copy(tmp_path / "server"), fail)
    assert [worker.turn() for _ in range(4)] == [True, True, True, False]
    assert job().error_message == "Prepare 0 failed with ZeroDivisionError; see the server's log."


def test_what_cannot_be_done_is_told_at_once(empty: Place, tmp_path: Path) -> None:
    def refuse(claim: Claim, beat: Beat) -> None:
        raise Refused("There is nobody in the picture; send another.")

    worker, job = working(empty.copy(tmp_path / "server"), refuse)
    assert worker.turn() and not worker.turn()
    assert job().error_message == "There is nobody in the picture; send another."
    assert job().error_code == "invalid_input"


def test_a_stopped_worker_hands_its_task_back(empty: Place, tmp_path: Path) -> None:
    def endless(claim: Claim, beat: Beat) -> None:
        while True:
            beat(0, 1)

    place = empty.copy(tmp_path / "server")
    worker, job = working(place, endless)
    worker.start()
    while job().status is JobStatus.QUEUED:
        assert worker.alive
    worker.ask_to_stop()
    assert worker.join(patience=60)
    (task,) = place.database.tasks(job().id)
    assert (task.state, task.failures, task.expiries) == (TaskState.READY, 0, 0)


def test_poses_that_show_nobody_are_refused_in_a_sentence(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES, align="reference")  # the picture is noise: there is nobody to lay the poses on
    assert place.finish(Role.PREPARE) == 0
    found = Database(f"sqlite:///{place.folder}/serving.db").job(job.id)
    assert found.error_code == "invalid_input"
    assert "No person is found in the picture" in str(found.error_message)


def test_a_preparation_that_takes_too_much_is_killed(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    starved = Limits(pixels=2**20, seconds=60, pose_frames=2000, memory=2**28, time=60)
    prepare = Prepare(place.artifacts, place.model, starved, poll=0.1)
    assert Worker(Role.PREPARE, place.database, prepare, LEASE).turn()
    assert "too much" in str(place.database.job(job.id).error_message)
