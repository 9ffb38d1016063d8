"""Poses come from the estimator that the server is set up with, whose faults are said before there is a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from posegen.common.weights import WeightsError
from posegen.driving.driving_video import place_on_picture, read_driving
from posegen.driving.poses.dwpose import DWPose
from posegen.driving.poses.sapiens import LEFT_HAND, RIGHT_HAND
from posegen.video import save_video
from serving.state.artifacts import frames_artifact, prepared_artifact
from serving.state.rows import Job, NewJob, Role, new_job_id
from serving.uploads.inspection import UploadLimits
from serving.uploads.uploads import upload_artifact
from serving.work.loop import Worker
from serving.work.preparation import NO_HANDS, Networks
from serving.work.prepare import Prepare
from testkit import onnx_models
from testkit.onnx_models import BLUE, GREEN
from testkit.serving_workers import LEASE, REQUEST, Place, empty_place
from testkit.tiny_model import SIZE

LIMITS = UploadLimits(pixels=2**20, seconds=10, pose_frames=2000, memory=8 * 2**30, time=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return empty_place(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DWPose's two files: a person is around each red spot; limbs lead from the green spot to the blue one."""
    folder = tmp_path_factory.mktemp("dwpose")
    onnx_models.yolox(folder / "yolox_l.onnx")
    channels = np.full(133, GREEN)
    channels[[7, 8, 11, 12, 15, 16]] = BLUE  # elbows, hips, ankles
    onnx_models.simcc(folder / "dw-ll_ucoco_384.onnx", channels.tolist())
    return folder


@pytest.fixture(scope="module")
def hand_networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """DWPose's files beside Sapiens' two: what is green is a left hand, what is blue a right one, with that normal."""
    folder = tmp_path_factory.mktemp("sapiens")
    classes = np.zeros((28, 3))
    classes[LEFT_HAND, 1] = classes[RIGHT_HAND, 2] = 1
    background = np.zeros(28)
    background[0] = 0.5
    segmentation = onnx_models.colour_maps(folder / "segmentation.onnx", classes, background)
    normals = onnx_models.colour_maps(folder / "normals.onnx", np.eye(3), np.zeros(3))
    return Networks(hand_normals=str(normals), hand_segmentation=str(segmentation))


def wandering(count: int) -> np.ndarray:
    """Frames, of the sides of the model's videos, of a person as the weights see one, who goes to the right."""
    frames = np.zeros((count, 312, 208, 3), np.uint8)
    for number, frame in enumerate(frames):
        left = 80 + number
        frame[150:166, left : left + 16] = 255, 0, 0
        frame[126:142, left - 12 : left + 4] = 0, 255, 0
        frame[174:190, left + 12 : left + 28] = 0, 0, 255
    return frames


def prepared(place: Place, networks: Networks, video: Path, **asked: str) -> Job:
    """The job of a driving video, and of its first frame as the picture, after its preparation."""
    job_id, picture = new_job_id(), video.with_suffix(".png")
    Image.fromarray(wandering(1)[0]).save(picture)
    for parameter, file in {"input_reference": picture, "driving_video": video}.items():
        place.artifacts.save(upload_artifact(job_id, parameter), file)
    uploads = {"input_reference": {}, "driving_video": {"seconds": 2.0}}
    place.database.jobs.create(NewJob(job_id, "somebody", REQUEST | {"uploads": uploads} | asked))
    prepare = Prepare(place.artifacts, place.model, LIMITS, networks, poll=0.1)
    assert Worker(Role.PREPARE, place.database, prepare, LEASE).turn()
    job = place.database.jobs.get(job_id)
    assert job.error_message is None
    return job


@pytest.fixture
def video(tmp_path: Path) -> Path:
    save_video([wandering(32)], tmp_path / "video.mp4", 16)
    return tmp_path / "video.mp4"


def test_driving_videos_are_read_by_the_estimator_that_is_set(
    place: Place, weights: Path, video: Path
) -> None:
    job = prepared(place, Networks("dwpose", str(weights)), video, align="none")
    keypoints = load(place.artifacts.read(prepared_artifact(job.id)))["keypoints"]
    estimator = DWPose(weights)
    driving = read_driving(video, place.model.rate, estimator)
    expected = place_on_picture(driving, wandering(1)[0], SIZE, place.model.rate, estimator, how="none")
    np.testing.assert_array_equal(keypoints, expected)
    assert np.ptp(keypoints[:, 0, 0]) > 3, "it follows the spot"


def test_hands_of_a_driving_video_lie_where_its_person_does(
    place: Place, weights: Path, hand_networks: Networks, video: Path
) -> None:
    networks = replace(hand_networks, poses="dwpose", pose_weights=str(weights))
    job = prepared(place, networks, video, align="reference")
    assert job.plan is not None
    keypoints = load(place.artifacts.read(prepared_artifact(job.id)))["keypoints"]
    hands = place.artifacts.load_frames(frames_artifact(job.id, "hands"), 0, job.plan.frames)
    assert hands.shape == (len(keypoints), SIZE[1], SIZE[0], 3)
    for frame, pose in zip(hands, keypoints, strict=True):
        assert frame[..., 0].max() < 200, "what is red is no hand"
        green = np.argwhere(frame[..., 1] > 200)
        assert np.abs(green.mean(axis=0)[::-1] - pose[0, :2]).max() < 1.5, "the green spot is keypoint 0"


def test_hands_are_left_to_the_poses_where_limbs_change_their_lengths(
    place: Place, weights: Path, hand_networks: Networks, video: Path
) -> None:
    networks = replace(hand_networks, poses="dwpose", pose_weights=str(weights))
    job = prepared(place, networks, video, align="proportions")
    assert job.plan is not None and NO_HANDS in job.plan.notes
    assert not place.artifacts.exists(frames_artifact(job.id, "hands"))


def test_networks_of_hands_are_refused_for_a_model_without(place: Place, hand_networks: Networks) -> None:
    model = replace(place.model, transformer=place.model.transformer | {"hand_channels": None})
    with pytest.raises(ValueError, match="takes no hands: leave hand_normals and hand_segmentation out"):
        Prepare(place.artifacts, model, LIMITS, hand_networks, poll=0.1).check()


def test_missing_weights_end_the_start_in_a_sentence(place: Place, tmp_path: Path) -> None:
    prepare = Prepare(place.artifacts, place.model, LIMITS, Networks("dwpose", str(tmp_path)), poll=0.1)
    with pytest.raises(WeightsError, match=r"yolox_l\.onnx is not in .*: put it there"):
        prepare.check()


def test_a_gpu_that_cannot_be_used_ends_the_start_in_a_sentence(place: Place, weights: Path) -> None:
    networks = Networks("dwpose", str(weights), cuda=True)
    with pytest.raises(WeightsError, match=r"was to run on a GPU, but onnxruntime .* cannot use CUDA here"):
        Prepare(place.artifacts, place.model, LIMITS, networks, poll=0.1).check()


def test_networks_that_find_no_room_end_the_start_in_a_sentence(place: Place) -> None:
    starved = UploadLimits(pixels=2**20, seconds=10, pose_frames=2000, memory=2**20, time=60)
    with pytest.raises(WeightsError, match="whether prepare_bytes is enough"):
        Prepare(place.artifacts, place.model, starved, poll=0.1).check()


def test_what_is_set_by_default_can_be_loaded(place: Place) -> None:
    Prepare(place.artifacts, place.model, LIMITS, poll=0.1).check()
