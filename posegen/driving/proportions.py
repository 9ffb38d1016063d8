"""A driving person's movement on the proportions of the picture's person: bone by bone, directions kept.

Lengths are those of the picture as they are seen, so foreshortening in the movement stays: a bone is longer or shorter
by one factor throughout. The factor compares shares of the body's height, so a person who comes nearer does not grow
another arm. Left and right share one, of the side that is seen longer; a bone that the picture does not show keeps the
driver's share. Then the person stands where they should: what a leg is longer is added to each step and jump, and the
feet stay on the ground.
"""

from __future__ import annotations

import numpy as np

from posegen.driving.alignment import align, lay_torso
from posegen.driving.skeleton import (
    FACE,
    FEET,
    KEYPOINT_INDEX,
    LEFT_HAND,
    RIGHT_HAND,
    VISIBLE,
    standing_height,
)

LONGEST = 0.8
"""Quantile of a bone's seen lengths that is its length: most frames foreshorten it, and some are mistaken."""
MOST = 2.0
"""The greatest factor of a bone's length, and the inverse of the least; beyond it, a joint is misplaced."""

MOST_BROAD = 1.25
"""The same for shoulders and hips, which who is turned a little shows narrower."""

NECK, PELVIS, HEAD = 133, 134, 135  # points that are means of others, behind the 133
_MEANS = {
    NECK: [KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]],
    PELVIS: [KEYPOINT_INDEX["left_hip"], KEYPOINT_INDEX["right_hip"]],
    HEAD: [KEYPOINT_INDEX[name] for name in ("nose", "left_ear", "right_ear")],
}


def _joints(name: str) -> list[int]:
    return [KEYPOINT_INDEX[f"{side}_{name}"] for side in ("left", "right")]


# Each bone's ends on one or both sides, from the neck outwards.
_BONES: dict[str, list[tuple[int, int]]] = {
    "trunk": [(NECK, PELVIS)],
    "neck": [(NECK, HEAD)],
    "shoulder": [(NECK, joint) for joint in _joints("shoulder")],
    "upper arm": list(zip(_joints("shoulder"), _joints("elbow"), strict=True)),
    "forearm": list(zip(_joints("elbow"), _joints("wrist"), strict=True)),
    "hip": [(PELVIS, joint) for joint in _joints("hip")],
    "thigh": list(zip(_joints("hip"), _joints("knee"), strict=True)),
    "shin": list(zip(_joints("knee"), _joints("ankle"), strict=True)),
}
_PARENT = {end: start for bone in _BONES.values() for start, end in bone}
# Points that move with a joint as they are: hands and feet.
_CARRIED = {
    KEYPOINT_INDEX["left_wrist"]: range(LEFT_HAND.start, LEFT_HAND.stop),
    KEYPOINT_INDEX["right_wrist"]: range(RIGHT_HAND.start, RIGHT_HAND.stop),
    KEYPOINT_INDEX["left_ankle"]: range(FEET.start, FEET.start + 3),
    KEYPOINT_INDEX["right_ankle"]: range(FEET.start + 3, FEET.stop),
}
_HEAD_POINTS = [*range(KEYPOINT_INDEX["right_ear"] + 1), *range(FACE.start, FACE.stop)]


def with_proportions(driving: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Driving poses (T, 133, 3) with the limb lengths of the picture's person (133, 3), laid onto that person.

    Raises ValueError as `align` does, where the two people have nothing in common.
    """
    placed = align(driving, reference)
    points = _with_means(placed)
    there = np.flatnonzero(points[:, NECK, 2] >= VISIBLE)
    if not len(there):
        return placed  # nothing to grow the body from
    for axis in (0, 1):  # a neck that is not seen is between those before and after
        points[:, NECK, axis] = np.interp(np.arange(len(points)), there, points[there, NECK, axis])
    factors = length_factors(placed, reference)
    grown = _grown(points, factors)
    grown[..., :2] += _standing(points, grown, (factors["thigh"] + factors["shin"]) / 2)[:, None]
    return lay_torso(grown[:, :133].astype(np.float32), reference)


def length_factors(driving: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """How many times as long, as a share of body height, the picture's bones (133, 3) are as those of the driver, by
    the bone's name; "face" is the same of the face's size. 1 where either is not seen."""
    ours, theirs = _with_means(reference[None]), _with_means(driving)
    heights = np.array([standing_height(pose) for pose in driving])
    height = standing_height(reference)

    def factor(wanted: np.ndarray, lengths: np.ndarray, most: float) -> float:
        shares = lengths / np.where(heights > 0, heights, np.nan)
        if not np.nanmax(wanted, initial=0) or not np.isfinite(shares).any() or not height:
            return 1.0
        there = np.nanquantile(shares, LONGEST)
        return float(np.clip(np.nanmax(wanted) / height / there, 1 / most, most)) if there > 0 else 1.0

    factors = {}
    for name, bone in _BONES.items():
        wanted = np.concatenate([_length(ours, *ends) for ends in bone])
        lengths = np.fmax.reduce([_length(theirs, *ends) for ends in bone])
        factors[name] = factor(wanted, lengths, MOST_BROAD if name in ("shoulder", "hip") else MOST)
    shared = [point for point in _HEAD_POINTS if reference[point, 2] >= VISIBLE]
    factors["face"] = factor(_spread(ours, shared), _spread(theirs, shared), MOST) if len(shared) > 2 else 1.0
    return factors


def _with_means(poses: np.ndarray) -> np.ndarray:
    """Poses (T, 133, 3) with neck, pelvis and head behind them (T, 136, 3) float64; a head is the mean of what is
    seen of it, neck and pelvis ask for both sides."""
    points = np.concatenate([poses.astype(np.float64), np.zeros((len(poses), 3, 3))], axis=1)
    for mean in (NECK, PELVIS):
        points[:, mean, :2] = points[:, _MEANS[mean], :2].mean(axis=1)
        points[:, mean, 2] = points[:, _MEANS[mean], 2].min(axis=1)
    head = points[:, _MEANS[HEAD]]
    seen = (head[..., 2] >= VISIBLE).astype(float)
    points[:, HEAD, :2] = (head[..., :2] * seen[..., None]).sum(1) / np.maximum(seen.sum(1), 1)[:, None]
    points[:, HEAD, 2] = head[..., 2].max(axis=1)
    return points


def _length(points: np.ndarray, start: int, end: int) -> np.ndarray:
    """The lengths (T,) of a bone in pixels; NaN where an end is not seen."""
    seen = (points[:, [start, end], 2] >= VISIBLE).all(axis=1)
    return np.where(seen, np.linalg.norm(points[:, end, :2] - points[:, start, :2], axis=-1), np.nan)


def _spread(points: np.ndarray, of: list[int]) -> np.ndarray:
    """How far apart (T,) points lie: their root mean square distance from their mean; NaN where one is not seen."""
    group = points[:, of]
    away = group[..., :2] - group[..., :2].mean(axis=1, keepdims=True)
    seen = (group[..., 2] >= VISIBLE).all(axis=1)
    return np.where(seen, np.sqrt((away**2).sum(axis=-1).mean(axis=-1)), np.nan)


def _grown(points: np.ndarray, factors: dict[str, float]) -> np.ndarray:
    """The points (T, 136, 3) with each bone's factor; the neck stays."""
    grown = points.copy()
    visible = points[..., 2] >= VISIBLE
    for name, bone in _BONES.items():
        for start, end in bone:
            old, new = _nearest_seen(points, grown, visible, start)
            grown[:, end, :2] = new + factors[name] * (points[:, end, :2] - old)
    for joint, carried in _CARRIED.items():
        grown[:, carried, :2] += (grown[:, joint, :2] - points[:, joint, :2])[:, None]
    head = points[:, _HEAD_POINTS, :2] - points[:, HEAD, None, :2]
    grown[:, _HEAD_POINTS, :2] = grown[:, HEAD, None, :2] + factors["face"] * head
    return grown


def _nearest_seen(
    points: np.ndarray, grown: np.ndarray, visible: np.ndarray, joint: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where a joint, or the first seen one between it and the neck, is and was moved to, (T, 2) each."""
    old, new = points[:, joint, :2].copy(), grown[:, joint, :2].copy()
    unseen = ~visible[:, joint]
    while unseen.any() and joint != NECK:
        joint = _PARENT[joint]
        old[unseen], new[unseen] = points[unseen, joint, :2], grown[unseen, joint, :2]
        unseen &= ~visible[:, joint]
    return old, new


def _standing(points: np.ndarray, grown: np.ndarray, leg: float) -> np.ndarray:
    """How far (T, 2) each frame's body is to be moved: paths as many times as long as the legs, feet on the ground."""
    root = points[:, NECK, :2]
    shift = (leg - 1) * (root - root[0])
    feet = [*_joints("ankle"), *range(FEET.start, FEET.stop)]
    seen = (points[:, feet, 2] >= VISIBLE) & np.isfinite(points[:, feet, 1])
    there = np.flatnonzero(seen.any(axis=1))
    if len(there):
        ground, now = (
            np.where(seen, poses[:, feet, 1], -np.inf).max(axis=1)[there] for poses in (points, grown)
        )
        wanted = ground[0] + leg * (ground - ground[0])
        shift[:, 1] = np.interp(np.arange(len(points)), there, wanted - now)
    return shift
