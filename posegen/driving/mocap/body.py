"""A motion-capture skeleton's 133 points in space: limbs as captured, head and feet completed, fingers where there are.

Lengths are in body heights, told from the legs. Axes: x to the person's left at the start, y up, z where they face. The
up axis is found from the motion, as files are made with y or z up. A recording has no face, so the directions of the
nose and the eyes are those that, fixed to the head's joint, agree best with the trunk's over all frames: who turns
their head is seen to, and no pose of rest is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from posegen.driving.mocap.motion import Motion
from posegen.driving.mocap.names import FINGERS, LIMBS, name_joints
from posegen.driving.skeleton import FACE, KEYPOINT_INDEX, LEFT_HAND, RIGHT_HAND

LEGS = 0.491
"""Thigh and shin as a share of body height (Drillis & Contini 1966, see `posegen.driving.skeleton`)."""
HEAD_UP = 0.135  # from the middle of the shoulders to that of the ears, in body heights
# Nose, eyes and ears about the middle of the ears, in body heights: to the left, up, ahead.
_HEAD = np.array(
    [(0, -0.014, 0.062), (0.02, 0.013, 0.044), (-0.02, 0.013, 0.044), (0.0445, 0, 0), (-0.0445, 0, 0)]
)
_OUTWARD = np.array([(0, 0, 1), (0.42, 0, 0.91), (-0.42, 0, 0.91), (0.97, 0, 0.24), (-0.97, 0, 0.24)])
HEEL, BROAD = 0.045, 0.03  # from the ankle to the heel, and from toe to toe, in body heights


@dataclass(frozen=True)
class Body:
    """points: (T, 133, 3) in body heights; seen: (133,) which of them the recording has. outward: (T, 5, 3) which way
    nose, eyes and ears face. ground: the height of the soles when standing."""

    points: np.ndarray
    seen: np.ndarray
    outward: np.ndarray
    ground: float


def body_of(motion: Motion, names: Mapping[str, str] | None = None) -> Body:
    """The body in a motion; names: see `name_joints`. Raises ValueError for a skeleton that is not understood."""
    found = name_joints(motion.names, names)
    at, turned = motion.world()
    joints = {name: at[:, index] for name, index in found.items()}
    height = _height(joints)
    axes = _axes(joints, max(1, round(motion.rate)))
    joints = {name: places @ axes / height for name, places in joints.items()}
    points, seen = np.zeros((len(motion), 133, 3)), np.zeros(133, bool)
    for side in ("left", "right"):
        for limb in LIMBS:
            points[:, KEYPOINT_INDEX[f"{side}_{limb}"]] = joints[f"{side}_{limb}"]
            seen[KEYPOINT_INDEX[f"{side}_{limb}"]] = True
        _place_foot(points, seen, joints, side)
        _place_hand(points, seen, joints, side)
    top = (
        motion.names.index(end)
        if (end := f"{motion.names[found['head']]} end") in motion.names
        else found["head"]
    )
    turned_head = axes.T @ turned[:, found["head"]]
    outward = _place_head(points, at[:, top] @ axes / height, turned_head)
    seen[:5] = True
    points[:, FACE] = points[:, :1]
    soles = points[:, [KEYPOINT_INDEX[f"{side}_ankle"] for side in ("left", "right")], 1].min(axis=1) - HEEL
    return Body(points, seen, outward, float(np.median(soles)))


def _height(joints: Mapping[str, np.ndarray]) -> float:
    """How tall the person is, in the file's unit."""
    legs = [
        np.linalg.norm(joints[f"{side}_{end}"] - joints[f"{side}_{start}"], axis=-1)
        for side in ("left", "right")
        for start, end in (("hip", "knee"), ("knee", "ankle"))
    ]
    height = float(np.median(np.sum(legs, axis=0))) / 2 / LEGS
    if not height > 0:
        raise ValueError("The skeleton's legs have no length; export the motion as BVH again.")
    return height


def _middle(joints: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return (joints[f"left_{name}"] + joints[f"right_{name}"]) / 2


def up_axis(motion: Motion, names: Mapping[str, str] | None = None) -> int:
    """The index of the world's axis along which the person stands; raises ValueError as `body_of`."""
    at, _ = motion.world()
    return _up({name: at[:, index] for name, index in name_joints(motion.names, names).items()})[0]


def _up(joints: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """The axis that points up, and 1, or -1 where it points down."""
    upright = (joints["head"] - _middle(joints, "ankle")).mean(axis=0)
    axis = int(np.abs(upright).argmax())
    return axis, float(np.sign(upright[axis]))


def _axes(joints: Mapping[str, np.ndarray], first: int) -> np.ndarray:
    """Our axes as columns (3, 3), by the way the person faces in the first frames."""
    axis, sign = _up(joints)
    up = sign * np.eye(3)[axis]
    left = sum(joints[f"left_{name}"] - joints[f"right_{name}"] for name in ("shoulder", "hip"))[:first].mean(
        axis=0
    )
    ahead = _unit(np.cross(left, up) + 1e-9 * np.roll(up, 1))
    return np.stack([np.cross(up, ahead), up, ahead], axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _place_head(points: np.ndarray, top: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Places nose, eyes and ears, given the head's top (T, 3) and how its joint is turned; returns which way they
    face (T, 5, 3)."""
    shoulders = [points[:, KEYPOINT_INDEX[f"{side}_shoulder"]] for side in ("left", "right")]
    hips = points[:, [KEYPOINT_INDEX["left_hip"], KEYPOINT_INDEX["right_hip"]]].mean(axis=1)
    neck = np.mean(shoulders, axis=0)
    up, trunk = _unit(top - neck), _unit(neck - hips)
    ahead = _unit(np.cross(shoulders[0] - shoulders[1], trunk))
    # The directions that are constant in the joint's own axes, then as it turns them.
    ahead = _unit(np.einsum("tji,tj->ti", turned, ahead).mean(axis=0))
    above = np.einsum("tji,tj->ti", turned, up).mean(axis=0)
    above = _unit(above - (above @ ahead) * ahead)
    head = turned @ np.stack([np.cross(above, ahead), above, ahead], axis=1)  # (T, 3, 3)
    points[:, :5] = (neck + HEAD_UP * up)[:, None] + _HEAD @ head.swapaxes(1, 2)
    return _OUTWARD @ head.swapaxes(1, 2)


def _place_foot(points: np.ndarray, seen: np.ndarray, joints: Mapping[str, np.ndarray], side: str) -> None:
    """Toes and heel about the foot's axis, if the recording has one."""
    ankle, knee = joints[f"{side}_ankle"], joints[f"{side}_knee"]
    names = [KEYPOINT_INDEX[f"{side}_{name}"] for name in ("big_toe", "small_toe", "heel")]
    if f"{side}_toe" not in joints:
        points[:, names] = ankle[:, None]
        return
    toe, shin = joints[f"{side}_toe"], _unit(ankle - knee)
    along = _unit(toe - ankle)
    across = joints["left_hip"] - joints["right_hip"]
    # To the person's left; of toes that point down like the shin the hips tell it.
    left = _unit(np.cross(along, shin) + 0.05 * _unit(across))
    outwards = left if side == "left" else -left
    below = _unit(shin - (shin * along).sum(axis=-1, keepdims=True) * along)
    places = (toe - BROAD / 3 * outwards, toe + 2 * BROAD / 3 * outwards, ankle + HEEL * below)
    for name, place in zip(names, places, strict=True):
        points[:, name] = place
    seen[names] = True


def _place_hand(points: np.ndarray, seen: np.ndarray, joints: Mapping[str, np.ndarray], side: str) -> None:
    hand = LEFT_HAND if side == "left" else RIGHT_HAND
    points[:, hand] = joints[f"{side}_wrist"][:, None]
    fingers = [f"{side}_{finger}{number}" for finger in FINGERS for number in range(1, 5)]
    if all(name in joints for name in fingers):
        points[:, hand.start + 1 : hand.stop] = np.stack([joints[name] for name in fingers], axis=1)
        seen[hand] = True
