"""Poses that differ a little from the person in the video, so that a model does not rely on a perfect estimator.

A change holds for a whole span, as it would for a real estimator or another body: one scale, one shift,
and for each kind of limb one length on both sides. Joints are lost for a run of frames, as if hidden. Pictures are
never changed: scale and shift stay small, because nothing tells the model what they were; limbs may differ more,
because the reference picture shows their true lengths.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from posegen.driving.skeleton import BODY, FEET, KEYPOINT_INDEX, LEFT_HAND, RIGHT_HAND, VISIBLE


@dataclass(frozen=True)
class PoseAugmentation:
    """How far poses are changed; all zeros change nothing."""

    scale: float = 0.03
    """The pose is scaled around its middle by up to this share, up or down."""
    shift: float = 0.01
    """It is moved by up to this share of the picture's sides."""
    limbs: float = 0.08
    """Upper arms, forearms, thighs and shins get longer or shorter by up to this share, what hangs on them moves."""
    drop_joint: float = 0.03
    """Chance of each joint of the body to be lost for a part of the span; a wrist takes its hand along."""


def random_of(seed: int, clip_id: str, epoch: int, purpose: str) -> np.random.Generator:
    """The random numbers of an item for one purpose: a function of these four and nothing else."""
    digest = hashlib.sha256(f"{seed} {clip_id} {epoch} {purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


_LEFT = {
    "hand": [*range(LEFT_HAND.start, LEFT_HAND.stop)],
    "foot": [*range(FEET.start, FEET.start + 3)],
}
_RIGHT = {
    "hand": [*range(RIGHT_HAND.start, RIGHT_HAND.stop)],
    "foot": [*range(FEET.start + 3, FEET.stop)],
}


def _limbs(side: str, ends: dict[str, list[int]]) -> list[list[tuple[int, int, list[int]]]]:
    """Upper arm, forearm, thigh, shin of a side: (start, end, all points that move with the end)."""
    joint = {name: KEYPOINT_INDEX[f"{side}_{name}"] for name in _JOINTS}
    forearm, shin = [joint["wrist"], *ends["hand"]], [joint["ankle"], *ends["foot"]]
    return [
        [(joint["shoulder"], joint["elbow"], [joint["elbow"], *forearm])],
        [(joint["elbow"], joint["wrist"], forearm)],
        [(joint["hip"], joint["knee"], [joint["knee"], *shin])],
        [(joint["knee"], joint["ankle"], shin)],
    ]


_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
# By kind of limb, from the trunk outwards: both sides get the same factor.
_KINDS = [left + right for left, right in zip(_limbs("left", _LEFT), _limbs("right", _RIGHT), strict=True)]
# What is lost together with a joint of the body.
_LOST_WITH = {
    KEYPOINT_INDEX["left_wrist"]: _LEFT["hand"],
    KEYPOINT_INDEX["right_wrist"]: _RIGHT["hand"],
    KEYPOINT_INDEX["left_ankle"]: _LEFT["foot"],
    KEYPOINT_INDEX["right_ankle"]: _RIGHT["foot"],
}


def augment(
    keypoints: np.ndarray, size: tuple[int, int], settings: PoseAugmentation, random: np.random.Generator
) -> np.ndarray:
    """Poses (F, 133, 3) float32 like the given ones, in pixels of a picture of size (width, height); NaN stays NaN."""
    poses = keypoints.astype(np.float32, copy=True)
    _change_limbs(poses, settings.limbs, random)
    visible = poses[:, BODY, :2][poses[:, BODY, 2] >= VISIBLE]
    middle = visible.mean(axis=0) if len(visible) else np.array(size) / 2
    scale = 1 + random.uniform(-settings.scale, settings.scale)
    shift = random.uniform(-settings.shift, settings.shift, 2) * size
    poses[..., :2] = scale * (poses[..., :2] - middle) + middle + shift
    _lose_joints(poses, settings.drop_joint, random)
    return poses


def _change_limbs(poses: np.ndarray, most: float, random: np.random.Generator) -> None:
    for kind in _KINDS:
        change = random.uniform(-most, most)
        for start, end, moving in kind:
            poses[:, moving, :2] += change * (poses[:, end, :2] - poses[:, start, :2])[:, None]


def _lose_joints(poses: np.ndarray, chance: float, random: np.random.Generator) -> None:
    frames = len(poses)
    for joint in range(FEET.start):
        lost, first, last = random.uniform(size=3)
        if lost < chance:
            span = slice(int(min(first, last) * frames), int(max(first, last) * frames) + 1)
            poses[span, [joint, *_LOST_WITH.get(joint, [])], 2] = 0
