"""The skeleton's facts against the authors' palette and pictures; flips, masks and distances."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from posegen.driving import drawing, skeleton
from testkit import ROOT

DATA = ROOT / "tests/data"
PALETTE = json.loads((DATA / "skeleton_palette.json").read_text())
ORACLE = np.load(DATA / "skeleton.npz")
POSES = np.concatenate([ORACLE["keypoints"], ORACLE["scores"][..., None]], axis=-1)  # (6, 133, 3)

poses = hnp.arrays(np.float64, (133, 3), elements=st.floats(0, 1)).map(lambda pose: pose * [192, 320, 1])


def standing() -> np.ndarray:
    """An upright person, all points sure, 280 pixels tall."""
    pose = POSES[0].copy()
    pose[:, 2] = 1
    return pose


# --- order, names, colours ------------------------------------------------------------------------


def test_names_follow_coco_wholebody() -> None:
    assert len(set(skeleton.KEYPOINT_NAMES)) == 133
    assert skeleton.KEYPOINT_NAMES[skeleton.FEET] == (
        "left_big_toe",
        "left_small_toe",
        "left_heel",
        "right_big_toe",
        "right_small_toe",
        "right_heel",
    )
    assert skeleton.KEYPOINT_NAMES[91] == "left_hand_root"
    assert skeleton.KEYPOINT_NAMES[132] == "right_pinky_finger4"


def test_openpose_order_has_the_palettes_names() -> None:
    names = np.array([*skeleton.KEYPOINT_NAMES, "neck"])
    assert names[skeleton.OPENPOSE_ORDER].tolist() == PALETTE["keypoint_names"]


def test_neck_is_the_mean_of_the_shoulders() -> None:
    pose = standing()
    assert np.allclose(skeleton.to_openpose(pose)[1], (pose[5] + pose[6]) / 2)


def test_colours_are_the_palettes_reversed() -> None:
    links, colours = PALETTE["links"], PALETTE["link_colors_as_written"]
    body = {tuple(link): tuple(colour[::-1]) for link, colour in zip(links[:23], colours[:23], strict=True)}
    assert body == drawing.BODY_LINKS
    assert list(body) == list(drawing.BODY_LINKS)  # later links are drawn over earlier ones
    joints = [tuple(colour[::-1]) for colour in PALETTE["keypoint_colors_as_written"][:24]]
    assert joints == drawing.JOINT_COLOURS


def test_hand_links_are_the_palettes() -> None:
    left = [[start - 92, end - 92] for start, end in PALETTE["links"][23:43]]
    right = [[start - 113, end - 113] for start, end in PALETTE["links"][43:]]
    assert left == right == [list(link) for link in drawing.HAND_LINKS]


# --- the pose picture -----------------------------------------------------------------------------


def test_pictures_equal_the_authors() -> None:
    drawn = np.stack([drawing.draw(pose, (192, 320)) for pose in POSES])
    different = (drawn != ORACLE["image"]).any(axis=-1).mean(axis=(1, 2))
    assert different.max() <= 0.001


def test_an_unsure_pose_leaves_the_picture_black() -> None:
    pose = standing()
    pose[:, 2] = 0.29
    assert not drawing.draw(pose, (192, 320)).any()


def test_hands_need_more_confidence_than_the_body() -> None:
    pose = standing()
    whole = drawing.draw(pose, (192, 320))
    pose[skeleton.LEFT_HAND.start :, 2] = 0.69
    white = (255, 255, 255)
    assert (whole == white).all(axis=-1).any()
    assert not (drawing.draw(pose, (192, 320)) == white).all(axis=-1).any()


def test_points_outside_the_picture_are_cut_off() -> None:
    pose = standing()
    pose[:, :2] -= [100, 150]
    whole = drawing.draw(standing(), (192, 320))
    shifted = drawing.draw(pose, (192, 320))
    assert np.array_equal(shifted[:160, 10:80], whole[150:310, 110:180])


def test_drawing_over_a_frame_changes_a_copy_where_the_skeleton_is() -> None:
    frame = np.full((320, 192, 3), 90, np.uint8)
    over = drawing.draw_over(frame, standing())
    skeleton_only = drawing.draw(standing(), (192, 320))
    drawn = skeleton_only.any(axis=-1)
    assert (frame == 90).all()
    assert np.array_equal(over[drawn], skeleton_only[drawn])
    assert (over[~drawn] == 90).all()


# --- flips ----------------------------------------------------------------------------------------


def test_flip_exchanges_left_and_right() -> None:
    for index, name in enumerate(skeleton.KEYPOINT_NAMES[: skeleton.FACE.start]):
        mirrored = name.replace("left", "x").replace("right", "left").replace("x", "right")
        assert skeleton.KEYPOINT_NAMES[skeleton.FLIP_ORDER[index]] == mirrored


FACE_MIRRORS = "0-16 8-8 17-26 21-22 27-27 30-30 31-35 33-33 36-45 37-44 39-42 40-47 41-46 48-54 51-51 55-59"
FACE_MIRRORS += " 57-57 60-64 62-62 65-67 66-66"


@pytest.mark.parametrize("pair", FACE_MIRRORS.split())
def test_face_points_mirror_as_ibug_has_them(pair: str) -> None:
    point, mirror = (skeleton.FACE.start + int(number) for number in pair.split("-"))
    assert skeleton.FLIP_ORDER[point] == mirror
    assert skeleton.FLIP_ORDER[mirror] == point


@settings(deadline=None)
@given(poses, st.integers(1, 2000))
def test_flipping_twice_changes_nothing(pose: np.ndarray, width: int) -> None:
    assert np.allclose(skeleton.flip(skeleton.flip(pose, width), width), pose, atol=1e-9)


def test_flip_works_on_whole_videos_and_leaves_its_input() -> None:
    before = POSES.copy()
    flipped = skeleton.flip(POSES, 192)
    assert np.array_equal(POSES, before)
    assert np.array_equal(flipped[3], skeleton.flip(POSES[3], 192))


# --- measures -------------------------------------------------------------------------------------


def test_bounding_box_holds_the_visible_points() -> None:
    pose = np.zeros((133, 3))
    pose[7], pose[20], pose[30] = (10, 50, 0.3), (40, 20, 0.9), (500, 500, 0.29)
    box = skeleton.bounding_box(pose)
    assert box is not None
    assert box.tolist() == [10, 20, 40, 50]
    assert box.dtype == np.float32
    assert skeleton.bounding_box(np.zeros((133, 3))) is None


def test_standing_height_is_about_the_persons() -> None:
    pose = standing()
    tall = np.ptp(pose[[*range(17), *range(17, 23)], 1]) / 0.93  # from the eyes to the toes
    assert skeleton.standing_height(pose) == pytest.approx(tall, rel=0.25)
    assert skeleton.standing_height(pose * [2, 2, 1]) == pytest.approx(2 * skeleton.standing_height(pose))


def test_standing_height_survives_a_misplaced_joint_and_a_lost_person() -> None:
    pose = standing()
    honest = skeleton.standing_height(pose)
    pose[skeleton.KEYPOINT_INDEX["left_wrist"], 0] += 1000
    assert skeleton.standing_height(pose) == pytest.approx(honest, rel=0.2)
    assert skeleton.standing_height(np.zeros((133, 3))) == 0


@settings(deadline=None)
@given(poses, st.floats(0.2, 5), st.floats(-500, 500), st.floats(-500, 500))
def test_distance_ignores_place_and_size(pose: np.ndarray, scale: float, x: float, y: float) -> None:
    pose[:, 2] = 1
    pose[:2, :2] = [[0, 0], [100, 100]]  # never all in one place
    moved = pose * [scale, scale, 1] + [x, y, 0]
    assert skeleton.pose_distance(pose, moved) == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(poses, poses)
def test_distance_is_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    there, back = skeleton.pose_distance(a, b), skeleton.pose_distance(b, a)
    assert np.array_equal(there, back, equal_nan=True)
    assert np.isnan(there) or 0 <= there <= 2


def test_distance_tells_a_lifted_arm_from_lying_down() -> None:
    pose = standing()
    lifted = pose.copy()
    shoulder = pose[skeleton.KEYPOINT_INDEX["left_shoulder"], 1]
    for joint in ("left_elbow", "left_wrist"):
        index = skeleton.KEYPOINT_INDEX[joint]
        lifted[index, 1] = 2 * shoulder - lifted[index, 1]
    lying = pose[:, [1, 0, 2]]
    arm, down = skeleton.pose_distance(pose, np.stack([lifted, lying]))
    assert 0.05 < arm < 0.3
    assert down > 1


def test_distance_counts_points_visible_in_both_and_needs_four() -> None:
    pose, other = standing(), standing()
    other[10, :2] = 5000
    assert skeleton.pose_distance(pose, other) > 0.1
    other[10, 2] = 0
    assert skeleton.pose_distance(pose, other) == pytest.approx(0, abs=1e-6)
    other[3:, 2] = 0
    assert np.isnan(skeleton.pose_distance(pose, other))


# --- the foreground -------------------------------------------------------------------------------


def test_mask_covers_all_visible_points_and_little_else() -> None:
    pose = standing()
    mask = drawing.foreground_mask(pose, (192, 320))
    columns, rows = pose[:, :2].astype(int).T
    assert mask.dtype == bool
    assert mask.shape == (320, 192)
    assert mask[rows, columns].all()
    assert 0.05 < mask.mean() < 0.35


def test_mask_grows_with_the_person() -> None:
    small = drawing.foreground_mask(standing(), (192, 320))
    large = drawing.foreground_mask(standing() * [3, 3, 1], (576, 960))
    assert large.mean() == pytest.approx(small.mean(), rel=0.05)


def test_mask_of_nobody_is_empty_and_of_a_lone_hand_is_not() -> None:
    pose = standing()
    pose[:, 2] = 0
    assert not drawing.foreground_mask(pose, (192, 320)).any()
    pose[skeleton.LEFT_HAND, 2] = 1
    assert drawing.foreground_mask(pose, (192, 320)).any()
