"""Real motion for drawn people: keypoints found in a video, completed, smoothed and placed in a picture.

A puppet is drawn at every one of its 133 points, so what a detector did not see is filled in: each joint
moves with the joint it hangs on, its offset held or interpolated over the frames that lack it, and taken from somebody
standing where it was never seen. The result is the truth of what is then drawn, so every point inside the picture is
sure. The picture is cut to the person; legs that the video does not show stay outside it.
"""

from __future__ import annotations

import numpy as np

from mini_model.puppets.body import FACE_POINTS, HEAD_POINTS, HIDDEN, SEEN
from mini_model.puppets.figure import measure, unit
from mini_model.puppets.motions import SIZE, standing
from posegen.driving.skeleton import (
    FACE,
    FEET,
    KEYPOINT_INDEX,
    LEFT_HAND,
    RIGHT_HAND,
    VISIBLE,
    standing_height,
)

SMOOTHING_S = 0.05
"""Standard deviation in seconds of the smoothing over time."""
KNOWN_SHARE = 0.3
"""Least share of frames in which a hand or the face is seen for its own shape to be used."""
LEAST_HEIGHT = 0.62
"""Least share of the picture's height that a person fills, else their way across it is shortened."""

_NOSE, _SHOULDERS = (
    KEYPOINT_INDEX["nose"],
    [KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]],
)
_HANGS_ON = [
    (KEYPOINT_INDEX[f"{side}_{joint}"], [KEYPOINT_INDEX[parent if parent == "nose" else f"{side}_{parent}"]])
    for joint, parent in (
        *(("eye", "nose"), ("ear", "nose"), ("elbow", "shoulder"), ("wrist", "elbow")),
        *(("hip", "shoulder"), ("knee", "hip"), ("ankle", "knee")),
        *(("big_toe", "ankle"), ("small_toe", "ankle"), ("heel", "ankle")),
    )
    for side in ("left", "right")
]
"""A joint, and those whose mean it moves with; nose and shoulders come before."""
_TEMPLATE = standing(0)


def retarget(
    keypoints: np.ndarray, source_rate: float, rate: float = 12.0, size: tuple[int, int] = SIZE
) -> np.ndarray:
    """Detected poses (T, 133, 3) at source_rate frames/s as poses (T', 133, 3) float32 at `rate` to draw.

    A frame without a person is NaN or has confidence 0. size: (width, height) of the picture the person is placed in.
    Raises ValueError where no frame shows a nose or a shoulder and how large the person is.
    """
    seen = np.nan_to_num(keypoints[..., 2]) >= VISIBLE  # (T, 133)
    heights = [standing_height(pose) for pose in np.nan_to_num(keypoints)]
    if not seen[:, [_NOSE, *_SHOULDERS]].any() or not any(heights):
        raise ValueError("these poses show nobody to draw; give some with head or shoulders visible")
    height = float(np.median([value for value in heights if value]))
    points = _completed(keypoints[..., :2].astype(np.float64), seen, height)
    points = _resampled(_smoothed(points, SMOOTHING_S * source_rate), source_rate, rate)
    shown = seen[:, : FEET.stop].mean(axis=0) > 0.2
    placed = _placed(points, shown, size)
    inside = ((placed >= 0) & (placed <= np.array(size) - 1)).all(axis=-1)
    confidence = np.where(_faces_away(placed), HIDDEN, SEEN) * inside
    return np.concatenate([placed, confidence[..., None]], axis=-1).astype(np.float32)


def _completed(points: np.ndarray, seen: np.ndarray, height: float) -> np.ndarray:
    """Places (T, 133, 2) without gaps."""
    full = np.empty_like(points)
    for joint, parents in [*_order_of_root(seen), *_HANGS_ON]:
        base = full[:, parents].mean(axis=1) if parents else np.zeros(2)
        rest = _TEMPLATE[parents, :2].mean(axis=0) if parents else np.zeros(2)
        offset = height * (_TEMPLATE[joint, :2] - rest)
        full[:, joint] = base + _filled(points[:, joint] - base, seen[:, joint], offset)
    for side, hand in (("left", LEFT_HAND), ("right", RIGHT_HAND)):
        full[:, hand] = _hand(full, points[:, hand], seen[:, hand], side, height)
    full[:, FACE] = _face(full, points[:, FACE], seen[:, FACE])
    return full


def _order_of_root(seen: np.ndarray) -> list[tuple[int, list[int]]]:
    """Nose and shoulders, the most often seen first: it hangs on nothing."""
    often = seen.mean(axis=0)
    if often[_NOSE] >= often[_SHOULDERS].max():
        return [(_NOSE, []), *((shoulder, [_NOSE]) for shoulder in _SHOULDERS)]
    first, second = sorted(_SHOULDERS, key=lambda shoulder: -often[shoulder])
    return [(first, []), (second, [first]), (_NOSE, _SHOULDERS)]


def _filled(values: np.ndarray, seen: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Values (T, ...) interpolated over frames that are not seen (T,); all `otherwise` where none is."""
    if not seen.any():
        return np.broadcast_to(otherwise, values.shape)
    frames, known = np.arange(len(values)), np.flatnonzero(seen)
    after = np.clip(np.searchsorted(known, frames), 0, len(known) - 1)
    before = np.clip(np.searchsorted(known, frames, side="right") - 1, 0, len(known) - 1)
    first, last = known[before], known[after]
    share = np.where(last > first, (frames - first) / np.maximum(last - first, 1), 0.0)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[first] + share * values[last]


def _hand(full: np.ndarray, hand: np.ndarray, seen: np.ndarray, side: str, height: float) -> np.ndarray:
    """A hand (T, 21, 2) that turns with its forearm, its shape interpolated, or a relaxed one."""
    elbow, wrist = KEYPOINT_INDEX[f"{side}_elbow"], KEYPOINT_INDEX[f"{side}_wrist"]
    whole = seen.all(axis=1)
    relaxed = _TEMPLATE[LEFT_HAND if side == "left" else RIGHT_HAND, :2] - _TEMPLATE[wrist, :2]
    arm = _complex(unit(_TEMPLATE[wrist, :2] - _TEMPLATE[elbow, :2]))
    shape = height * _complex(relaxed) / arm  # in the forearm's direction
    forearm = _complex(unit(full[:, wrist] - full[:, elbow] + 1e-6))[:, None]
    shapes = _complex(hand - full[:, wrist, None]) / forearm
    shapes = _filled(shapes, whole & (whole.mean() >= KNOWN_SHARE), shape) * forearm
    return full[:, wrist, None] + np.stack([shapes.real, shapes.imag], axis=-1)


def _complex(vectors: np.ndarray) -> np.ndarray:
    return vectors[..., 0] + 1j * vectors[..., 1]


def _face(full: np.ndarray, face: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The face (T, 68, 2) as seen, or a plain one turned as nose, eyes and ears are."""
    whole = seen.mean(axis=1) > 0.9
    middle = full[:, 0, None]
    if whole.mean() >= KNOWN_SHARE:
        return middle + _filled(face - middle, whole, np.zeros(2))
    body = measure(full)
    down = full[:, [5, 6]].mean(axis=1) - full[:, [3, 4]].mean(axis=1)
    down = unit(down)[:, None]
    right = np.stack([down[..., 1], -down[..., 0]], axis=-1)
    local = np.concatenate([HEAD_POINTS[:3], FACE_POINTS])
    cos, sin = np.cos(body.head_yaw)[:, None], np.sin(body.head_yaw)[:, None]
    scale = 1.15 * body.head[:, None]  # the head of the mean build
    across, below = scale * (local[:, 0] * cos + local[:, 2] * sin), scale * local[:, 1]
    places = across[..., None] * right + below[..., None] * down
    shift = (full[:, :3] - places[:, :3]).mean(axis=1, keepdims=True)  # onto nose and eyes
    return places[:, 3:] + shift


def _smoothed(points: np.ndarray, frames: float) -> np.ndarray:
    """Points (T, K, 2) averaged over time with a Gaussian of that standard deviation in frames."""
    distance = np.arange(len(points))[:, None] - np.arange(len(points))
    weights = np.exp(-0.5 * (distance / max(frames, 1e-3)) ** 2)
    return np.einsum("ts,skx->tkx", weights / weights.sum(axis=1, keepdims=True), points)


def _resampled(points: np.ndarray, source_rate: float, rate: float) -> np.ndarray:
    """Points at another rate of frames, the first frame kept, interpolated between frames."""
    count = int((len(points) - 1) * rate / source_rate + 1e-6) + 1
    at = np.arange(count) * source_rate / rate
    before = np.minimum(at.astype(int), len(points) - 1)
    after = np.minimum(before + 1, len(points) - 1)
    share = (at - before)[:, None, None]
    return (1 - share) * points[before] + share * points[after]


def _placed(points: np.ndarray, shown: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points (T, 133, 2) moved and scaled so that the joints that were shown (23,) fill the picture."""
    width, height = size
    visible = points[:, : FEET.stop][:, shown]
    full_body = shown[[KEYPOINT_INDEX["left_ankle"], KEYPOINT_INDEX["right_ankle"]]].any()
    person = float(np.median(np.ptp(visible[..., 1], axis=1)))
    head = 0.11 * float(np.median(measure(points).height))
    top, bottom = visible[..., 1].min() - head, visible[..., 1].max() + 0.3 * head * full_body
    left, right = visible[..., 0].min() - 0.5 * head, visible[..., 0].max() + 0.5 * head
    scale = min(height / (bottom - top), width / (right - left))
    larger = min(LEAST_HEIGHT * height / (person + head), height / (bottom - top))
    middle = visible.mean(axis=1)[:, 0]  # (T,) the way across the picture
    centre, moved = (left + right) / 2, points.copy()
    if larger > scale:
        own = float(np.median(np.ptp(visible[..., 0], axis=1))) + head
        travel = max(right - left - own, 1e-6)
        keep = np.clip((width / larger - own) / travel, 0, 1)
        moved[..., 0] -= ((1 - keep) * (middle - centre))[:, None]
        scale = larger
    shift = np.array([width / 2 - scale * centre, height - scale * bottom])
    return scale * moved + shift


def _faces_away(points: np.ndarray) -> np.ndarray:
    """Which points (T, 133) lie on the side of the head that the camera does not see."""
    yaw = measure(points).head_yaw[:, None]
    away = np.zeros(points.shape[:2], bool)
    for part, local in ((slice(0, 5), HEAD_POINTS), (FACE, FACE_POINTS)):
        outward = unit(local * [1, 0, 1] + [0, 0, 0.012])
        away[:, part] = outward[:, 2] * np.cos(yaw) - outward[:, 0] * np.sin(yaw) < -0.1
    return away
