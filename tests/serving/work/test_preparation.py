"""Poses come from the estimator that the server is set up with, whose faults are said before there is a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from posegen.common.weights import WeightsError
from posegen.driving.driving_video import place_on_picture, read_driving
from posegen.driving.poses.dwpose import DWPose
from posegen.video import save_video
from serving.state.artifacts import prepared_artifact
from serving.state.rows import NewJob, Role, new_job_id
from serving.uploads.inspection import UploadLimits
from serving.uploads.uploads import upload_artifact
from serving.work.loop import Worker
from serving.work.preparation import Estimator
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
    """DWPose's two files: a person is around each red spot, even keypoints on the green spot, odd ones on the blue."""
    folder = tmp_path_factory.mktemp("dwpose")
    onnx_models.yolox(folder / "yolox_l.onnx")
    onnx_models.simcc(folder / "dw-ll_ucoco_384.onnx", [GREEN, BLUE] * 66 + [GREEN])
    return folder


def wandering(count: int) -> np.ndarray:
    """Frames of a person as the weights see one, who goes to the right."""
    frames = np.zeros((count, 208, 320, 3), np.uint8)
    for number, frame in enumerate(frames):
        left = 80 + 2 * number
        frame[120:136, left : left + 16] = 255, 0, 0
        frame[104:112, left - 8 : left] = 0, 255, 0
        frame[144:152, left + 12 : left + 20] = 0, 0, 255
    return frames


def test_driving_videos_are_read_by_the_estimator_that_is_set(
    place: Place, weights: Path, tmp_path: Path
) -> None:
    frames, picture, video = wandering(32), tmp_path / "picture.png", tmp_path / "video.mp4"
    Image.fromarray(frames[0]).save(picture)
    save_video([frames], video, 16)
    job_id = new_job_id()
    for parameter, file in {"input_reference": picture, "driving_video": video}.items():
        place.artifacts.save(upload_artifact(job_id, parameter), file)
    uploads = {"input_reference": {}, "driving_video": {"seconds": 2.0}}
    place.database.jobs.create(NewJob(job_id, "somebody", REQUEST | {"uploads": uploads, "align": "none"}))
    prepare = Prepare(place.artifacts, place.model, LIMITS, Estimator("dwpose", str(weights)), poll=0.1)
    assert Worker(Role.PREPARE, place.database, prepare, LEASE).turn()
    assert place.database.jobs.get(job_id).error_message is None
    keypoints = load(place.artifacts.read(prepared_artifact(job_id)))["keypoints"]
    estimator = DWPose(weights)
    driving = read_driving(video, place.model.rate, estimator)
    expected = place_on_picture(driving, frames[0], SIZE, place.model.rate, estimator, how="none")
    np.testing.assert_array_equal(keypoints, expected)
    assert np.ptp(keypoints[:, 0, 0]) > 5, "it follows the spot"


def test_missing_weights_end_the_start_in_a_sentence(place: Place, tmp_path: Path) -> None:
    prepare = Prepare(place.artifacts, place.model, LIMITS, Estimator("dwpose", str(tmp_path)), poll=0.1)
    with pytest.raises(WeightsError, match=r"yolox_l\.onnx is not in .*: put it there"):
        prepare.check()


def test_a_gpu_that_cannot_be_used_ends_the_start_in_a_sentence(place: Place, weights: Path) -> None:
    estimator = Estimator("dwpose", str(weights), cuda=True)
    with pytest.raises(WeightsError, match=r"was to run on a GPU, but onnxruntime .* cannot use CUDA here"):
        Prepare(place.artifacts, place.model, LIMITS, estimator, poll=0.1).check()


def test_networks_that_find_no_room_end_the_start_in_a_sentence(place: Place) -> None:
    starved = UploadLimits(pixels=2**20, seconds=10, pose_frames=2000, memory=2**20, time=60)
    with pytest.raises(WeightsError, match="whether prepare_bytes is enough"):
        Prepare(place.artifacts, place.model, starved, poll=0.1).check()


def test_what_is_set_by_default_can_be_loaded(place: Place) -> None:
    Prepare(place.artifacts, place.model, LIMITS, poll=0.1).check()
