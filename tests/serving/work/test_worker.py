"""The loop of every worker, and uploads that become poses and a plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load, save

from mini_model.page_samples import FOLDER as SAMPLES
from pipeline.sample_videos import SAMPLES as FILMED
from posegen.common.weights import wheel_file
from posegen.driving.alignment import fit, fit_picture
from posegen.driving.driving_video import picture_pose
from posegen.driving.poses import load_estimator
from posegen.driving.skeleton import KEYPOINT_INDEX
from serving.state.artifacts import prepared_artifact
from serving.state.database import Database
from serving.state.rows import Claim, Job, NewJob, Role, new_job_id
from serving.state.transitions import JobStatus, TaskState
from serving.uploads.inspection import UploadLimits
from serving.uploads.uploads import upload_artifact
from serving.work import loop
from serving.work.loop import Beat, Refused, Work, Worker
from serving.work.preparation import Networks, Preparation
from serving.work.prepare import Prepare, child_environment
from testkit.serving_workers import FRAMES, LEASE, REQUEST, Place, empty_place
from testkit.tiny_model import SIZE, walking


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server with nothing to do."""
    return empty_place(tmp_path_factory.mktemp("empty"))


def working(place: Place, work: Work) -> tuple[Worker, Callable[[], Job]]:
    """A worker that prepares the only job of a server by `work`, and a look at that job."""
    job = place.post(FRAMES)
    database = place.database
    return Worker(Role.PREPARE, database, work, LEASE, poll=0.01), lambda: database.jobs.get(job.id)


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


def gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    "allocate", [gpu_memory, lambda: torch.empty(2**60), lambda: np.empty(2**46)], ids=["gpu", "cpu", "numpy"]
)
def test_too_little_memory_is_told_at_once_and_is_not_the_workers_fault(
    empty: Place, tmp_path: Path, allocate: Callable[[], object]
) -> None:
    place = empty.copy(tmp_path / "server")
    jobs = [place.post(FRAMES).id for _ in range(6)]

    def work(claim: Claim, beat: Beat) -> None:
        allocate()

    worker = Worker(Role.PREPARE, place.database, work, LEASE, poll=0.01)
    worker.start()
    while any(place.database.jobs.get(job).status is not JobStatus.FAILED for job in jobs):
        assert worker.trouble() is None
    told = {(job.error_code, job.error_message) for job in map(place.database.jobs.get, jobs)}
    size = REQUEST["size"]
    assert told == {
        (
            "out_of_memory",
            f"Prepare 0 needs more memory than there is at size {size}; ask for a smaller one.",
        )
    }
    assert [task.attempt for job in jobs for task in place.database.jobs.tasks(job)] == [1] * 6
    assert worker.trouble() is None
    worker.ask_to_stop()
    assert worker.join(LEASE)


def test_a_worker_stopped_while_it_waits_for_its_turn_takes_no_task(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job, looking = place.post(FRAMES), threading.Lock()
    worker = Worker(Role.PREPARE, place.database, lambda claim, beat: None, LEASE, poll=0.01, looking=looking)
    with looking:
        worker.start()
        time.sleep(0.2)  # now it waits
        worker.ask_to_stop()
    assert worker.join(LEASE)
    assert [task.attempt for task in place.database.jobs.tasks(job.id)] == [0]


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
    (task,) = place.database.jobs.tasks(job().id)
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
    (task,) = place.database.jobs.tasks(other.id)
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
    found = Database(f"sqlite:///{place.folder}/serving.db").jobs.get(job.id)
    assert found.error_code == "invalid_input"
    assert "No person is found in the picture" in str(found.error_message)


def test_an_anchor_that_is_not_there_is_refused_in_a_sentence(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES, anchor=100)
    assert place.finish(Role.PREPARE) == 0
    found = Database(f"sqlite:///{place.folder}/serving.db").jobs.get(job.id)
    assert found.error_code == "invalid_input"
    assert str(found.error_message).startswith(
        "Segment 100 cannot be the anchor; choose an even one from 0 to"
    )


def test_a_preparation_that_takes_too_much_is_killed(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    starved = UploadLimits(pixels=2**20, seconds=60, pose_frames=2000, memory=2**28, time=60)
    prepare = Prepare(place.artifacts, place.model, starved, poll=0.1)
    assert Worker(Role.PREPARE, place.database, prepare, LEASE).turn()
    assert "too much" in str(place.database.jobs.get(job.id).error_message)


def test_what_was_seen_in_a_movement_is_told(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    keypoints = walking(FRAMES)
    keypoints[:10] = np.nan
    place.artifacts.write(upload_artifact(job.id, "poses"), save({"keypoints": keypoints}))
    assert place.finish(Role.PREPARE) == 0
    plan = place.database.jobs.get(job.id).plan
    assert plan is not None
    assert (
        plan.notes
        == f"Nobody was seen at 0.0 to {10 / place.model.rate:.1f} s; poses there are filled in from "
        + ("those before and after.")
    )


def test_how_much_of_a_movement_is_read_is_told(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    person, dance = ((SAMPLES / name).read_bytes() for name in ("person.jpg", "dance.mp4"))
    seconds = 2.0
    uploads = {"input_reference": {}, "driving_video": {"seconds": seconds}}
    request = REQUEST | {"uploads": uploads, "align": "reference"}
    job, _ = place.database.jobs.create(NewJob(new_job_id(), "everyone", request))
    place.artifacts.mark()
    place.artifacts.write(upload_artifact(job.id, "input_reference"), person)
    place.artifacts.write(upload_artifact(job.id, "driving_video"), dance)
    claim = place.database.queue.claim(Role.PREPARE, "a worker", LEASE)
    assert claim is not None
    told: list[tuple[int, int]] = []
    prepare = Prepare(place.artifacts, place.model, UploadLimits(2**25, 60, 2000, time=600), poll=0.02)
    prepare(claim, lambda step, steps: told.append((step, steps)))
    frames = round(seconds * place.model.rate)
    assert told[0] == (0, frames) and told[-2] == (frames, frames)
    assert [step for step, _ in told[:-1]] == sorted(step for step, _ in told[:-1])


def test_a_preparation_can_fetch_weights_and_knows_no_secrets() -> None:
    needed = {
        "HOME": "/home/ray",
        "POSEGEN_CACHE": "/cache",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_FIND_LINKS": "/wheels",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "no_proxy": "mirror.example",
        "SSL_CERT_FILE": "/etc/ssl/company.pem",
        "REQUESTS_CA_BUNDLE": "/etc/ssl/company.pem",
        "HF_HOME": "/models",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    secrets = {
        "POSEGEN_DATABASE": "postgresql://me:secret@host/name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "secret",
    }
    given = child_environment(needed | secrets)
    assert {name: given[name] for name in given if name not in ("PYTHONPATH", "OMP_NUM_THREADS")} == needed


def test_a_full_disk_is_not_the_clients_fault(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    full = UploadLimits(pixels=2**20, seconds=60, pose_frames=2000, memory=8 * 2**30, time=300, written=1000)
    assert Worker(Role.PREPARE, place.database, Prepare(place.artifacts, place.model, full), LEASE).turn()
    (task,) = place.database.jobs.tasks(job.id)
    assert (task.state, task.failures) == (TaskState.READY, 1)


def test_a_preparation_does_not_outlive_its_worker(empty: Place, tmp_path: Path) -> None:
    limits = UploadLimits(pixels=2**20, seconds=60, pose_frames=2000, memory=8 * 2**30, time=300)
    picture, video = str(SAMPLES / "person.jpg"), str(SAMPLES / "dance.mp4")
    wanted = Preparation(
        picture, video, None, None, None, SIZE, SIZE, 16.0, None, "crop", "reference", str(tmp_path)
    )
    given = {"limits": asdict(limits), "networks": asdict(Networks()), "wanted": asdict(wanted)}
    child = subprocess.Popen(
        [sys.executable, "-m", "serving.work.preparation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, _ = child.communicate(json.dumps(given).encode() + b"\n", timeout=300)
    assert (child.returncode, said) == (1, b"")


def driven(place: Place, video: Path, longest: float) -> Job:
    """The job of a drawn person's picture and a driving video after its preparation."""
    job_id = new_job_id()
    files = {"input_reference": SAMPLES / "person.jpg", "driving_video": video}
    for parameter, file in files.items():
        place.artifacts.save(upload_artifact(job_id, parameter), file)
    uploads = {"input_reference": {}, "driving_video": {"seconds": longest}}
    asked = {"uploads": uploads, "align": "reference", "framing": "auto", "seconds": 6.0}
    place.database.jobs.create(NewJob(id=job_id, owner="somebody", request=REQUEST | asked))
    limits = UploadLimits(pixels=2**20, seconds=longest, pose_frames=2000, memory=8 * 2**30, time=300)
    model = replace(place.model, rate=4.0)  # few poses, to be quick
    prepare = Prepare(place.artifacts, model, limits, poll=0.1)
    assert Worker(Role.PREPARE, place.database, prepare, LEASE).turn()
    return place.database.jobs.get(job_id)


def middle(keypoints: np.ndarray, part: str) -> np.ndarray:
    """Where the two joints of a part are in the mean, x and y, of poses (.., 133, 3)."""
    both = [KEYPOINT_INDEX[f"{side}_{part}"] for side in ("left", "right")]
    return keypoints[..., both, :2].reshape(-1, 2).mean(axis=0)


@pytest.mark.parametrize(
    ("find", "frames", "part", "moves"),
    [
        pytest.param(lambda: SAMPLES / "dance.mp4", 24, "hip", "left_wrist", id="drawn, all of them"),
        pytest.param(
            lambda: wheel_file(*FILMED["talk.mp4"]), 17, "shoulder", "nose", id="filmed, head and shoulders"
        ),
    ],
)
def test_a_driving_video_becomes_poses_on_the_pictures_person_and_a_plan(
    empty: Place, tmp_path: Path, find: Callable[[], Path], frames: int, part: str, moves: str
) -> None:
    """The whole way with files of other sizes and rates than the model's; of 7 s, 6 were asked for."""
    place = empty.copy(tmp_path / "server")
    job = driven(place, find(), longest=7.0)
    assert job.plan is not None, job.error_message
    assert job.plan.frames == frames and job.plan.timeline.bridges == 1
    prepared = load(place.artifacts.read(prepared_artifact(job.id)))
    keypoints = prepared["keypoints"]
    assert keypoints.shape == (frames, 133, 3) and np.isfinite(keypoints).all()
    with Image.open(SAMPLES / "person.jpg") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(prepared["picture"], fit_picture(pixels, SIZE))
    seen = picture_pose(pixels, load_estimator("blazepose"))
    expected = fit((pixels.shape[1], pixels.shape[0]), SIZE).keypoints(seen)
    np.testing.assert_allclose(middle(keypoints[:5], part), middle(expected, part), atol=0.1 * SIZE[1])
    assert np.ptp(keypoints[:, KEYPOINT_INDEX[moves], :2], axis=0).max() > 0.02 * SIZE[1]


def test_a_driving_video_that_is_too_long_is_refused_again(empty: Place, tmp_path: Path) -> None:
    job = driven(empty.copy(tmp_path / "server"), SAMPLES / "dance.mp4", longest=5.0)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "invalid_input")
    assert job.error_message == "driving_video: it is 7.0 s long; give at most 5 s."
