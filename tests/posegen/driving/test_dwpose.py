"""Boxes, windows, the YOLOX detector and DWPose, on ONNX files of the published ones' inputs and outputs."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from posegen.common.weights import WeightsError
from posegen.driving.poses import load_estimator
from posegen.driving.poses.boxes import Window, letterbox, suppress
from posegen.driving.poses.dwpose import DWPose, decode_simcc
from posegen.driving.poses.runtime import CudaError, ONNXModel
from posegen.driving.poses.yolox import YoloxDetector
from testkit import onnx_models
from testkit.onnx_models import BLUE, DETECTED, GREEN

WIDTH, HEIGHT = 320, 208  # of the frames
SCALE = 416 / WIDTH  # detector pixels a frame pixel
CHANNELS = [GREEN, BLUE] * 66 + [GREEN]  # even keypoints look for green, odd ones for blue
RED, GREEN_DOT, BLUE_DOT = (160, 0, 0), (0, 255, 0), (0, 0, 255)


def spot(frame: np.ndarray, x: float, y: float, colour: tuple[int, int, int], sigma: float = 1.5) -> None:
    """Adds a round spot with its brightest point at (x, y)."""
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    brightness = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    frame[:] = np.maximum(frame, np.round(brightness[..., None] * colour))


def mark(frame: np.ndarray, column: int, row: int, colour: tuple[int, int, int] = RED) -> np.ndarray:
    """Colours what the detector sees as one of its cells of 8 x 8; returns the box it must then find."""
    x0, y0, x1, y1 = (np.array([column, row, column + 1, row + 1]) * 8 / SCALE).round().astype(int)
    frame[y0:y1, x0:x1] = colour
    centre = (np.array([column, row]) + 0.5) * 8 / SCALE
    half = np.array(DETECTED) / SCALE / 2
    return np.concatenate([centre - half, centre + half])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has it."""
    folder = tmp_path_factory.mktemp("dwpose")
    onnx_models.yolox(folder / "yolox_l.onnx")
    onnx_models.simcc(folder / "dw-ll_ucoco_384.onnx", CHANNELS)
    return folder


@pytest.fixture(scope="module")
def estimator(weights: Path) -> DWPose:
    return DWPose(weights)


@pytest.fixture
def frames() -> np.ndarray:
    """Three frames: two people, nobody, one; each person a red mark with a green and a blue spot beside."""
    frames = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    for number, column, row, colour in ((0, 10, 15, RED), (0, 38, 14, (200, 0, 0)), (2, 26, 12, RED)):
        mark(frames[number], column, row, colour)
        x, y = (column + 0.5) * 8 / SCALE, (row + 0.5) * 8 / SCALE
        spot(frames[number], round(x) - 8, round(y) - 11, GREEN_DOT)
        spot(frames[number], round(x) + 9, round(y) + 14, BLUE_DOT)
    return frames


# --- boxes and windows ------------------------------------------------------------------------------


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [50, 50, 60, 60]], float)
    scores = np.array([0.5, 0.9, 0.4, 0.6])
    assert suppress(boxes, scores, 0.45).tolist() == [1, 3, 2]  # IoU with the best: 0.82, 1, 0.43, 0
    assert suppress(boxes, scores, 0.42).tolist() == [1, 3]


def test_suppression_of_nothing_is_nothing() -> None:
    assert suppress(np.empty((0, 4)), np.empty(0), 0.45).tolist() == []


def test_letterbox_fills_with_grey_below_and_beside() -> None:
    wide, scale = letterbox(np.full((100, 200, 3), 7, np.uint8), (416, 416))
    assert scale == 2.08
    assert (wide[:208] == 7).all()
    assert (wide[208:] == 114).all()
    tall, scale = letterbox(np.full((832, 208, 3), 7, np.uint8), (416, 416))
    assert scale == 0.5
    assert (tall[:, :104] == 7).all()
    assert (tall[:, 104:] == 114).all()


boxes_of_any_kind = hnp.arrays(np.float64, 4, elements=st.floats(0, 2000)).map(
    lambda corner: np.concatenate([corner[:2], corner[:2] + 1 + corner[2:] / 2])
)


@settings(deadline=None)
@given(boxes_of_any_kind, st.booleans(), hnp.arrays(np.float64, (5, 2), elements=st.floats(-500, 1500)))
def test_points_return_from_the_window(box: np.ndarray, unbiased: bool, points: np.ndarray) -> None:
    window = Window.around(box, (288, 384), unbiased)
    there = (window.to_frame(points) - window.origin) * window.scale
    assert np.allclose(there, points, atol=1e-6)


@settings(deadline=None)
@given(boxes_of_any_kind, st.booleans())
def test_a_window_holds_the_box_in_its_middle(box: np.ndarray, unbiased: bool) -> None:
    window = Window.around(box, (288, 384), unbiased)
    last = np.array([288, 384]) - unbiased
    centre, far = window.to_frame(last / 2), window.to_frame(last)
    grown = (box[2:] - box[:2]) * 1.25
    assert np.allclose(centre, (box[:2] + box[2:]) / 2)
    assert (far - window.origin >= grown - 1e-6).all()
    assert np.isclose(far - window.origin, grown).any()  # no larger than it must be
    extent = far - window.origin
    assert np.isclose(extent[0] / extent[1], 288 / 384)


@settings(deadline=None)
@given(st.integers(30, 60), st.integers(30, 60), st.booleans())
def test_a_spot_in_the_crop_is_the_spot_in_the_frame(x: int, y: int, unbiased: bool) -> None:
    frame = np.zeros((90, 90, 3), np.uint8)
    spot(frame, x, y, (255, 255, 255))
    window = Window.around(np.array([20.0, 15, 70, 75]), (288, 384), unbiased)
    crop = window.crop(frame)[..., 0].astype(float)
    assert crop.shape == (384, 288)
    rows, columns = np.nonzero(crop > 200)
    found = np.average(np.stack([columns, rows], 1), axis=0, weights=crop[rows, columns])
    assert window.to_frame(found) == pytest.approx([x, y], abs=0.1)


# --- the detector -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [416, 640])
def test_detector_reads_its_size_and_finds_boxes(side: int, tmp_path: Path) -> None:
    detector = YoloxDetector(onnx_models.yolox(tmp_path / "yolox.onnx", side))
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    scale = side / WIDTH
    x0, y0, x1, y1 = (np.array([25, 15, 26, 16]) * 8 / scale).round().astype(int)
    frame[y0:y1, x0:x1] = RED
    ((boxes, scores),) = detector(frame[None])
    centre, half = np.array([25.5, 15.5]) * 8 / scale, np.array(DETECTED) / scale / 2
    assert boxes == pytest.approx(np.concatenate([centre - half, centre + half])[None], abs=0.01)
    assert 0.3 < scores[0] < 0.65


def test_detector_ignores_other_colours_and_weak_marks(weights: Path) -> None:
    frames = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    mark(frames[0], 10, 15, (0, 0, 255))  # would be found if the channels were not exchanged
    mark(frames[1], 10, 15, (70, 0, 0))  # under the score
    for boxes, scores in YoloxDetector(weights / "yolox_l.onnx")(frames):
        assert boxes.shape == (0, 4)
        assert scores.shape == (0,)


def test_detector_keeps_the_best_of_overlapping_marks(weights: Path) -> None:
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mark(frame, 21, 11, (150, 0, 0))  # IoU 0.52 with the best
    best = mark(frame, 22, 12, (220, 0, 0))
    beside = mark(frame, 24, 12, (180, 0, 0))  # IoU 0.43
    ((boxes, scores),) = YoloxDetector(weights / "yolox_l.onnx")(frame[None])
    assert boxes == pytest.approx(np.stack([best, beside]), abs=0.01)
    assert scores[0] > scores[1]


@pytest.mark.parametrize("batch", [None, 2])
def test_detector_batches_as_the_file_allows(batch: int | None, weights: Path, tmp_path: Path,
                                             frames: np.ndarray) -> None:  # fmt: skip
    one_by_one = YoloxDetector(weights / "yolox_l.onnx")(frames)
    together = YoloxDetector(onnx_models.yolox(tmp_path / "yolox.onnx", batch=batch))(frames)
    assert [len(boxes) for boxes, _ in together] == [2, 0, 1]
    for (boxes, scores), (others, other_scores) in zip(one_by_one, together, strict=True):
        assert boxes == pytest.approx(others, abs=1e-3)
        assert scores == pytest.approx(other_scores, abs=1e-5)


# --- DWPose -----------------------------------------------------------------------------------------


def test_simcc_decodes_half_pixels_and_the_smaller_maximum() -> None:
    columns, rows = np.zeros((1, 133, 576)), np.zeros((1, 133, 768))
    columns[0, :, 301], rows[0, :, 76] = 0.9, 0.6
    points, confidences = decode_simcc(columns, rows)
    assert (points == [150.5, 38]).all()
    assert (confidences == 0.6).all()


def test_keypoints_are_exact_through_the_whole_path(estimator: DWPose, frames: np.ndarray) -> None:
    people = estimator(frames)
    assert [len(found) for found in people] == [2, 0, 1]
    for number, place, column, row in ((0, 0, 38, 14), (0, 1, 10, 15), (2, 0, 26, 12)):
        person = people[number][place]
        x, y = (column + 0.5) * 8 / SCALE, (row + 0.5) * 8 / SCALE
        half = np.array(DETECTED) / SCALE / 2
        assert person.box == pytest.approx([x - half[0], y - half[1], x + half[0], y + half[1]], abs=0.01)
        assert person.keypoints.shape == (133, 3)
        assert person.keypoints.dtype == np.float32
        green, blue = [round(x) - 8, round(y) - 11], [round(x) + 9, round(y) + 14]
        assert np.abs(person.keypoints[::2, :2] - green).max() <= 0.1
        assert np.abs(person.keypoints[1::2, :2] - blue).max() <= 0.1
        assert person.keypoints[:, 2] == pytest.approx(np.ones(133), abs=0.02)


def test_batches_give_what_single_frames_and_people_give(weights: Path, frames: np.ndarray) -> None:
    together = DWPose(weights, batch=8)(frames)
    apart = DWPose(weights, batch=1)
    for number, people in enumerate(together):
        (alone,) = apart(frames[number : number + 1])
        for person, other in zip(people, alone, strict=True):
            assert np.allclose(person.keypoints, other.keypoints, atol=1e-3)
            assert person.score == pytest.approx(other.score, abs=1e-5)


def test_same_frames_give_the_same_people_again(estimator: DWPose, frames: np.ndarray) -> None:
    first = estimator(frames)
    estimator(frames[::-1])
    estimator.reset()
    again = estimator(frames)
    assert all(
        np.array_equal(a.keypoints, b.keypoints)
        for one, two in zip(first, again, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_empty_frames_have_no_people(estimator: DWPose) -> None:
    assert estimator(np.zeros((2, 48, 64, 3), np.uint8)) == [[], []]
    assert estimator(np.zeros((0, 48, 64, 3), np.uint8)) == []


def test_loads_by_name_with_another_detector(weights: Path, tmp_path: Path, frames: np.ndarray) -> None:
    small = onnx_models.yolox(tmp_path / "yolox_nano.onnx", side=416)
    assert [len(people) for people in load_estimator("dwpose", weights=weights, detector=small)(frames)] == [
        2,
        0,
        1,
    ]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"yolox_l\.onnx"):
        DWPose(tmp_path)
    onnx_models.yolox(tmp_path / "yolox_l.onnx")
    with pytest.raises(WeightsError, match=r"dw-ll_ucoco_384\.onnx"):
        DWPose(tmp_path)


def test_unfit_files_are_refused(weights: Path, tmp_path: Path, frames: np.ndarray) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"damaged\.onnx cannot be read as an ONNX model"):
        YoloxDetector(damaged)
    with pytest.raises(ValueError, match="not YOLOX's raw cells"):
        YoloxDetector(weights / "dw-ll_ucoco_384.onnx")(frames)
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    onnx_models.yolox(swapped / "dw-ll_ucoco_384.onnx")
    with pytest.raises(ValueError, match="SimCC bins"):
        DWPose(swapped, detector=weights / "yolox_l.onnx")(frames)


def test_a_gpu_that_cannot_be_used_is_said_and_not_passed_over(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_alone = ["CPUExecutionProvider"]  # also where this machine has a GPU
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: cpu_alone)
    with pytest.raises(CudaError, match=r"yolox_l.onnx was to run on a GPU.*install onnxruntime-gpu"):
        ONNXModel(weights / "yolox_l.onnx", cuda=True)


def test_without_onnxruntime_it_is_said_what_to_install(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where no package brings it
    with pytest.raises(ValueError, match=r"yolox_l.onnx needs onnxruntime: pip install 'posegen\[cpu\]'"):
        ONNXModel(weights / "yolox_l.onnx")
