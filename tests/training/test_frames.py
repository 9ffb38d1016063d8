"""The window that is cut out of a clip's pictures follows from where the person is."""

from __future__ import annotations

import numpy as np
import pytest

from posegen.driving.alignment import fit
from posegen.driving.skeleton import KEYPOINT_INDEX
from training.data.frames import person_window
from training.data.items import Bucket

PORTRAIT, SQUARE = (360, 640), Bucket(360, 360, 9)


def standing(top: float, bottom: float, x: float = 180.0, frames: int = 9) -> np.ndarray:
    """Poses (F, 133, 3) of joints from nose to ankles on a vertical line, in pixels."""
    poses = np.zeros((frames, 133, 3), np.float32)
    poses[:, :17] = 1
    poses[:, :17, 0] = x + np.linspace(-20, 20, 17)
    poses[:, :17, 1] = np.linspace(top, bottom, 17)
    return poses


def test_a_square_of_a_tall_picture_shows_the_head_of_who_is_taller_than_it() -> None:
    poses = standing(top=40, bottom=620)
    nose = KEYPOINT_INDEX["nose"]
    centred = fit(PORTRAIT, SQUARE[:2]).keypoints(poses)
    assert (centred[:, nose, 1] < 0).all()  # what a cut from the middle leaves out
    window = person_window(poses, PORTRAIT, SQUARE)
    cut = window.keypoints(poses)
    assert (cut[:, nose, 1] > 0.05 * SQUARE.height).all() and (cut[:, nose, 2] == 1).all()
    feet = KEYPOINT_INDEX["left_ankle"]
    assert (cut[:, feet, 1] > SQUARE.height).all() and (cut[:, feet, 2] == 0).all()  # outside and so unseen


def test_the_window_is_where_the_person_is() -> None:
    landscape = (640, 360)
    right = person_window(standing(40, 300, x=500), landscape, SQUARE)
    assert (right.left, right.top) == (640 - 360, 0)
    between = person_window(standing(40, 300, x=300), landscape, SQUARE)
    assert between.left == pytest.approx(300 - 180, abs=2)
    x = between.keypoints(standing(40, 300, x=300))[..., :17, 0]
    assert x.mean() == pytest.approx(180, abs=2)


def test_one_window_holds_a_span_whatever_a_few_joints_do() -> None:
    poses = standing(200, 400)
    slipped = poses.copy()
    slipped[3, 9, :2] = (10_000, 10_000)
    assert person_window(slipped, PORTRAIT, SQUARE) == person_window(poses, PORTRAIT, SQUARE)


def test_without_a_person_it_is_the_middle_and_poses_stay_without_one() -> None:
    nobody = np.full((9, 133, 3), np.nan, np.float32)
    window = person_window(nobody, PORTRAIT, SQUARE)
    assert (window.left, window.top) == (0, 140)
    assert np.isnan(window.keypoints(nobody)).all()


def test_cut_pictures_and_keypoints_agree() -> None:
    picture = np.zeros((640, 360, 3), np.uint8)
    poses = standing(40, 620)
    window = person_window(poses, PORTRAIT, SQUARE)
    x, y = poses[0, 0, :2].round().astype(int)
    picture[y, x] = 255
    shown = window.keypoints(poses)[0, 0, :2].round().astype(int)
    assert window.cut(picture)[shown[1], shown[0]].tolist() == [255] * 3
