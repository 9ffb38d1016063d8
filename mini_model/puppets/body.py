"""A jointed body in space: from joint angles to the 133 points as a camera in front sees them.

Lengths are shares of standing height, after Drillis & Contini (1966) as in posegen.driving.skeleton,
with a head a little larger, so that faces read in small pictures; the camera is far away (no perspective) and looks
down a little, so that the nearer foot is the lower one. Body axes: X to the person's own left, Y down, Z to the front.
A body of yaw 0 faces the camera, one of +90 degrees faces the picture's right side and shows its own right side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from posegen.driving.skeleton import FACE, KEYPOINT_INDEX, LEFT_HAND, RIGHT_HAND

TORSO, UPPER_ARM, FOREARM, THIGH, SHANK = 0.288, 0.186, 0.146, 0.245, 0.246
SHOULDER, HIP = 0.115, 0.062  # half widths between the joints
HEAD_UP = 0.135  # from the middle between the shoulders to the middle between the ears
ANKLE_UP, HEEL_BACK, TOE_FORWARD = 0.039, 0.04, 0.105
HAND = 0.1
CAMERA_PITCH = 0.12  # radians
SEEN, HIDDEN = 0.95, 0.1  # confidences


@dataclass
class Arm:
    """Angles (T,) or scalars in radians: swing 0 hangs, pi/2 points forward; out lifts it sideways; bend_up and
    bend_in say in which direction the elbow (flex) bends away from forward; curl of the fingers is 0..1."""

    swing: np.ndarray | float = 0.0
    out: np.ndarray | float = 0.12
    elbow: np.ndarray | float = 0.15
    bend_up: np.ndarray | float = 0.0
    bend_in: np.ndarray | float = 0.0
    curl: np.ndarray | float = 0.3


@dataclass
class Leg:
    """Angles (T,) or scalars in radians, as an arm's; foot lifts the toes."""

    swing: np.ndarray | float = 0.0
    out: np.ndarray | float = 0.04
    knee: np.ndarray | float = 0.03
    foot: np.ndarray | float = 0.0


@dataclass
class Angles:
    """A motion: everything (T,) or scalar, angles in radians, lengths in body heights."""

    yaw: np.ndarray | float = 0.0
    lean: np.ndarray | float = 0.0  # forward
    roll: np.ndarray | float = 0.0  # to the person's left
    twist: np.ndarray | float = 0.0  # of the shoulders over the hips
    head_yaw: np.ndarray | float = 0.0
    head_pitch: np.ndarray | float = 0.0  # down
    mouth: np.ndarray | float = 0.0  # how far open, 0..1
    across: np.ndarray | float = 0.0  # way to the picture's right
    jump: np.ndarray | float = 0.0
    left_arm: Arm = field(default_factory=Arm)
    right_arm: Arm = field(default_factory=Arm)
    left_leg: Leg = field(default_factory=Leg)
    right_leg: Leg = field(default_factory=Leg)


@dataclass(frozen=True)
class Build:
    """Limb lengths as factors of the mean."""

    arms: float = 1.0
    legs: float = 1.0
    torso: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0
    head: float = 1.15


def pose(angles: Angles, frames: int, build: Build) -> np.ndarray:
    """The keypoints (T, 133, 3) of a body of height 1 whose soles stand on y = 0 at x = 0; y grows downwards."""
    points = np.zeros((frames, 133, 3))  # in body axes, about the middle between the hips
    pelvis = np.broadcast_to(np.eye(3), (frames, 3, 3))
    chest = _turned(_spread(angles.twist, frames), "y")
    chest = chest @ _turned(_spread(angles.roll, frames), "z") @ _turned(-_spread(angles.lean, frames), "x")
    neck = -TORSO * build.torso * chest[..., 1]
    head = chest @ _turned(_spread(angles.head_yaw, frames), "y")
    head = head @ _turned(-_spread(angles.head_pitch, frames), "x")
    normals = _place_head(points, neck, chest, head, angles, build)
    for name, sign, arm, leg in (
        ("left", 1, angles.left_arm, angles.left_leg),
        ("right", -1, angles.right_arm, angles.right_leg),
    ):
        _place_arm(points, name, sign, arm, neck, chest, build)
        _place_leg(points, name, sign, leg, pelvis, build)
    view = _turned(_spread(angles.yaw, frames), "y")
    points, normals = points @ view.swapaxes(1, 2), normals @ view.swapaxes(1, 2)
    keypoints = np.empty_like(points)
    keypoints[..., 0] = points[..., 0] + _spread(angles.across, frames)[:, None]
    keypoints[..., 1] = points[..., 1] * np.cos(CAMERA_PITCH) + points[..., 2] * np.sin(CAMERA_PITCH)
    soles = keypoints[:, 17:23, 1].max(axis=1) + _spread(angles.jump, frames)
    keypoints[..., 1] -= soles[:, None]
    keypoints[..., 2] = np.where(normals[..., 2] > -0.1, SEEN, HIDDEN)
    return keypoints


def _spread(value: np.ndarray | float, frames: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=float), (frames,))


def _turned(angle: np.ndarray, axis: str) -> np.ndarray:
    """Rotation matrices (T, 3, 3); about y, a positive angle turns front (Z) to +X."""
    cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = {
        "x": [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]],
        "y": [[cos, zero, sin], [zero, one, zero], [-sin, zero, cos]],
        "z": [[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]],
    }[axis]
    return np.moveaxis(np.array(rows), -1, 0)


def _direction(frame: np.ndarray, sign: int, swing: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Unit vectors (T, 3) of a limb that hangs (0, 0), in the axes of `frame`."""
    local = np.stack([sign * np.sin(out), np.cos(out) * np.cos(swing), np.cos(out) * np.sin(swing)], axis=-1)
    return np.einsum("tij,tj->ti", frame, local)


def _bent(direction: np.ndarray, towards: np.ndarray, flex: np.ndarray) -> np.ndarray:
    """The direction (T, 3) turned by `flex` towards another."""
    across = _unit(towards - (towards * direction).sum(-1, keepdims=True) * direction)
    return np.cos(flex)[:, None] * direction + np.sin(flex)[:, None] * across


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def _place_arm(
    points: np.ndarray, name: str, sign: int, arm: Arm, neck: np.ndarray, chest: np.ndarray, build: Build
) -> None:
    frames = len(points)
    up, inward = _spread(arm.bend_up, frames)[:, None], _spread(arm.bend_in, frames)[:, None]
    left, down, front = chest[..., 0], chest[..., 1], chest[..., 2]
    upper = _direction(chest, sign, _spread(arm.swing, frames), _spread(arm.out, frames))
    lower = _bent(upper, (1 - up) * front - up * down - sign * inward * left, _spread(arm.elbow, frames))
    shoulder = neck + sign * SHOULDER * build.shoulders * left
    elbow = shoulder + UPPER_ARM * build.arms * upper
    wrist = elbow + FOREARM * build.arms * lower
    for joint, place in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist)):
        points[:, KEYPOINT_INDEX[f"{name}_{joint}"]] = place
    raised = (1 - (lower * down).sum(-1, keepdims=True)) / 2  # a raised hand shows its palm to the front
    across = (1 - raised) * front - raised * sign * left - 0.3 * down
    across = _unit(across - (across * lower).sum(-1, keepdims=True) * lower)  # to the thumb
    palm = sign * np.cross(across, lower)
    hand = LEFT_HAND if sign > 0 else RIGHT_HAND
    points[:, hand] = _hand(wrist, lower, across, palm, _spread(arm.curl, frames))


def _hand(
    wrist: np.ndarray, along: np.ndarray, across: np.ndarray, palm: np.ndarray, curl: np.ndarray
) -> np.ndarray:
    """A hand's 21 points (T, 21, 3): root, then thumb to little finger from knuckle to tip."""
    hand = np.empty((len(wrist), 21, 3))
    hand[:, 0] = wrist
    for finger, (side, reach, splay) in enumerate(
        [(0.3, 0.3, 0.8), (0.2, 0.5, 0.25), (0.02, 0.52, 0.03), (-0.14, 0.49, -0.18), (-0.28, 0.45, -0.38)]
    ):
        point = wrist + HAND * (side * across + reach * along)
        hand[:, 4 * finger + 1] = point
        for joint, share in enumerate((0.24, 0.16, 0.13)):
            angle = (curl * (0.5 if finger == 0 else 1.35) * (joint + 1))[:, None] * 0.75
            ahead = _unit(np.cos(splay) * along + np.sin(splay) * across)
            point = point + HAND * share * (np.cos(angle) * ahead + np.sin(angle) * palm)
            hand[:, 4 * finger + 2 + joint] = point
    return hand


def _place_leg(points: np.ndarray, name: str, sign: int, leg: Leg, pelvis: np.ndarray, build: Build) -> None:
    frames = len(points)
    left, down, front = pelvis[..., 0], pelvis[..., 1], pelvis[..., 2]
    thigh = _direction(pelvis, sign, _spread(leg.swing, frames), _spread(leg.out, frames))
    shank = _bent(thigh, -front, _spread(leg.knee, frames))
    hip = sign * HIP * build.hips * left
    knee = hip + THIGH * build.legs * thigh
    ankle = knee + SHANK * build.legs * shank
    lift = _spread(leg.foot, frames)[:, None]
    ahead = _unit(np.cos(lift) * (front + 0.25 * sign * left) - np.sin(lift) * down)
    below = _unit(np.cos(lift) * down + np.sin(lift) * front)
    toes = ankle + ANKLE_UP * below + TOE_FORWARD * ahead
    for joint, place in (
        ("hip", hip),
        ("knee", knee),
        ("ankle", ankle),
        ("heel", ankle + ANKLE_UP * below - HEEL_BACK * ahead),
        ("big_toe", toes - 0.012 * sign * left),
        ("small_toe", toes + 0.022 * sign * left - 0.02 * ahead),
    ):
        points[:, KEYPOINT_INDEX[f"{name}_{joint}"]] = place


def _face_template() -> np.ndarray:
    """The 68 face points in head axes, about the middle between the ears, in heights of a body."""
    jaw_angle = np.linspace(-1.35, 1.35, 17)[::-1]  # from the person's right ear to the left
    jaw = np.stack(
        [-0.045 * np.sin(jaw_angle), 0.068 * np.cos(jaw_angle) ** 0.8, 0.046 * np.cos(jaw_angle) ** 0.6], -1
    )
    brow = np.stack([np.linspace(-0.032, -0.009, 5), -0.028 - 0.004 * np.sin(np.linspace(0.3, 2.6, 5))], -1)
    nose = [(0, y, z) for y, z in ((-0.012, 0.05), (-0.003, 0.053), (0.006, 0.057), (0.014, 0.061))]
    nostrils = [(x, 0.021, 0.053) for x in np.linspace(-0.009, 0.009, 5)]
    eye = [(-0.028, 0), (-0.023, -0.005), (-0.017, -0.005), (-0.012, 0), (-0.017, 0.004), (-0.023, 0.004)]
    eyes = [(x, y - 0.013, 0.044) for x, y in eye]
    other = [(-x, y - 0.013, 0.044) for x, y in (eye[3], eye[2], eye[1], eye[0], eye[5], eye[4])]
    brows = [(x, y, 0.046) for x, y in brow] + [(-x, y, 0.046) for x, y in brow[::-1]]
    outer = [(0.019 * np.cos(a), 0.04 + 0.007 * np.sin(a), 0.046) for a in np.pi + np.arange(12) * np.pi / 6]
    inner = [(0.014 * np.cos(a), 0.04 + 0.002 * np.sin(a), 0.046) for a in np.pi + np.arange(8) * np.pi / 4]
    return np.array([*jaw, *brows, *nose, *nostrils, *eyes, *other, *outer, *inner], dtype=float)


FACE_POINTS = _face_template()
_MOUTH_BELOW = np.array(
    [0] * 55 + [0.6, 0.9, 1, 0.9, 0.6] + [0] * 5 + [0.9, 1, 0.9]
)  # (68,) moved by opening
HEAD_POINTS = np.array(
    [(0, 0.014, 0.062), (0.02, -0.013, 0.044), (-0.02, -0.013, 0.044), (0.05, 0, 0), (-0.05, 0, 0)]
)


def _place_head(
    points: np.ndarray, neck: np.ndarray, chest: np.ndarray, head: np.ndarray, angles: Angles, build: Build
) -> np.ndarray:
    """Places nose, eyes, ears and face; returns outward normals (T, 133, 3), front-facing off the head."""
    frames = len(points)
    centre = neck - (HEAD_UP + 0.05 * (build.head - 1)) * chest[..., 1]
    face = np.repeat(FACE_POINTS[None], frames, axis=0)
    face[..., 1] += 0.02 * _spread(angles.mouth, frames)[:, None] * _MOUTH_BELOW
    normals = np.zeros_like(points)
    for part, local in ((slice(0, 5), np.repeat(HEAD_POINTS[None], frames, axis=0)), (FACE, face)):
        points[:, part] = centre[:, None] + build.head * local @ head.swapaxes(1, 2)
        normals[:, part] = _unit(local * [1, 0, 1] + [0, 0, 0.012]) @ head.swapaxes(1, 2)
    return normals
