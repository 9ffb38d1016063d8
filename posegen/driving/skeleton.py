"""The 133 points of COCO-WholeBody: order, names, left and right, and what is measured on poses alone.

A pose is one array (133, 3) of x, y in pixels and confidence 0..1; left and right are the person's own. The OpenPose
order of 134 points, which the drawn pose picture needs, is derived from it, never stored. A point counts as visible
from a confidence of 0.3 on, the value the pose pictures were trained with.
"""

from __future__ import annotations

import numpy as np

VISIBLE = 0.3

BODY = slice(0, 17)
FEET = slice(17, 23)
FACE = slice(23, 91)
LEFT_HAND = slice(91, 112)
RIGHT_HAND = slice(112, 133)

_FINGERS = [
    f"{finger}{joint}"
    for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
    for joint in range(1, 5)
]
_SIDED = ["eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"]
KEYPOINT_NAMES: tuple[str, ...] = (
    "nose",
    *(f"{side}_{name}" for name in _SIDED for side in ("left", "right")),
    *(f"{side}_{name}" for side in ("left", "right") for name in ("big_toe", "small_toe", "heel")),
    *(f"face-{point}" for point in range(68)),
    *(f"{side}_{name}" for side in ("left", "right") for name in ["hand_root", *_FINGERS]),
)
KEYPOINT_INDEX: dict[str, int] = {name: index for index, name in enumerate(KEYPOINT_NAMES)}

# The 68 face points (iBUG 300-W): runs of points that mirror onto themselves, first with last.
_FACE_MIRRORED_RUNS = [
    range(0, 17),  # jaw
    range(17, 27),  # eyebrows
    *(range(point, point + 1) for point in range(27, 31)),  # bridge of the nose
    range(31, 36),  # nostrils
    [36, 37, 38, 39, 42, 43, 44, 45],  # upper rims of the eyes
    [40, 41, 46, 47],  # lower rims of the eyes
    range(48, 55),  # outer lip, above
    range(55, 60),  # outer lip, below
    range(60, 65),  # inner lip, above
    range(65, 68),  # inner lip, below
]


def _flip_order() -> np.ndarray:
    order = np.arange(133)
    for index, name in enumerate(KEYPOINT_NAMES):
        if name.startswith("left_"):
            other = KEYPOINT_INDEX["right_" + name.removeprefix("left_")]
            order[[index, other]] = other, index
    for run in _FACE_MIRRORED_RUNS:
        order[[FACE.start + point for point in run]] = [FACE.start + point for point in reversed(run)]
    return order


FLIP_ORDER = _flip_order()
"""(133,) for each point the index of its mirror image; `FLIP_ORDER[FLIP_ORDER]` is the identity."""


def flip(keypoints: np.ndarray, width: float) -> np.ndarray:
    """The poses (..., 133, 3) in the mirrored picture of `width` pixels: column x becomes width - 1 - x."""
    flipped = keypoints[..., FLIP_ORDER, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


# OpenPose order, by index into the 133 points with the neck appended as number 133.
NECK = 133
OPENPOSE_ORDER = np.array(
    [0, NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3, *range(17, 133)], dtype=np.intp
)


def to_openpose(keypoints: np.ndarray) -> np.ndarray:
    """The poses (..., 133, 3) in OpenPose order (..., 134, 3); the neck is the mean of the shoulders."""
    shoulders = [KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]]
    neck = keypoints[..., shoulders, :].mean(axis=-2, keepdims=True)
    return np.concatenate([keypoints, neck], axis=-2)[..., OPENPOSE_ORDER, :]


def bounding_box(keypoints: np.ndarray, threshold: float = VISIBLE) -> np.ndarray | None:
    """The box (4,) float32 x0, y0, x1, y1 around the points of at least that confidence, if there are any."""
    visible = keypoints[keypoints[:, 2] >= threshold, :2]
    if not len(visible):
        return None
    return np.concatenate([visible.min(axis=0), visible.max(axis=0)]).astype(np.float32)


# Lengths as shares of body height (Drillis & Contini 1966, in Winter, Biomechanics and Motor Control of Human
# Movement, fig. 4.1); the head's breadth between the ears is 0.155 m of 1.75 m (NASA-STD-3000).
_SHARES_OF_HEIGHT = {
    ("left_shoulder", "left_elbow"): 0.186,
    ("left_elbow", "left_wrist"): 0.146,
    ("left_hip", "left_knee"): 0.245,
    ("left_knee", "left_ankle"): 0.246,
    ("left_shoulder", "left_hip"): 0.288,
    ("right_shoulder", "right_elbow"): 0.186,
    ("right_elbow", "right_wrist"): 0.146,
    ("right_hip", "right_knee"): 0.245,
    ("right_knee", "right_ankle"): 0.246,
    ("right_shoulder", "right_hip"): 0.288,
    ("left_shoulder", "right_shoulder"): 0.259,
    ("left_ear", "right_ear"): 0.089,
}
_MEASURED = np.array([[KEYPOINT_INDEX[name] for name in link] for link in _SHARES_OF_HEIGHT])  # (12, 2)
_SHARES = np.array(list(_SHARES_OF_HEIGHT.values()))  # (12,)


def standing_height(keypoints: np.ndarray, threshold: float = VISIBLE) -> float:
    """How many pixels tall the person would stand in the picture; 0 where no limb is visible.

    Each visible limb speaks for a height. Foreshortening makes limbs look shorter, never longer, which asks
    for the largest; the upper quartile is taken, so that one misplaced joint does not make a giant.
    """
    ends = keypoints[_MEASURED]  # (12, 2, 3)
    visible = (ends[..., 2] >= threshold).all(axis=1)
    lengths = np.linalg.norm(ends[visible, 0, :2] - ends[visible, 1, :2], axis=-1)
    return float(np.quantile(lengths / _SHARES[visible], 0.75)) if visible.any() else 0.0


def pose_distance(a: np.ndarray, b: np.ndarray, threshold: float = VISIBLE) -> np.ndarray:
    """How differently two people stand, wherever and however large they are: 0 for the same pose.

    a, b: (..., 133, 3), broadcast against each other; the result has their leading shape. Counted are the
    body and feet points visible in both. Each pose is moved so that their mean is 0 and scaled so that their
    root mean square distance from it is 1 (Procrustes without rotation: lying differs from standing); the
    distance, 0..2, is the mean over points of how far the two then lie apart. An arm lifted overhead costs
    about 0.2, lying down 1.3. NaN where fewer than 4 points are shared or they all fall on one place.
    """
    a, b = np.broadcast_arrays(a[..., : FEET.stop, :], b[..., : FEET.stop, :])
    shared = (a[..., 2] >= threshold) & (b[..., 2] >= threshold)  # (..., 23)
    count = shared.sum(axis=-1)
    weights = (shared / np.maximum(count, 1)[..., None])[..., None]  # (..., 23, 1)
    apart = np.linalg.norm(_normalised(a[..., :2], weights) - _normalised(b[..., :2], weights), axis=-1)
    return np.where(count >= 4, (apart * weights[..., 0]).sum(axis=-1), np.nan)


def _normalised(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Points (..., K, 2) of weighted mean 0 and weighted mean square 1; NaN where they coincide."""
    centred = points - (points * weights).sum(axis=-2, keepdims=True)
    size = np.sqrt((centred**2 * weights).sum(axis=(-2, -1), keepdims=True))
    return centred / np.where(size > 0, size, np.nan)
