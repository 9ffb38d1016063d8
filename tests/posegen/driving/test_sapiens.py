"""Sapiens' keypoints, normals, body parts and the hand video, on ONNX files of the published ones' shapes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posegen.common.weights import WeightsError
from posegen.driving.poses import load_estimator
from posegen.driving.poses.sapiens import (
    Sapiens,
    SapiensNormals,
    SapiensSegmentation,
    decode_heatmaps,
    hand_video,
)
from posegen.driving.skeleton import FLIP_ORDER
from testkit import onnx_models
from testkit.onnx_models import BLUE, GREEN

CHANNELS = [GREEN, BLUE] * 66 + [GREEN]
LEFT_TO_RIGHT = np.sign(np.arange(133) - FLIP_ORDER)  # -1 for one side's points, 1 for the other's, 0 between


def with_spots(*spots: tuple[float, float, int], size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A black frame of (width, height) with round spots, each at x, y in a colour channel."""
    frame = np.zeros((size[1], size[0], 3))
    rows, columns = np.mgrid[: size[1], : size[0]]
    for x, y, channel in spots:
        brightness = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
        frame[..., channel] = np.maximum(frame[..., channel], brightness)
    return frame.round().astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sapiens")
    onnx_models.heatmaps(folder / "sapiens_pose.onnx", CHANNELS)
    onnx_models.colour_maps(folder / "sapiens_normal.onnx", np.eye(3) * 3, np.zeros(3))
    parts = np.zeros((28, 3))
    parts[5, 0] = parts[14, 1] = parts[3, 2] = 1  # red is a left hand, green a right hand, blue another part
    background = np.zeros(28)
    background[0] = 0.5
    onnx_models.colour_maps(folder / "sapiens_seg.onnx", parts, background)
    return folder


@pytest.fixture(scope="module")
def estimator(weights: Path) -> Sapiens:
    return Sapiens(weights)


# --- decoding ---------------------------------------------------------------------------------------


def gaussian(x: float, y: float, sigma: float = 2.0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    rows, columns = np.mgrid[: size[1], : size[0]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


@settings(deadline=None)
@given(st.floats(8, 39), st.floats(8, 55), st.floats(1.5, 3), st.floats(0.05, 1))
def test_a_gaussians_centre_is_found_between_cells(x: float, y: float, sigma: float, peak: float) -> None:
    heatmap = peak * gaussian(x, y, sigma)
    points, confidences = decode_heatmaps(heatmap[None, None])
    assert points[0, 0] == pytest.approx([x, y], abs=0.02)
    assert confidences[0, 0] == heatmap.max()


@settings(deadline=None)
@given(st.floats(0, 47), st.floats(0, 63))
def test_peaks_at_the_edge_stay_near_it(x: float, y: float) -> None:
    points, _ = decode_heatmaps(gaussian(x, y)[None, None])
    assert points[0, 0] == pytest.approx([x, y], abs=1)


def test_flat_heatmaps_give_finite_points_without_confidence() -> None:
    points, confidences = decode_heatmaps(np.zeros((2, 3, 64, 48), np.float32))
    assert np.isfinite(points).all()
    assert (confidences == 0).all()


def test_each_heatmap_is_decoded_for_itself() -> None:
    heatmaps = np.stack([gaussian(10.3, 20.8), gaussian(30.6, 41.1), gaussian(0, 63), np.zeros((64, 48))])
    together, _ = decode_heatmaps(heatmaps.reshape(2, 2, 64, 48))
    alone = [decode_heatmaps(heatmap[None, None])[0][0, 0] for heatmap in heatmaps]
    assert np.array_equal(together.reshape(4, 2), alone)


# --- keypoints --------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(st.floats(25, 70), st.floats(30, 95), st.floats(25, 70), st.floats(30, 95))
def test_keypoints_are_exact_in_the_whole_frame(
    estimator: Sapiens, green_x: float, green_y: float, blue_x: float, blue_y: float
) -> None:
    frame = with_spots((green_x, green_y, GREEN), (blue_x, blue_y, BLUE))
    ((person,),) = estimator(frame[None])
    assert np.abs(person.keypoints[::2, :2] - [green_x, green_y]).max() <= 0.1
    assert np.abs(person.keypoints[1::2, :2] - [blue_x, blue_y]).max() <= 0.1
    assert (person.keypoints[:, 2] > 0.9).all()
    assert person.score > 0.9
    low, high = person.keypoints[:, :2].min(0), person.keypoints[:, :2].max(0)
    assert np.array_equal(person.box, [*low, *high])


def test_wide_frames_are_not_squeezed(estimator: Sapiens) -> None:
    frame = with_spots((30.4, 25.7, GREEN), (101.2, 44.3, BLUE), size=(144, 72))
    ((person,),) = estimator(frame[None])
    assert np.abs(person.keypoints[:2, :2] - [[30.4, 25.7], [101.2, 44.3]]).max() <= 0.1


def test_keypoints_are_exact_in_a_detected_box(weights: Path, tmp_path: Path) -> None:
    frame = with_spots((150.3, 90.6, GREEN), (166.8, 117.4, BLUE), size=(320, 208))
    frame[98:105, 154:161] = np.maximum(frame[98:105, 154:161], (160, 0, 0))
    detector = onnx_models.yolox(tmp_path / "yolox_l.onnx")
    (people,) = Sapiens(weights, detector=detector)(frame[None])
    assert len(people) == 1
    assert np.abs(people[0].keypoints[:2, :2] - [[150.3, 90.6], [166.8, 117.4]]).max() <= 0.1


def test_batches_equal_single_frames(weights: Path) -> None:
    frames = np.stack([with_spots((40.2 + n, 50.7, GREEN), (60.1, 70.4 - n, BLUE)) for n in range(3)])
    together = Sapiens(weights, batch=2)(frames)
    apart = Sapiens(weights, batch=1)
    for number, (person,) in enumerate(together):
        ((alone,),) = apart(frames[number : number + 1])
        assert np.allclose(person.keypoints, alone.keypoints, atol=1e-3)
        assert person.keypoints[0, 0] == pytest.approx(40.2 + number, abs=0.1)


def test_fixed_batches_are_filled_up(weights: Path, tmp_path: Path) -> None:
    frames = np.stack([with_spots((40.2 + n, 50.7, GREEN), (60.1, 70.4, BLUE)) for n in range(3)])
    fixed = onnx_models.heatmaps(tmp_path / "sapiens_pose.onnx", CHANNELS, batch=2)
    for people, others in zip(Sapiens(fixed)(frames), Sapiens(weights)(frames), strict=True):
        assert np.allclose(people[0].keypoints, others[0].keypoints, atol=1e-3)


def test_flip_test_agrees_with_a_network_that_knows_left_from_right(tmp_path: Path) -> None:
    # One side's points prefer the picture's left, the other's its right, as in a person seen from the front.
    across = np.linspace(-0.5, 0.5, 192)
    ramps = 0.5 + np.outer(LEFT_TO_RIGHT, across) + 0.4 * (LEFT_TO_RIGHT == 0)[:, None]
    pose = onnx_models.heatmaps(tmp_path / "sapiens_pose.onnx", [GREEN] * 133, ramps)
    frame = with_spots((20.5, 60, GREEN), (75.5, 60, GREEN))
    ((plain,),) = Sapiens(pose)(frame[None])
    ((flipped,),) = Sapiens(pose, flip_test=True)(frame[None])
    sided = LEFT_TO_RIGHT != 0
    assert set(plain.keypoints[sided, 0].round()) == {20, 76}
    assert np.allclose(plain.keypoints[sided], flipped.keypoints[sided], atol=0.05)


def test_flip_test_doubts_points_that_the_mirror_image_does_not_show(tmp_path: Path) -> None:
    channels = [GREEN if side < 0 else BLUE for side in LEFT_TO_RIGHT]  # colour tells the side: no mirror can
    pose = onnx_models.heatmaps(tmp_path / "sapiens_pose.onnx", channels)
    frame = with_spots((30, 40, GREEN), (30, 90, BLUE))
    ((plain,),) = Sapiens(pose)(frame[None])
    ((flipped,),) = Sapiens(pose, flip_test=True)(frame[None])
    assert plain.keypoints[5, 2] > 0.95
    assert flipped.keypoints[5, 2] == pytest.approx(0.5, abs=0.03)


def test_empty_frames_have_no_people(estimator: Sapiens, weights: Path, tmp_path: Path) -> None:
    dark = np.zeros((2, 48, 64, 3), np.uint8)
    assert estimator(dark) == [[], []]
    assert estimator(dark[:0]) == []
    assert Sapiens(weights, detector=onnx_models.yolox(tmp_path / "yolox_l.onnx"))(dark) == [[], []]


def test_missing_and_unfit_weights_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"sapiens_pose\.onnx"):
        load_estimator("sapiens")
    with pytest.raises(WeightsError, match=r"sapiens_pose\.onnx"):
        load_estimator("sapiens", weights=tmp_path)
    with pytest.raises(WeightsError, match=r"sapiens_normal\.onnx"):
        SapiensNormals(tmp_path)
    frames = with_spots()[None]
    with pytest.raises(ValueError, match="not 133 heatmaps"):
        Sapiens(weights / "sapiens_normal.onnx")(frames)
    with pytest.raises(ValueError, match="gives 3 channels, not 28"):
        SapiensSegmentation(weights / "sapiens_normal.onnx")(frames)


# --- the hand video ---------------------------------------------------------------------------------


@pytest.fixture
def quarters() -> np.ndarray:
    """Frames of four plain quarters: red and green above, blue and black below."""
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:32, :48], frame[:32, 48:], frame[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return np.stack([frame, frame[:, ::-1], frame[::-1]])


def test_normals_are_unit_vectors_of_the_frames_size(weights: Path, quarters: np.ndarray) -> None:
    normals = SapiensNormals(weights)(quarters)
    assert normals.shape == (3, 64, 96, 3)
    assert normals[0, 16, 24] == pytest.approx([1, 0, 0], abs=0.01)
    assert normals[0, 16, 72] == pytest.approx([0, 1, 0], abs=0.01)
    assert normals[1, 48, 72] == pytest.approx([0, 0, 1], abs=0.01)


def test_segmentation_gives_the_largest_class_at_the_frames_size(weights: Path, quarters: np.ndarray) -> None:
    parts = SapiensSegmentation(weights, batch=2)(quarters)
    assert parts.shape == (3, 64, 96)
    assert parts.dtype == np.uint8
    assert parts[:, [16, 16, 48, 48], [24, 72, 24, 72]].tolist() == [
        [5, 14, 3, 0],
        [14, 5, 0, 3],
        [3, 0, 5, 14],
    ]


def test_hand_video_shows_the_normals_of_both_hands_on_black(weights: Path, quarters: np.ndarray) -> None:
    video = hand_video(quarters, SapiensNormals(weights), SapiensSegmentation(weights))
    assert video.shape == quarters.shape
    assert video.dtype == np.uint8
    assert np.abs(video[0, 4:28, 4:44].astype(int) - [254, 127, 127]).max() <= 1
    assert np.abs(video[0, 4:28, 52:92].astype(int) - [127, 254, 127]).max() <= 1
    assert not video[0, 36:].any()
    assert np.abs(video[2, 36:60, 4:44].astype(int) - [254, 127, 127]).max() <= 1
