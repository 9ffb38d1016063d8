"""Whether it is still the same person: the colours of their shirt, legs, skin and hair, where the pose says these are.

It tells persons apart by what they wear and how they look as a whole, and needs no network; faces of real people are
compared in `faces.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from posegen.driving.skeleton import KEYPOINT_INDEX, VISIBLE
from posegen.evaluation.colour import lab


@dataclass(frozen=True)
class Place:
    """Where a part of a person is: the weighted mean of joints, to be believed where some joints are seen."""

    weights: dict[str, float]
    needs: tuple[str, ...]


PLACES: dict[str, tuple[Place, ...]] = {
    "shirt": (
        Place(
            {"left_shoulder": 0.3, "right_shoulder": 0.3, "left_hip": 0.2, "right_hip": 0.2},
            ("left_shoulder", "right_shoulder"),
        ),
    ),
    "legs": tuple(
        Place({f"{side}_hip": 0.7, f"{side}_knee": 0.3}, (f"{side}_hip", f"{side}_knee"))
        for side in ("left", "right")
    ),
    # From the nose towards the middle of the head, so that in profile it is the cheek.
    "skin": (Place({"nose": 0.7, "left_ear": 0.15, "right_ear": 0.15}, ("nose",)),),
    # Above the ears by half of what they are above the shoulders.
    "hair": (
        Place(
            {"left_ear": 0.75, "right_ear": 0.75, "left_shoulder": -0.25, "right_shoulder": -0.25},
            ("left_shoulder", "right_shoulder"),
        ),
    ),
}


def part_colours(video: np.ndarray, keypoints: np.ndarray, person: np.ndarray) -> dict[str, np.ndarray]:
    """Lab (n, 3) of a video at the places of shirt, legs, skin and hair, over all frames in which they are seen.

    video: (T, H, W, 3) uint8; keypoints: (T, 133, 3); person: (T, H, W) bool, where somebody is: a place outside it
    is not seen. A part that is never seen is left out.
    """
    blurred = np.stack([cv2.blur(frame, (3, 3)) for frame in video])
    found = {}
    for part, places in PLACES.items():
        seen = [_colours_at(blurred, keypoints, person, place) for place in places]
        if sum(map(len, seen)):
            found[part] = lab(np.concatenate(seen))
    return found


def _colours_at(video: np.ndarray, keypoints: np.ndarray, person: np.ndarray, place: Place) -> np.ndarray:
    """RGB (n, 3) uint8 of the frames that show a place."""
    height, width = video.shape[1:3]
    joints = keypoints[:, [KEYPOINT_INDEX[name] for name in place.weights], :2]
    points = np.rint(joints.transpose(0, 2, 1) @ np.array([*place.weights.values()])).astype(int)  # (T, 2)
    x, y = points.T
    sure = (keypoints[:, [KEYPOINT_INDEX[name] for name in place.needs], 2] >= VISIBLE).all(axis=1)
    frames = np.flatnonzero(sure & (x >= 0) & (x < width) & (y >= 0) & (y < height))
    frames = frames[person[frames, y[frames], x[frames]]]
    return video[frames, y[frames], x[frames]]


def part_distances(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Lab distance of mean colours, as `part_colours` gives them, of each part that both have."""
    return {
        part: float(np.linalg.norm(found[part].mean(0) - wanted[part].mean(0)))
        for part in wanted
        if part in found
    }


def identity_error(video: np.ndarray, truth: np.ndarray, keypoints: np.ndarray, person: np.ndarray) -> float:
    """How far the person's colours are from the true ones: the mean over the parts; NaN where none is seen.

    video, truth: (T, H, W, 3) uint8; keypoints, person: the truth's, as in `part_colours`.
    """
    distances = part_distances(*(part_colours(frames, keypoints, person) for frames in (video, truth)))
    return float(np.mean([*distances.values()])) if distances else float("nan")


def mean_of_parts(curves: Sequence[np.ndarray]) -> np.ndarray:
    """The mean (S,) over parts of their distances (S,) in each second, NaN where a part is not seen.

    A part counts as it was when last seen, or first is, so that one that comes and goes makes no curve rise or fall.
    """
    filled = []
    for curve in curves:
        there = np.flatnonzero(np.isfinite(curve))
        if len(there):
            last = np.searchsorted(there, np.arange(len(curve)), side="right") - 1
            filled.append(curve[there[last.clip(0)]])
    return np.mean(filled, axis=0) if filled else np.full(len(curves[0]), np.nan)
