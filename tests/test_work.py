"""The server's work in plain processes: killed anywhere it ends in the same video, cancelled it stops within a step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load
from serving_workers import LEASE, REQUEST, FileRecords, Moment, Place, at, die
from tiny_model import SIZE, STEPS, tiny_pipeline

from posegen.alignment import fit, fit_picture
from posegen.driving import picture_pose
from posegen.poses import load_estimator
from posegen.sharing import Position, SharedEntry
from posegen.skeleton import KEYPOINT_INDEX
from serving.api.inspection import Limits
from serving.api.uploads import upload_artifact
from serving.artifacts import prepared_artifact
from serving.model import read_model
from serving.samples import FOLDER as SAMPLES
from serving.state.database import Database, new_job_id
from serving.state.rows import Claim, Job, JobPlan, Kind, NewJob, Role
from serving.state.rows import Limits as RowLimits
from serving.state.transitions import JobStatus, TaskState
from serving.work import loop
from serving.work.generate import Generate
from serving.work.loop import Beat, Refused, Work, Worker
from serving.work.preparation import Order
from serving.work.prepare import Prepare
from serving.work.records import RecordId, RecordLost

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


@pytest.mark.parametrize(
    ("role", "moment", "last"),
    [
        pytest.param(Role.GENERATE, Moment("segment", 0, STEPS), 2, id="segment"),
        pytest.param(Role.STITCH, Moment("stitch", 0, FRAMES), 1, id="video"),
    ],
)
def test_a_worker_that_was_replaced_does_not_write_over_the_result(
    planned: Place, tmp_path: Path, role: Role, moment: Moment, last: int
) -> None:
    """Another machine's result may differ in bits; what was built on the first must go on seeing that."""
    place = planned.copy(tmp_path / "server")
    if role is Role.STITCH:
        place.finish(Role.GENERATE)
    job = only_job(place)
    beats: list[int] = []

    def replaced() -> None:
        beats.append(1)
        if len(beats) == last:  # when there is something to be stored
            place.expire()
            other = place.database.claim(role, "other", LEASE)
            assert other is not None
            place.artifacts.write(other.task.artifact, b"the other's")
            assert place.database.release(other)

    worker = place.worker(role, at(moment, replaced))
    assert worker.turn() and len(beats) == last
    (task,) = (task for task in place.database.tasks(job.id, Kind(moment.kind)) if task.index == moment.index)
    assert place.artifacts.read(task.artifact) == b"the other's"


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


class Unreadable(FileRecords):
    """Records whose entries cannot be read, for a reason that a store foresees or another."""

    def __init__(self, folder: Path, reason: Exception) -> None:
        super().__init__(folder)
        self._reason = reason

    def get(self, store: str, record: RecordId, place: Position) -> SharedEntry:
        raise self._reason


class Corrupt(FileRecords):
    """Records whose first generation is damaged once it is written."""

    def places(self, store: str, record: RecordId) -> list[Position]:
        if record.generation == 1:
            for path in self._record(store, record).iterdir():
                path.write_bytes(b"\xff" * 100)
        return super().places(store, record)


def generator(place: Place, records: FileRecords) -> Worker:
    """A worker that generates with other records, of a server that bears with two losses."""
    database = Database(f"sqlite:///{place.folder}/serving.db", RowLimits(expiries=3))
    return Worker(
        Role.GENERATE, database, Generate(place.pipeline, database, place.artifacts, records), LEASE, poll=0.1
    )


@pytest.mark.parametrize("reason", [RecordLost("gone"), PermissionError("out of reach")])
def test_a_record_that_can_never_be_read_fails_the_job_in_a_sentence(
    planned: Place, tmp_path: Path, reason: Exception
) -> None:
    place = planned.copy(tmp_path / "server")
    worker = generator(place, Unreadable(place.folder / "records", reason))
    turns = 0
    while worker.turn():
        assert (turns := turns + 1) < 20, "it goes on for ever"
    job = only_job(place)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "record_lost")
    assert str(job.error_message).startswith("The shared background was lost again and again")
    kinds = [task.kind for task in place.database.tasks(job.id)]
    assert kinds.count(Kind.RECORD) == 2, "it was made once more after each loss but the last"


def test_a_damaged_record_is_made_once_more(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    place = planned.copy(tmp_path / "server")
    worker = generator(place, Corrupt(place.folder / "records"))
    while worker.turn():
        pass
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    assert set(attempts(place)) == {("segment", 2)}


def test_a_record_made_once_more_is_cancelled_within_a_step(planned: Place, tmp_path: Path) -> None:
    place = planned.copy(tmp_path / "server")
    assert place.finish(Role.GENERATE, at(Moment("segment", 2, 0), die)) == -signal.SIGKILL
    place.records.lose()
    place.expire()
    job = only_job(place)
    cancel = at(Moment("record", 2, 0), lambda: place.database.request_cancel(job.id))
    worker = place.worker(Role.GENERATE, cancel)
    while worker.turn():
        pass
    job = only_job(place)
    assert (job.error_code, job.published_steps) == ("cancelled", 0)


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
        assert worker.trouble() is None
    worker.ask_to_stop()
    assert worker.join(patience=60)
    (task,) = place.database.tasks(job().id)
    assert (task.state, task.failures, task.expiries) == (TaskState.READY, 0, 0)


def test_a_worker_that_hangs_says_so_and_one_that_waits_does_not(
    empty: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, go = time.monotonic(), threading.Event()
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)

    def hang(claim: Claim, beat: Beat) -> None:
        assert go.wait(timeout=300)
        beat(0, 1)

    worker, job = working(empty.copy(tmp_path / "server"), hang)
    looking = threading.Lock()
    waiting = Worker(Role.STITCH, empty.copy(tmp_path / "other").database, hang, LEASE, looking=looking)
    with looking:
        waiting.start()
        worker.start()
        while job().status is JobStatus.QUEUED:
            assert worker.trouble() is None
        now += LEASE + 1
        assert "no sign of life" in str(worker.trouble())
        assert waiting.trouble() is None, "it owes no sign while another looks for work"
        waiting.ask_to_stop()
        worker.ask_to_stop()
    go.set()
    assert worker.join(60) and waiting.join(60)
    assert "has ended" in str(worker.trouble())


def test_a_worker_that_fails_at_all_tasks_ends(empty: Place, tmp_path: Path) -> None:
    """As one whose GPU is lost would; a job that fails by itself must not end it."""

    def fail(claim: Claim, beat: Beat) -> None:
        raise ZeroDivisionError

    place = empty.copy(tmp_path / "server")
    worker, job = working(place, fail)
    worker.start()
    while job().status is not JobStatus.FAILED:
        assert worker.trouble() is None
    other = place.post(FRAMES)
    assert worker.join(60)
    (task,) = place.database.tasks(other.id)
    assert (task.state, task.failures) == (TaskState.READY, 1), "another worker may do it"


def test_what_is_done_between_looks_goes_on_while_a_task_is_long(empty: Place, tmp_path: Path) -> None:
    """The store of records ends when nobody calls it, and a segment may take longer than that."""
    place, called = empty.copy(tmp_path / "server"), []

    def work(claim: Claim, beat: Beat) -> None:
        for step in range(3):
            beat(step, 3)
        raise Refused("Enough.")

    place.post(FRAMES)
    worker = Worker(Role.PREPARE, place.database, work, LEASE, between=lambda: called.append(1))
    assert worker.turn()
    assert len(called) == 4


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


def test_a_full_disk_is_not_the_clients_fault(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    full = Limits(pixels=2**20, seconds=60, pose_frames=2000, memory=8 * 2**30, time=300, written=1000)
    assert Worker(Role.PREPARE, place.database, Prepare(place.artifacts, place.model, full), LEASE).turn()
    (task,) = place.database.tasks(job.id)
    assert (task.state, task.failures) == (TaskState.READY, 1)


def test_a_preparation_does_not_outlive_its_worker(empty: Place, tmp_path: Path) -> None:
    limits = Limits(pixels=2**20, seconds=60, pose_frames=2000, memory=8 * 2**30, time=300)
    picture, video = str(SAMPLES / "person.jpg"), str(SAMPLES / "dance.mp4")
    order = Order(picture, video, None, SIZE, SIZE, 16.0, None, "crop", "reference", str(tmp_path))
    given = {"limits": asdict(limits), "order": asdict(order)}
    child = subprocess.Popen(
        [sys.executable, "-m", "serving.work.preparation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, _ = child.communicate(json.dumps(given).encode() + b"\n", timeout=300)
    assert (child.returncode, said) == (1, b"")


def dancing(place: Place, longest: float) -> Job:
    """The job of the web page's samples after its preparation: a picture of one person, a video of another."""
    job_id = new_job_id()
    names = {"input_reference": "person.jpg", "driving_video": "dance.mp4"}
    for parameter, name in names.items():
        place.artifacts.save(upload_artifact(job_id, parameter), SAMPLES / name)
    request = REQUEST | {"uploads": names, "align": "reference", "framing": "auto", "seconds": 6.0}
    place.database.create_job(NewJob(id=job_id, owner="somebody", request=request))
    limits = Limits(pixels=2**20, seconds=longest, pose_frames=2000, memory=8 * 2**30, time=300)
    model = replace(place.model, rate=4.0)  # a pose of every third frame
    prepare = Prepare(place.artifacts, model, limits, poll=0.1)
    assert Worker(Role.PREPARE, place.database, prepare, LEASE).turn()
    return place.database.job(job_id)


def test_a_driving_video_becomes_poses_on_the_pictures_person_and_a_plan(
    empty: Place, tmp_path: Path
) -> None:
    """The whole way: a file of 7 s in which a person dances, of another size and rate than the model's."""
    place = empty.copy(tmp_path / "server")
    job = dancing(place, longest=7.0)
    assert job.plan is not None, job.error_message
    assert (job.plan.frames, job.plan.timeline.bridges) == (24, 1), "6 of the 7 s were asked for"
    prepared = load(place.artifacts.read(prepared_artifact(job.id)))
    keypoints = prepared["keypoints"]
    assert keypoints.shape == (24, 133, 3) and np.isfinite(keypoints).all()
    with Image.open(SAMPLES / "person.jpg") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(prepared["picture"], fit_picture(pixels, SIZE))
    seen = picture_pose(pixels, load_estimator("blazepose"))
    expected = fit((pixels.shape[1], pixels.shape[0]), SIZE).keypoints(seen)
    trunk = [KEYPOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right") for joint in ("shoulder", "hip")]
    found = keypoints[:, trunk, :2].mean(axis=(0, 1))
    np.testing.assert_allclose(found, expected[trunk, :2].mean(axis=0), atol=0.1 * SIZE[1])
    wrists = keypoints[:, [KEYPOINT_INDEX["left_wrist"], KEYPOINT_INDEX["right_wrist"]], :2]
    assert np.ptp(wrists, axis=0).max() > 0.1 * SIZE[1], "it dances"


def test_a_driving_video_that_is_too_long_is_refused_again(empty: Place, tmp_path: Path) -> None:
    job = dancing(empty.copy(tmp_path / "server"), longest=5.0)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "invalid_input")
    assert job.error_message == "driving_video: it is 7.0 s long; give at most 5 s."
