"""A caption composed from what was measured, for where no model captions: it says no more than that.

Nor what is worn: colours read off the picture were wrong for three of ten people, a tie or stripes being taken for the
whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.score.person import WRISTS
from posegen.driving.framing import framing_of
from posegen.driving.skeleton import BODY, VISIBLE, standing_height

COMPOSED_SUBJECT = "person"
"""No model at hand on a CPU tells women from men, so nothing is claimed."""


@dataclass(frozen=True)
class Caption:
    """A sentence and the words it was made of: subject is one of SUBJECT_WORDS, framing one of close-up,
    half-body, full-body and distant, motion one of still, gesturing, walking, running, dancing and moving."""

    text: str
    subject: str
    framing: str
    motion: str


@dataclass(frozen=True)
class Measured:
    """What a composed caption is made of; None where it could not be measured.

    keypoints: (T, 133, 3) of the subject, NaN where it is not seen; times: (T,) seconds; size: (width,
    height) of the picture in the keypoints' pixels. The rest as in measures.py.
    """

    keypoints: np.ndarray
    times: np.ndarray
    size: tuple[int, int]
    camera_motion: float | None = None
    background_brightness: float | None = None


def compose_caption(measured: Measured) -> Caption:
    """A caption from measurements alone; the same for the same measurements."""
    poses, times = _seen(measured.keypoints, measured.times)
    framing, motion = framing_of(poses, measured.size), motion_of(poses, times)
    text = ", ".join(
        part
        for part in (
            f"A {COMPOSED_SUBJECT}",
            _moving(motion, poses),
            f"seen {_VIEWS[framing]}",
            _background(measured.background_brightness),
            _camera(measured.camera_motion),
        )
        if part
    )
    return Caption(f"{text}.", COMPOSED_SUBJECT, framing, motion)


def _moving(motion: str, poses: np.ndarray) -> str:
    """The motion in words; nobody is said to keep still whose wrists (n, 133, 3) are hardly seen."""
    if motion == "still":
        return "keeping still" if (poses[:, WRISTS, 2] >= VISIBLE).all(axis=1).mean() > 0.5 else ""
    return "moving about" if motion == "moving" else motion


_VIEWS = {
    "close-up": "in close-up",
    "half-body": "from the waist up",
    "full-body": "from head to foot",
    "distant": "from a distance",
}


def _seen(keypoints: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The poses (n, 133, 3) and times of frames with the subject, ten a second at most."""
    seen = np.flatnonzero(~np.isnan(keypoints[:, 0, 0]))
    _, first = np.unique(np.floor(times[seen] * 10 + 1e-6), return_index=True)
    return keypoints[seen[first]], times[seen[first]]


def motion_of(poses: np.ndarray, times: np.ndarray) -> str:
    """The kind of motion of poses (n, 133, 3), by the speed of joints in person heights a second."""
    if len(poses) < 2:
        return "still"
    body = np.where(poses[:, BODY, 2:] >= VISIBLE, poses[:, BODY, :2], np.nan)  # (n, 17, 2)
    height = float(np.median([standing_height(pose) for pose in poses])) or np.inf
    centre = _centre(poses[:, [5, 6, 11, 12]])  # of shoulders and hips
    arms = _speed(body[:, [7, 8, 9, 10]] - centre, times) / height
    legs = _speed(body[:, [13, 14, 15, 16]] - centre, times) / height
    travel = _travel(centre[:, 0], times) / height
    if travel > 0.25 and legs > 0.3:
        return "running" if travel > 1.2 else "walking"
    if legs > 0.25 and arms > 0.3:
        return "dancing"
    if arms > 0.15:
        return "gesturing"
    return "moving" if max(travel, legs, _speed(centre, times) / height) > 0.12 else "still"


def _centre(points: np.ndarray) -> np.ndarray:
    """The mean (n, 1, 2) of the visible ones of points (n, k, 3); NaN where there are none."""
    visible = (points[..., 2:] >= VISIBLE).astype(float)
    with np.errstate(invalid="ignore"):
        return (points[..., :2] * visible).sum(axis=1, keepdims=True) / visible.sum(axis=1, keepdims=True)


def _speed(points: np.ndarray, times: np.ndarray) -> float:
    """Mean speed, pixels a second, of points (n, k, 2); unseen ones are NaN, nothing seen is 0."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=2) / np.diff(times)[:, None]
    return float(np.nanmean(steps)) if np.isfinite(steps).any() else 0.0


def _travel(points: np.ndarray, times: np.ndarray) -> float:
    """Median way, pixels a second, that a point (n, 2) gets along in a second, there and back not counted."""
    ahead = np.searchsorted(times, times + 1.0)
    ways = [np.linalg.norm(points[j] - points[i]) for i, j in enumerate(ahead) if j < len(times)]
    return float(np.nanmedian(ways)) if np.isfinite(ways).any() else 0.0


def _background(brightness: float | None) -> str:
    if brightness is None or 0.3 <= brightness <= 0.65:
        return ""
    return "in front of a bright background" if brightness > 0.65 else "in front of a dark background"


def _camera(motion: float | None) -> str:
    if motion is None:
        return ""
    return "filmed by a still camera" if motion < 0.01 else "filmed by a moving camera"
