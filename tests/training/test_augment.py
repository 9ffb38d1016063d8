"""Changed poses: the same for the same item, small, and those of one body."""

from __future__ import annotations

import numpy as np
import pytest

from mini_model.puppets import motion
from posegen.driving.skeleton import KEYPOINT_INDEX, LEFT_HAND, VISIBLE
from training.data.augment import PoseAugmentation, augment, random_of

SIZE = (64, 96)
NONE = PoseAugmentation(scale=0, shift=0, limbs=0, drop_joint=0)


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    return motion(5, 17, size=SIZE)


def changed(poses: np.ndarray, epoch: int = 0, **settings: float) -> np.ndarray:
    zero = {"scale": 0.0, "shift": 0.0, "limbs": 0.0, "drop_joint": 0.0}
    random = random_of(0, "a clip", epoch, "pose")
    return augment(poses, SIZE, PoseAugmentation(**zero | settings), random)


def length(poses: np.ndarray, start: str, end: str) -> np.ndarray:
    return np.linalg.norm(poses[:, KEYPOINT_INDEX[start], :2] - poses[:, KEYPOINT_INDEX[end], :2], axis=-1)


def test_an_item_is_changed_alike_every_time_and_differently_in_another_epoch(poses: np.ndarray) -> None:
    default = PoseAugmentation()
    first, again = (augment(poses, SIZE, default, random_of(1, "a", 2, "pose")) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for seed, clip_id, epoch in ((2, "a", 2), (1, "b", 2), (1, "a", 3)):
        other = augment(poses, SIZE, default, random_of(seed, clip_id, epoch, "pose"))
        assert not np.array_equal(first, other)


def test_nothing_asked_for_changes_nothing(poses: np.ndarray) -> None:
    before = poses.copy()
    np.testing.assert_allclose(changed(poses), poses, atol=1e-4)
    augment(poses, SIZE, PoseAugmentation(), random_of(0, "a", 0, "pose"))
    np.testing.assert_array_equal(poses, before)  # the caller's stay as they were


def test_scale_and_shift_move_all_frames_alike(poses: np.ndarray) -> None:
    larger = changed(poses, scale=0.3)
    factor = length(larger, "left_hip", "left_knee") / length(poses, "left_hip", "left_knee")
    np.testing.assert_allclose(factor, factor[0], rtol=1e-4)
    assert 0.7 <= factor[0] <= 1.3 and abs(factor[0] - 1) > 0.01
    moved = changed(poses, shift=0.1)[..., :2] - poses[..., :2]
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0], moved.shape), atol=1e-4)
    assert (np.abs(moved[0, 0]) <= 0.1 * np.array(SIZE)).all() and np.abs(moved).max() > 0.1


def test_limbs_change_in_length_by_kind_and_keep_their_direction(poses: np.ndarray) -> None:
    other = changed(poses, limbs=0.2)
    factors = []
    for start, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
        left, right = (
            length(other, f"{side}_{start}", f"{side}_{end}")
            / length(poses, f"{side}_{start}", f"{side}_{end}")
            for side in ("left", "right")
        )
        np.testing.assert_allclose(left, left[0], rtol=1e-3)
        np.testing.assert_allclose(left, right, rtol=1e-3)
        factors.append(left[0])
    assert len(set(np.round(factors, 3))) == 4 and all(0.8 <= factor <= 1.2 for factor in factors)
    wrist = KEYPOINT_INDEX["left_wrist"]
    hand, before = (p[:, LEFT_HAND, :2] - p[:, [wrist], :2] for p in (other, poses))
    np.testing.assert_allclose(hand, before, atol=1e-3)  # a hand goes with its wrist as it is
    trunk = [KEYPOINT_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("shoulder", "hip")]
    np.testing.assert_array_equal(other[:, trunk], poses[:, trunk])


def test_joints_are_lost_for_a_run_of_frames_with_their_hands(poses: np.ndarray) -> None:
    poses = poses.copy()
    poses[..., 2] = 1
    lost = changed(poses, drop_joint=1.0)[..., 2] == 0
    for joint in range(23):
        edges = np.abs(np.diff(lost[:, joint].astype(int))).sum()
        assert lost[:, joint].any() and edges <= 2
    np.testing.assert_array_equal(lost[:, LEFT_HAND][:, 3], lost[:, KEYPOINT_INDEX["left_wrist"]])
    share = (changed(poses, drop_joint=0.1)[:, :17, 2] == 0).any(axis=0).mean()
    assert share < 0.5


def test_frames_without_a_person_stay_without(poses: np.ndarray) -> None:
    poses = poses.copy()
    poses[3:6] = np.nan
    other = augment(poses, SIZE, PoseAugmentation(), random_of(0, "a", 0, "pose"))
    assert np.isnan(other[3:6, :, :2]).all()
    assert not (other[3:6, :, 2] >= VISIBLE).any()
    assert np.isfinite(other[:3]).all()
    nobody = augment(np.full_like(poses, np.nan), SIZE, NONE, random_of(0, "a", 0, "pose"))
    assert np.isnan(nobody[..., :2]).all()
