"""Limb lengths, on flat skeletons whose bones are known: lengths become the picture's, directions stay the driver's."""

from __future__ import annotations

import numpy as np
import pytest

from posegen.driving.alignment import align
from posegen.driving.proportions import length_factors, with_proportions
from posegen.driving.skeleton import FACE, FEET, LEFT_HAND, RIGHT_HAND, standing_height
from posegen.driving.skeleton import KEYPOINT_INDEX as INDEX

LENGTHS = {
    "trunk": 60.0,
    "neck": 30.0,
    "shoulder": 26.0,
    "upper arm": 39.0,
    "forearm": 31.0,
    "hip": 15.0,
    "thigh": 51.0,
    "shin": 51.0,
    "face": 1.0,
}
FRAMES = 40


def skeleton(
    angles: dict[str, float], lengths: dict[str, float], neck: tuple[float, float] = (100, 100)
) -> np.ndarray:
    """A pose (133, 3), all of it seen. Angles in radians from straight down, by joint: left_arm, left_fore, ..."""

    def on(start: np.ndarray, angle: float, length: float) -> np.ndarray:
        return start + length * np.array([np.sin(angle), np.cos(angle)])

    points = np.zeros((133, 2))
    neck_at = np.array(neck, float)
    pelvis, head = (
        on(neck_at, 0.0, lengths["trunk"]),
        on(neck_at, np.pi + angles.get("neck", 0), lengths["neck"]),
    )
    points[0] = head
    for number, name in enumerate(("left_eye", "right_eye", "left_ear", "right_ear"), 1):
        points[INDEX[name]] = head + lengths["face"] * np.array(
            [(-1) ** number * -6 * (1 + (number > 2)), -4.0 * (number < 3)]
        )
    corners = np.stack([np.cos(np.arange(68)), np.sin(np.arange(68))], axis=1)
    points[FACE] = head + lengths["face"] * 10 * corners
    for side, sign, hand, foot in (("left", 1, LEFT_HAND, 17), ("right", -1, RIGHT_HAND, 20)):
        shoulder = neck_at + np.array([sign * lengths["shoulder"], 0])
        elbow = on(shoulder, angles.get(f"{side}_arm", 0), lengths["upper arm"])
        wrist = on(elbow, angles.get(f"{side}_fore", 0), lengths["forearm"])
        hip = pelvis + np.array([sign * lengths["hip"], 0])
        knee = on(hip, angles.get(f"{side}_thigh", 0), lengths["thigh"])
        ankle = on(knee, angles.get(f"{side}_shin", 0), lengths["shin"])
        for name, point in zip(
            ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
            (shoulder, elbow, wrist, hip, knee, ankle),
            strict=True,
        ):
            points[INDEX[f"{side}_{name}"]] = point
        points[hand] = wrist + np.stack([np.arange(21), np.arange(21)], 1) / 3
        points[foot : foot + 3] = ankle + np.array([[12, 4], [10, 5], [-4, 4]])
    return np.concatenate([points, np.ones((133, 1))], axis=1).astype(np.float32)


def moving(lengths: dict[str, float], frames: int = FRAMES) -> np.ndarray:
    """Poses (T, 133, 3) that wave with both arms and step from leg to leg, one foot on the ground."""
    phases = 2 * np.pi * np.arange(frames) / 20
    poses = []
    for phase in phases:
        angles = {
            "left_arm": 1.5 * np.sin(phase),
            "left_fore": 2.0 + np.sin(phase),
            "right_arm": -1.0,
            "right_fore": -phase,
        }
        angles |= {"left_thigh": 0.5 * max(np.sin(phase), 0), "right_thigh": 0.5 * min(np.sin(phase), 0)}
        poses.append(skeleton(angles, lengths))
    return np.stack(poses)


def bone(poses: np.ndarray, start: str, end: str) -> np.ndarray:
    return poses[..., INDEX[end], :2] - poses[..., INDEX[start], :2]


LIMBS = {
    "upper arm": [("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow")],
    "forearm": [("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")],
    "thigh": [("left_hip", "left_knee"), ("right_hip", "right_knee")],
    "shin": [("left_knee", "left_ankle"), ("right_knee", "right_ankle")],
    "shoulder": [("left_shoulder", "right_shoulder")],
    "hip": [("left_hip", "right_hip")],
}


def test_of_like_proportions_nothing_changes_but_scale_and_place() -> None:
    driving, reference = moving(LENGTHS), skeleton({}, LENGTHS, (300, 200))
    reference[:, :2] = 2 * reference[:, :2]
    plain = align(driving, reference)
    assert np.allclose(with_proportions(driving, reference), plain, atol=0.05)


def test_lengths_are_the_pictures_and_directions_the_drivers() -> None:
    ours = LENGTHS | {
        "upper arm": 30.0,
        "forearm": 40.0,
        "thigh": 60.0,
        "shin": 44.0,
        "shoulder": 32.0,
        "trunk": 70.0,
    }
    driving = moving(LENGTHS) * np.array([0.5, 0.5, 1], np.float32)
    reference = skeleton({"left_arm": 0.4}, ours, (300, 200))
    made = with_proportions(driving, reference)
    for name, limbs in LIMBS.items():
        for limb in limbs:
            vectors, before = bone(made, *limb), bone(driving, *limb)
            wanted = ours[name] * (2 if "left" in limb[0] and "right" in limb[1] else 1)
            assert np.allclose(np.linalg.norm(vectors, axis=1), wanted, rtol=0.01), name
            cosine = (
                (vectors * before).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(before, axis=1)
            )
            assert np.allclose(cosine, 1, atol=1e-4), name


def test_hands_feet_and_face_go_with_their_bones() -> None:
    ours = LENGTHS | {"forearm": 50.0, "shin": 40.0, "neck": 36.0, "face": 1.5}
    driving, reference = moving(LENGTHS), skeleton({}, ours)
    made = with_proportions(driving, reference)
    scale = standing_height(reference) / standing_height(skeleton({}, LENGTHS))
    for joint, points in (("left_wrist", LEFT_HAND), ("right_ankle", slice(20, 23))):
        there, before = (poses[:, points, :2] - poses[:, None, INDEX[joint], :2] for poses in (made, driving))
        assert np.allclose(there, scale * before, atol=0.1), joint
    face = [poses[:, FACE, :2] - poses[:, :1, :2] for poses in (made, driving)]
    assert np.allclose(face[0], 1.5 * face[1], atol=0.2)
    assert np.allclose(np.linalg.norm(made[:, 0, :2] - made[:, [5, 6], :2].mean(1), axis=1), 36, atol=0.4)


def test_bones_that_the_picture_does_not_show_keep_the_drivers_share() -> None:
    reference = skeleton({}, LENGTHS | {"upper arm": 30.0, "forearm": 99.0, "thigh": 99.0}, (300, 200))
    for name in ("wrist", "knee", "ankle"):
        reference[[INDEX[f"left_{name}"], INDEX[f"right_{name}"]], 2] = 0.1
    reference[FEET, 2] = 0
    driving = moving(LENGTHS)
    factors = length_factors(driving, reference)
    assert factors["forearm"] == factors["thigh"] == factors["shin"] == 1
    made = with_proportions(driving, reference)
    assert np.allclose(np.linalg.norm(bone(made, "left_hip", "left_knee"), axis=1), 51, rtol=0.01)
    assert np.allclose(np.linalg.norm(bone(made, "left_shoulder", "left_elbow"), axis=1), 30, rtol=0.01)


def test_one_foot_stays_on_the_ground_and_a_jump_is_as_much_higher_as_the_legs_are_longer() -> None:
    driving = moving(LENGTHS)
    driving[10:15, :, 1] -= 20
    made = with_proportions(driving, skeleton({}, LENGTHS | {"thigh": 68.0, "shin": 68.0}))
    ground = made[:, FEET, 1].max(axis=1)
    height = standing_height(made[0]) / standing_height(driving[0])
    assert np.allclose(np.delete(ground, range(10, 15)), ground[0], atol=0.1)
    leg = np.linalg.norm(bone(made, "left_hip", "left_knee"), axis=1)[0] / 51
    assert np.allclose(ground[10:15], ground[0] - 20 * leg, atol=0.5), height


def test_a_shortened_arm_is_shortened_still_and_an_unseen_joint_carries_nothing_away() -> None:
    driving = moving(LENGTHS)
    elbow, wrist = INDEX["left_elbow"], INDEX["left_wrist"]
    shoulder = driving[:, INDEX["left_shoulder"], :2]
    frames = slice(0, 10)  # the arm is towards the camera
    driving[frames, elbow, :2] = shoulder[frames] + 0.3 * (driving[frames, elbow, :2] - shoulder[frames])
    driving[20, elbow] = -5000, 9000, 0
    made = with_proportions(driving, skeleton({}, LENGTHS | {"upper arm": 46.8}))
    lengths = np.linalg.norm(bone(made, "left_shoulder", "left_elbow"), axis=1)
    assert np.allclose(lengths[:10] / lengths[15], 0.3, rtol=0.01)
    assert np.linalg.norm(made[20, wrist, :2] - made[19, wrist, :2]) < 40


@pytest.mark.parametrize("unseen", [range(133), range(5, 7)])
def test_what_cannot_be_grown_is_only_laid_onto_the_picture(unseen: range) -> None:
    driving, reference = moving(LENGTHS), skeleton({}, LENGTHS)
    driving[:, list(unseen), 2] = 0
    if len(unseen) == 133:
        with pytest.raises(ValueError, match="no part of the body is seen in both"):
            with_proportions(driving, reference)
    else:
        assert np.array_equal(with_proportions(driving, reference), align(driving, reference))
